"""Tokens that ``jaxtok encode`` stored, as training and evaluation examples of a generator."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from jaxtok.data import images, labels, sources, token_records
from jaxtok.data.sources import CorruptRecord
from jaxtok.text.bytes import Bytes


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The static shape of a batch: of codes (``codebook`` above 0) or of latents."""

    shape: tuple[int, int, int]
    codebook: int
    ids: int = 0
    length: int = 0


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Grids of tokens with a class and perhaps a caption.

    They are ``codes`` int32 [h, w, Q], or ``latents`` float32 [h, w, D] of mean 0, deviation 1.

    Latents are normalised per channel by the statistics of the train split, which lie beside them.

    Attributes:
      shape: (h, w, Q) or (h, w, D), by which a set of another shape is refused; () takes any.
      codebook: codes that there are, 0 for latents; -1 takes any.
      label: what ``label`` counts, see ``jaxtok.data.labels``.
      flip: every other training example is of the mirrored image; the set must hold those.
      fingerprint: of the tokenizer, by which tokens of another one are refused, such as
        ``dict(target="jaxtok.fingerprint:of_run", run="runs/fvq")``; "" takes any.
      language: of the caption, "" for none; ``ids`` and ``text`` as in :class:`jaxtok.data.images.Images`.
    """

    shape: tuple[int, ...] = ()
    codebook: int = -1
    label: str = "group"
    flip: bool = False
    fingerprint: str = ""
    language: str = ""
    ids: int = 64
    text: Any = dataclasses.field(default_factory=Bytes)

    kind = "token grids"
    crop: ClassVar[tuple[float, ...]] = ()  # what plans of images may have besides

    def __post_init__(self):
        labels.check(self.label)
        if self.shape and (len(self.shape) != 3 or min(self.shape) < 1):
            raise ValueError(f"examples: shape {tuple(self.shape)}: expected () or (height, width, channels)")

    def shapes(self, training: bool) -> tuple[Bucket, ...]:
        """The one bucket; ValueError where it is known from the source alone."""
        if not self.shape or self.codebook < 0:
            raise ValueError("examples: shape and codebook: expected both, to know a batch without its source")
        return (Bucket(self.shape[:3], self.codebook, self.ids if self.language else 0),)  # ty: ignore[invalid-argument-type]

    def classes(self, index: Any) -> list[str]:
        """What the numbers of ``label`` stand for."""
        return labels.names(self.label, index)

    def labels(self, index: Any) -> np.ndarray:
        """The class of every grid, int32 [n]."""
        return labels.numbers(self.label, index)

    def planner(self, index: token_records.Index, chosen: np.ndarray, *, training: bool) -> images.Planner:
        """Plans over the positions ``chosen`` of an index.

        Raises:
          ValueError: for tokens of another tokenizer, shape or codebook, without mirrored images where ``flip`` wants
            them, latents without statistics, or a label that some grids lack.
        """
        found = index.tokens
        check(found, self.fingerprint)
        shape, codebook = tuple(found["shape"]), int(found["codebook"])
        if self.shape and tuple(self.shape) != shape:
            raise ValueError(f"examples: shape {tuple(self.shape)}: the source holds tokens of shape {shape}")
        if self.codebook not in (-1, codebook):
            kinds = [f"{size} codes" if size else "latents" for size in (self.codebook, codebook)]
            raise ValueError(f"examples: codebook {self.codebook}: expected {kinds[0]}, the source holds {kinds[1]}")
        if self.flip and not found["flip"]:
            raise ValueError("examples: flip: the source holds no tokens of mirrored images; encode it with --flip")
        if not codebook:
            statistics(found)
        whole = dataclasses.replace(self, shape=shape, codebook=codebook)
        return images.Planner(whole, index, chosen, training)

    def make(self, plan: images.Plan, bucket: Bucket, source: sources.Source) -> dict[str, np.ndarray]:
        """Reads a planned example: codes [h, w, Q] or latents [h, w, D]; label; text_ids, text_mask [N].

        Raises:
          CorruptRecord: when the record cannot be used.
        """
        position = plan.records[0]
        try:
            record = source.record(position)
        except ValueError as error:
            raise CorruptRecord(source, position, str(error)) from error
        grid = record.tokens[int(plan.flip)]
        if grid.shape != bucket.shape:
            raise CorruptRecord(source, position, f"its tokens have shape {grid.shape}, expected {bucket.shape}")
        if bucket.codebook:
            out = {"codes": grid.astype(np.int32)}
        else:
            mean, deviation = statistics(source.index.tokens)
            out = {"latents": (grid - mean) / deviation}
        if self.label:
            out["label"] = labels.numbers(self.label, source.index, position)
        if bucket.ids:
            try:
                out |= self.read(record.captions.get(self.language, ""))
            except ValueError as error:
                raise CorruptRecord(source, position, f"its caption: {error}") from error
        return out

    def read(self, text: str) -> dict[str, np.ndarray]:
        """A caption as the examples hold it: text_ids int32 [ids] and text_mask bool [ids]."""
        return images.padded(self.text, text, self.ids)

    def blank(self, bucket: Bucket) -> dict[str, np.ndarray]:
        """What stands in a row that is no example: zeros, of class 0."""
        name, dtype = ("codes", np.int32) if bucket.codebook else ("latents", np.float32)
        out: dict[str, np.ndarray] = {name: np.zeros(bucket.shape, dtype)}
        out |= {"label": np.zeros((), np.int32)} if self.label else {}
        return out | (images.no_text(self.text, bucket.ids) if bucket.ids else {})


def describe(source: str) -> dict[str, Any]:
    """What the manifest of a set of tokens says of them: fingerprint, source, shape, codebook, flip, mean, deviation.

    Raises:
      ValueError: when the source holds no tokens, or is not whole.
    """
    index = sources.open_source(source).index
    if not hasattr(index, "tokens"):
        raise ValueError(f"data source {source!r}: holds {index.kind}, expected tokens written by jaxtok encode")
    return dict(index.tokens)


def check(manifest: Mapping[str, Any], fingerprint: str) -> None:
    """Refuses tokens of another tokenizer.

    Args:
      manifest: from ``describe``.
      fingerprint: of the tokenizer (``jaxtok.fingerprint``); "" takes any.

    Raises:
      ValueError: naming both fingerprints.
    """
    if fingerprint and manifest["fingerprint"] != fingerprint:
        raise ValueError(
            f"tokens of {manifest['source']}: made by another tokenizer (fingerprint {manifest['fingerprint'][:12]}, "
            f"expected {fingerprint[:12]}); encode them again with this one"
        )


def statistics(manifest: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of the latents of the train split, float32 [D] each; a constant channel has deviation 1.

    Raises:
      ValueError: for codes, or where the train split was not encoded.
    """
    if not manifest["mean"]:
        what = "codes" if manifest["codebook"] else "latents without statistics, since its train split is missing"
        raise ValueError(f"tokens of {manifest['source']}: expected latents with their statistics, found {what}")
    mean, deviation = (np.asarray(manifest[name], np.float32) for name in ("mean", "deviation"))
    return mean, np.where(deviation > 0, deviation, np.float32(1))
