"""Images as training and evaluation examples: crops and flips are planned, and decoded when they are made."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtok.data import image_records, labels, picture, sources
from jaxtok.data.cache import cache_of
from jaxtok.data.sources import CorruptRecord
from jaxtok.text.bytes import Bytes


@dataclasses.dataclass(frozen=True)
class Plan:
    """An example before decoding.

    Attributes:
      records: one position in the source.
      flip: left and right are exchanged.
      crop: four numbers in [0, 1) that choose area, shape and place of the crop; empty for the middle square.
      length: all images are equally long.
    """

    records: tuple[int, ...]
    flip: bool = False
    crop: tuple[float, ...] = ()
    length: int = 0


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The static shape of a batch: the side in pixels, and ids of text (0 for none)."""

    size: int
    ids: int
    length: int = 0


@dataclasses.dataclass(frozen=True)
class Images:
    """Square RGB images on white, ``image`` float32 [size, size, 3] in [-1, 1], with a class and perhaps a caption.

    The middle square of an image is taken and resized; in training, where ``crop`` is given, a random part instead
    (random resized crop, Szegedy et al. 2015, arXiv 1409.4842). Decoded images are kept as uint8, cached or not, so
    that a cache changes no value.

    Attributes:
      size: of the examples, in pixels.
      label: what ``label`` counts: ``group`` (the classes of the source in alphabetical order), ``style``,
        ``group_style`` (group * number of styles + style), or "" for no label.
      flip: exchanges left and right of every other training example.
      crop: (low, high), the share of the area that a training crop covers; empty for the middle square.
      ratio: (low, high) of a training crop's width to its height, before it is resized to a square.
      filter: of the resize, one of ``picture.FILTERS``.
      language: of the caption that ``text_ids`` and ``text_mask`` hold; "" for none. Images without one, and captions
        of more than ``ids`` ids, are left out.
      ids: the ids of text that an example holds.
      text: the tokenizer of captions.
      cache: decoded images kept in memory per process, in megabytes; 0 for none.
    """

    size: int = 32
    label: str = "group"
    flip: bool = False
    crop: tuple[float, ...] = ()
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    filter: str = "area"
    language: str = ""
    ids: int = 64
    text: Any = dataclasses.field(default_factory=Bytes)
    cache: int = 320

    kind = "images"

    def __post_init__(self):
        if self.size < 1 or self.ids < 1:
            raise ValueError(f"examples: size {self.size} and ids {self.ids}: expected positive numbers")
        labels.check(self.label)
        if self.crop and not (len(self.crop) == 2 and 0 < self.crop[0] <= self.crop[1] <= 1):
            raise ValueError(f"examples: crop {tuple(self.crop)}: expected () or 0 < low <= high <= 1")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"examples: ratio {tuple(self.ratio)}: expected 0 < low <= high")
        if self.filter not in picture.FILTERS:
            raise ValueError(f"examples: filter {self.filter!r}: expected one of {', '.join(picture.FILTERS)}")

    def shapes(self, training: bool) -> tuple[Bucket, ...]:
        """The one bucket."""
        return (Bucket(self.size, self.ids if self.language else 0),)

    def classes(self, index: image_records.Index) -> list[str]:
        """What the numbers of ``label`` stand for."""
        return labels.names(self.label, index)

    def labels(self, index: image_records.Index) -> np.ndarray:
        """The class of every image, int32 [n]."""
        return labels.numbers(self.label, index)

    def planner(self, index: image_records.Index, chosen: np.ndarray, *, training: bool) -> "Planner":
        """Plans over the positions ``chosen`` of an index.

        Raises:
          ValueError: for captions in a language that the source does not have, or a label that some images lack.
        """
        return Planner(self, index, chosen, training)

    def make(self, plan: Plan, bucket: Bucket, source: sources.Source) -> dict[str, np.ndarray]:
        """Decodes a planned example: image [S, S, 3]; label; text_ids, text_mask [N].

        Raises:
          CorruptRecord: when the record cannot be used.
        """
        position = plan.records[0]
        pixels, caption = self.picture(source, position, whole=bool(plan.crop))
        if plan.crop:
            pixels = picture.resize(pixels, self.size, box=self.box(plan.crop, *pixels.shape[:2]), filter=self.filter)
        out = {"image": picture.to_float(pixels[:, ::-1] if plan.flip else pixels)}
        if self.label:
            out["label"] = labels.numbers(self.label, source.index, position)
        if bucket.ids:
            try:
                out |= self.read(caption)
            except ValueError as error:
                raise CorruptRecord(source, position, f"its caption: {error}") from error
        return out

    def read(self, text: str) -> dict[str, np.ndarray]:
        """A caption as the examples hold it: text_ids int32 [ids] and text_mask bool [ids].

        Raises:
          ValueError: for an empty text, or one of more ids.
        """
        return padded(self.text, text, self.ids)

    def blank(self, bucket: Bucket) -> dict[str, np.ndarray]:
        """What stands in a row that is no example: grey, of class 0, with one id of padding."""
        out = {"image": np.zeros((bucket.size, bucket.size, 3), np.float32)}
        if self.label:
            out["label"] = np.zeros((), np.int32)
        return out | (no_text(self.text, bucket.ids) if bucket.ids else {})

    def box(self, crop: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
        """Left, upper, right, lower of the crop that four numbers in [0, 1) choose, within the image."""
        area, shape, x, y = crop
        low, high = self.crop
        share = (low + (high - low) * area) * height * width
        ratio = math.exp(math.log(self.ratio[0]) + math.log(self.ratio[1] / self.ratio[0]) * shape)
        wide, tall = min(math.sqrt(share * ratio), width), min(math.sqrt(share / ratio), height)
        left, upper = x * (width - wide), y * (height - tall)
        return left, upper, min(left + wide, width), min(upper + tall, height)

    def picture(self, source: sources.Source, position: int, *, whole: bool = False) -> tuple[np.ndarray, str]:
        """One image uint8 [S, S, 3] (``whole``: [H, W, 3], neither cropped nor resized) and its caption.

        Raises:
          CorruptRecord: when it cannot be used.
        """
        size = 0 if whole else self.size
        cache = cache_of(source, ("images", size, self.filter, self.language), self.cache)
        if (hit := cache.get(position)) is None:
            try:
                record = source.record(position)
                pixels = picture.decode(record.image, f"{source.name}, {record.file}")
            except ValueError as error:
                raise CorruptRecord(source, position, str(error)) from error
            if size:
                pixels = picture.resize(pixels, size, filter=self.filter)
            hit = pixels, record.captions.get(self.language, "")
            cache.put(position, hit)
        return hit


def padded(tokenizer: Any, text: str, length: int) -> dict[str, np.ndarray]:
    """A text as examples hold it: text_ids int32 [length] and text_mask bool [length].

    Raises:
      ValueError: for an empty text, or one of more ids.
    """
    found = tokenizer.encode(text)
    if not 0 < len(found) <= length:
        raise ValueError(f"text {text!r}: has {len(found)} ids, expected 1 to {length}")
    ids = np.full(length, tokenizer.pad_id, np.int32)
    ids[: len(found)] = found
    return {"text_ids": ids, "text_mask": np.arange(length) < len(found)}


def no_text(tokenizer: Any, length: int) -> dict[str, np.ndarray]:
    """What stands for no text: one id of padding."""
    return {"text_ids": np.full(length, tokenizer.pad_id, np.int32), "text_mask": np.arange(length) < 1}


class Planner:
    """Draws crops and flips; a pure function of the anchor and the generator that is passed in."""

    def __init__(self, examples: Any, index: image_records.Index, chosen: np.ndarray, training: bool):
        self.examples, self.training = examples, training
        self.buckets = examples.shapes(training)
        self.anchors = np.asarray(chosen, np.int64)
        self.needs = "is usable"
        if examples.language:
            self.anchors = self.anchors[self._captioned(index)[self.anchors]]
            self.needs = f"has a caption in {examples.language!r} of at most {examples.ids} ids"
        self.left_out = len(chosen) - len(self.anchors)
        self._check_labels(index)
        self._class = examples.labels(index)
        self.members: Mapping[int, np.ndarray] = {
            int(label): self.anchors[self._class[self.anchors] == label]
            for label in np.unique(self._class[self.anchors])
        }

    def _captioned(self, index: image_records.Index) -> np.ndarray:
        if self.examples.language not in index.captions:
            known = ", ".join(map(repr, index.captions)) or "none"
            raise ValueError(f"examples: language {self.examples.language!r}: the source has captions in {known}")
        lengths = index.captions[self.examples.language]
        ids = np.array([self.examples.text.length_for(int(length)) for length in lengths])
        return (lengths > 0) & (ids <= self.examples.ids)

    def _check_labels(self, index: image_records.Index) -> None:
        for name in self.examples.label.split("_") if self.examples.label else ():
            names, codes = (index.groups, index.group) if name == "group" else (index.styles, index.style)
            if len(names) > 1 and "" in names:
                first = index.file[int(np.argmax(codes == names.index("")))]
                raise ValueError(
                    f"examples: label {self.examples.label!r}: {(codes == names.index('')).sum()} images of the source "
                    f"have no {name}, the first is {first!r}; give every image one, or set label=''"
                )

    def single(self, position: int) -> Plan:
        """The example of an image as it is."""
        return Plan((int(position),))

    def plan(self, anchor: int, rng: np.random.Generator) -> Plan:
        """The example of an anchor, with what is random about it."""
        if not self.training:
            return self.single(anchor)
        flip = self.examples.flip and bool(rng.random() < 0.5)
        return Plan((int(anchor),), flip, tuple(rng.random(4).tolist()) if self.examples.crop else ())

    def bucket(self, plans: Sequence[Plan]) -> Bucket:
        """The one bucket."""
        return self.buckets[0]

    def replacement(self, plan: Plan, bad: Sequence[int], seed: int, bucket: Bucket) -> Plan:
        """Another image of the class of ``bad[0]`` in its place, else another of any; a pure function of its arguments.

        Raises:
          ValueError: when no record is left.
        """
        for members in (self.members[int(self._class[bad[0]])], self.anchors):
            left = members[~np.isin(members, bad)]
            if left.size:
                other = int(left[np.random.default_rng((seed, *bad)).integers(left.size)])
                return dataclasses.replace(plan, records=(other,))
        raise ValueError(f"no other record fits in the place of corrupt record {bad[-1]}")
