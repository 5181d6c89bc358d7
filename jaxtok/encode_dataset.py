"""``jaxtok encode --source``: all images of a source as tokens, once, for the generators that live on them.

The output is a data source, ``tokens:FOLDER``: shards of :class:`jaxtok.data.token_records.TokenGrid`, ``index.tsv``
and ``manifest.json``, of which ``tokens`` holds

    fingerprint  of the tokenizer (``jaxtok.fingerprint``)
    source       the images, and ``index``, a digest of which they were; ``size`` in pixels, ``filter``, ``split``
    shape        (h, w, Q) of codes or (h, w, D) of latents
    codebook     codes that there are; 0 for latents
    flip         whether the tokens of the mirrored images lie beside them (they are not the mirrored tokens)
    mean, deviation  of latents, per channel, over the train split; of codes empty

``plan.json`` comes first and names all of this but the last; each shard counts with its ``.json``, which comes after
it; the manifest comes last. So a run that was stopped goes on with the first shard that is not whole, and its files are
those of a run that was not.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxtok import recipes
from jaxtok.build import build
from jaxtok.data import pack, records, sources, token_records
from jaxtok.files import write_whole
from jaxtok.fingerprint import fingerprint
from jaxtok.image_model import ImageModel
from jaxtok.model import load

SHARD = 4096  # images
BATCH = 32
log = logging.getLogger("jaxtok")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What was written: ``str()`` is a line for the terminal."""

    out: str
    images: int
    shards: int
    encoded: int
    tokens: Mapping[str, Any]

    def __str__(self) -> str:
        height, width, channels = self.tokens["shape"]
        what = f"of {self.tokens['codebook']} codes" if self.tokens["codebook"] else "latents"
        both = ", mirrored ones too" if self.tokens["flip"] else ""
        found = f" ({self.shards - self.encoded} shards were there)" if self.encoded < self.shards else ""
        return (
            f"{self.out}: {self.images} images as {height} x {width} x {channels} tokens {what}{both}, "
            f"{self.shards} shards{found}, tokenizer {self.tokens['fingerprint'][:12]}"
        )


@dataclasses.dataclass(frozen=True)
class _Work:
    """The images, how they are read, and the tokenizer."""

    model: ImageModel
    examples: Any
    source: sources.Source
    positions: np.ndarray
    flip: bool


def encode_dataset(
    model: epath.PathLike,
    source: str,
    output: epath.PathLike,
    *,
    split: str = "",
    flip: bool = False,
    shards: int = 0,
    size: int = 0,
) -> Encoded:
    """Encodes all images of a source; goes on where an earlier call was stopped.

    Images are read as the tokenizer's own evaluation reads them: the middle square, resized.

    Args:
      model: the directory of an image tokenizer (see ``jaxtok.load``).
      source: of images, such as ``samples:emoji``.
      output: an empty or new folder, or one that the same call began; may be on an object store.
      split: only this one; "" for all.
      flip: the mirrored images too.
      shards: how many files; 0 takes one for every 4096 images.
      size: of the images in pixels; 0 takes the tokenizer's.

    Raises:
      ValueError: in one sentence, for a model or source of something else, or an output of another tokenizer or other
        settings.
    """
    if shards < 0 or size < 0:
        raise ValueError(f"shards {shards} and size {size}: expected 0 (automatic) or positive numbers")
    if split and split not in records.SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(records.SPLITS)}, or none for all")
    work, mark = _open(model, source, split, flip, size)
    count = min(shards or -(-len(work.positions) // SHARD), len(work.positions))
    plan = {
        "fingerprint": mark, "source": source, "index": _digest(work), "split": split, "flip": flip,
        "size": work.examples.size, "filter": work.examples.filter, "shards": count,
    }  # fmt: skip
    target = epath.Path(output)
    _begin(target, plan)
    done = target / "manifest.json"
    if done.exists():
        found = json.loads(done.read_text())
        return Encoded(os.fspath(output), found["records"], count, 0, found["tokens"])
    parts = np.array_split(work.positions, count)
    names = [f"shard-{number:05d}-of-{count:05d}" for number in range(count)]
    encoded = 0
    for name, positions in zip(names, parts):
        if not _whole(target, name):
            _encode_shard(work, target, name, positions)
            encoded += 1
            log.info("%s: %s of %d is written, %d images", target, name, count, len(positions))
    manifest = _commit(work, target, names, plan)
    return Encoded(os.fspath(output), len(work.positions), count, encoded, manifest["tokens"])


def _open(model: epath.PathLike, source: str, split: str, flip: bool, size: int) -> tuple[_Work, str]:
    """The work, and the tokenizer's fingerprint."""
    config = recipes.of_run(model)
    loaded = load(model)
    if not isinstance(loaded, ImageModel):
        raise ValueError(
            f"model {os.fspath(model)!r}: sets of tokens are made of images so far, found a {type(loaded).__name__}"
        )
    examples = build(config["data"]["examples"])
    if getattr(examples, "kind", "") != "images":
        raise ValueError(f"model {os.fspath(model)!r}: expected a tokenizer trained on images, found another")
    examples = dataclasses.replace(
        examples, size=size or examples.size, label="", language="", crop=(), flip=False, cache=0
    )
    if examples.size % loaded.factor:
        raise ValueError(f"size {examples.size}: expected a multiple of the tokenizer's {loaded.factor} pixels a token")
    opened = sources.open_source(source)
    if opened.index.kind != "images":
        raise ValueError(f"data source {source!r}: holds {opened.index.kind}, expected images; speech is to come")
    chosen = opened.index.select(split) if split else np.arange(len(opened.index))
    if not len(chosen):
        raise ValueError(f"data source {source!r}: holds no images of split {split!r}")
    return _Work(loaded, examples, opened, chosen, flip), fingerprint(config["model"], loaded.variables)


def _digest(work: _Work) -> str:
    """Of the images' names and splits, and of their contents where the source's index knows them, in order."""
    index = work.source.index
    lines = (f"{index.file[at]}\t{index.digest[at]}\t{index.split[at]}" for at in work.positions)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _begin(target: epath.Path, plan: Mapping[str, Any]) -> None:
    """Writes the plan into a new folder, or compares it with the one that is there."""
    file = target / "plan.json"
    if not file.exists():
        names = sorted(path.name for path in target.iterdir()) if target.exists() else []
        names = [name for name in names if not name.startswith(".plan.json.")]
        if names:
            raise ValueError(f"output {os.fspath(target)!r}: holds {names[0]!r}, expected a new or empty folder")
        write_whole(file, json.dumps(plan, indent=1))
        return
    found = json.loads(file.read_text())
    if found["fingerprint"] != plan["fingerprint"]:
        raise ValueError(
            f"output {os.fspath(target)!r}: holds tokens of another tokenizer (fingerprint "
            f"{found['fingerprint'][:12]}, this one has {plan['fingerprint'][:12]}); choose another folder"
        )
    for key, value in plan.items():
        if found.get(key) != value:
            raise ValueError(
                f"output {os.fspath(target)!r}: was begun with {key}={found.get(key)!r}, now it is {value!r}; "
                "choose another folder"
            )


def _whole(target: epath.Path, name: str) -> bool:
    """Whether a shard and its commit marker are there and agree."""
    shard, marker = target / f"{name}.array_record", target / f"{name}.json"
    if not (marker.exists() and shard.exists()):
        return False
    said, data = json.loads(marker.read_text()), shard.read_bytes()
    return said["bytes"] == len(data) and said["sha256"] == hashlib.sha256(data).hexdigest()


def _encode_shard(work: _Work, target: epath.Path, name: str, positions: np.ndarray) -> None:
    """Writes one shard, then its marker, which also holds what the index and the statistics need."""
    rows: list[list[str]] = []
    moments = Moments()
    shape: list[int] = []

    def items() -> Iterator[bytes]:
        for grid in _grids(work, positions):
            if grid.split == "train" and grid.tokens.dtype == np.float32:
                moments.add(grid.tokens)
            rows.append(list(token_records.Row.of(grid).cells().values()))
            shape[:] = grid.tokens.shape[1:]
            yield grid.to_bytes()

    shard = target / f"{name}.array_record"
    shard.unlink(missing_ok=True)
    written = pack.write_shard(shard, items())
    said = {"file": shard.name, "records": len(positions), **written}
    write_whole(
        target / f"{name}.json", json.dumps(said | {"shape": shape, "rows": rows, "moments": moments.to_json()})
    )


def _grids(work: _Work, positions: np.ndarray) -> Iterator[token_records.TokenGrid]:
    """The tokens of images, in order."""
    index = work.source.index
    for first in range(0, len(positions), BATCH):
        part = positions[first : first + BATCH]
        images = np.stack([work.examples.picture(work.source, int(at))[0] for at in part])
        both = [images, images[:, :, ::-1]] if work.flip else [images]
        tokens = work.model.encode(np.concatenate(both))
        found = np.asarray(tokens.latents if tokens.codes is None else tokens.codes)
        grids = np.stack(np.split(found, len(both)), axis=1)  # [B, 1 or 2, h, w, C]
        for at, grid in zip(part, grids):
            row, captions = index.row(int(at)), work.source.record(int(at)).captions
            yield token_records.TokenGrid(grid, row.file, row.group, row.style, row.item, captions, row.split)


def _commit(work: _Work, target: epath.Path, names: list[str], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the index and the manifest, and removes the markers, which are of no use then."""
    markers = [json.loads((target / f"{name}.json").read_text()) for name in names]
    index = token_records.Index(token_records.Row.parse(cells) for marker in markers for cells in marker["rows"])
    text = index.to_tsv()
    write_whole(target / "index.tsv", text)
    moments = Moments()
    for marker in markers:
        moments.merge(Moments.from_json(marker["moments"]))
    quantizer = work.model.module.quantizer
    tokens = {key: value for key, value in plan.items() if key != "shards"} | {
        "shape": markers[0]["shape"],
        "codebook": quantizer.codebook_size if quantizer.num_codebooks else 0,
        "mean": moments.mean.tolist(),
        "deviation": moments.deviation.tolist(),
    }
    manifest = {
        "format": pack.FORMAT, "records": len(index),
        "shards": [{key: marker[key] for key in ("file", "records", "bytes", "sha256")} for marker in markers],
        "index": {"file": "index.tsv", "digest": records.digest(text.encode())},
        "tokens": tokens,
    }  # fmt: skip
    write_whole(target / "manifest.json", json.dumps(manifest, indent=1))
    for name in names:
        (target / f"{name}.json").unlink(missing_ok=True)
    return manifest


class Moments:
    """Mean and deviation per channel of vectors that come in parts (Chan, Golub and LeVeque 1983), in float64."""

    def __init__(self, count: int = 0, mean: Any = (), square: Any = ()):
        self.count, self.mean, self._square = count, np.asarray(mean, np.float64), np.asarray(square, np.float64)

    def add(self, vectors: np.ndarray) -> None:
        """Counts vectors [..., D]."""
        flat = vectors.reshape(-1, vectors.shape[-1]).astype(np.float64)
        mean = flat.mean(0)
        self.merge(Moments(len(flat), mean, np.square(flat - mean).sum(0)))

    def merge(self, other: "Moments") -> None:
        """Counts what another one has counted."""
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self._square = other.count, other.mean, other._square
            return
        total, gap = self.count + other.count, other.mean - self.mean
        self.mean = self.mean + gap * (other.count / total)
        self._square = self._square + other._square + gap * gap * (self.count * other.count / total)
        self.count = total

    @property
    def deviation(self) -> np.ndarray:
        """The standard deviation [D] of what was counted (divided by the count); empty for nothing."""
        return np.sqrt(self._square / self.count) if self.count else self._square

    def to_json(self) -> list[Any]:
        """What ``from_json`` reads."""
        return [self.count, self.mean.tolist(), self._square.tolist()]

    @classmethod
    def from_json(cls, parts: list[Any]) -> "Moments":
        """The inverse of ``to_json``, exact."""
        return cls(*parts)
