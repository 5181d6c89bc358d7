"""``jaxtok encode --source``: all images or utterances of a source as tokens, once, for the generators on them.

The output is a data source, ``tokens:FOLDER``: shards of :class:`jaxtok.data.token_records.TokenGrid` or of
:class:`jaxtok.data.sequence_records.TokenSequence`, ``index.tsv`` and ``manifest.json``, of which ``tokens`` holds

    fingerprint  of the tokenizer (``jaxtok.fingerprint``)
    source       what was encoded, and ``index``, a digest of which they were; ``split``
    shape        (h, w, Q) of codes or (h, w, D) of latents; of speech (Q,)
    codebook     codes that there are; 0 for latents
    size, filter images: in pixels, and how they were resized
    flip         images: whether the tokens of the mirrored ones lie beside them (they are not the mirrored tokens)
    rate, unit   speech: samples a second, and samples a token; ``peak`` as in ``Utterances``
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
from jaxtok.commands.encode_kinds import Images, Speech, open_kind
from jaxtok.data import pack, records
from jaxtok.files import write_whole
from jaxtok.fingerprint import fingerprint
from jaxtok.model import load

SHARD = 4096  # records
log = logging.getLogger("jaxtok")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """What was written: ``str()`` is a line for the terminal."""

    out: str
    count: int
    noun: str
    shards: int
    encoded: int
    tokens: Mapping[str, Any]

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.tokens["shape"]))
        grid = "" if shape == "1" else f"{shape} "
        what = f"tokens of {self.tokens['codebook']} codes" if self.tokens["codebook"] else "tokens latents"
        both = ", mirrored ones too" if self.tokens.get("flip") else ""
        found = f" ({self.shards - self.encoded} shards were there)" if self.encoded < self.shards else ""
        return (
            f"{self.out}: {self.count} {self.noun} as {grid}{what}{both}, "
            f"{self.shards} shards{found}, tokenizer {self.tokens['fingerprint'][:12]}"
        )


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
    """Encodes all images or utterances of a source; goes on where an earlier call was stopped.

    They are read as the tokenizer's own evaluation reads them: the middle square, resized; an utterance by itself.

    Args:
      model: the directory of a tokenizer of images or speech (see ``jaxtok.load``).
      source: of the same, such as ``samples:emoji``.
      output: an empty or new folder, or one that the same call began; may be on an object store.
      split: only this one; "" for all.
      flip: images: the mirrored ones too.
      shards: how many files; 0 takes one for every 4096 records.
      size: images: in pixels; 0 takes the tokenizer's.

    Raises:
      ValueError: in one sentence, for a model or source of something else, or an output of another tokenizer or other
        settings.
    """
    if shards < 0 or size < 0:
        raise ValueError(f"shards {shards} and size {size}: expected 0 (automatic) or positive numbers")
    if split and split not in records.SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(records.SPLITS)}, or none for all")
    config = recipes.of_run(model)
    loaded = load(model)
    kind = open_kind(model, config, loaded, source, flip=flip, size=size)
    positions = kind.source.index.select(split) if split else np.arange(len(kind.source.index))
    if not len(positions):
        raise ValueError(f"data source {source!r}: holds no {kind.noun} of split {split!r}")
    count = min(shards or -(-len(positions) // SHARD), len(positions))
    plan = {
        "fingerprint": fingerprint(config["model"], loaded.variables), "source": source,
        "index": _digest(kind, positions), "split": split, **kind.plan, "shards": count,
    }  # fmt: skip
    target = epath.Path(output)
    _begin(target, plan)
    done = target / "manifest.json"
    if done.exists():
        found = json.loads(done.read_text())
        return Encoded(os.fspath(output), found["records"], kind.noun, count, 0, found["tokens"])
    parts = np.array_split(positions, count)
    names = [f"shard-{number:05d}-of-{count:05d}" for number in range(count)]
    encoded = 0
    for name, part in zip(names, parts):
        if not _whole(target, name):
            _encode_shard(kind, target, name, part)
            encoded += 1
            log.info("%s: %s of %d is written, %d %s", target, name, count, len(part), kind.noun)
    manifest = _commit(kind, target, names, plan)
    return Encoded(os.fspath(output), len(positions), kind.noun, count, encoded, manifest["tokens"])


def _digest(kind: Images | Speech, positions: np.ndarray) -> str:
    """Of the records' names and splits, and of their contents where the source's index knows them, in order."""
    index = kind.source.index
    lines = (f"{index.file[at]}\t{index.digest[at]}\t{index.split[at]}" for at in positions)
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


def _encode_shard(kind: Images | Speech, target: epath.Path, name: str, positions: np.ndarray) -> None:
    """Writes one shard, then its marker, which also holds what the index and the statistics need."""
    rows: list[list[str]] = []
    moments = Moments()
    shape: list[int] = []

    def items() -> Iterator[bytes]:
        for record in kind.records(positions):
            if record.split == "train" and record.tokens.dtype == np.float32:
                moments.add(record.tokens)
            cells = kind.index.line.of(record).cells()
            rows.append([cells[column] for column in kind.index.columns])
            shape[:] = record.tokens.shape[1:]
            yield record.to_bytes()

    shard = target / f"{name}.array_record"
    shard.unlink(missing_ok=True)
    written = pack.write_shard(shard, items())
    said = {"file": shard.name, "records": len(positions), **written}
    write_whole(
        target / f"{name}.json", json.dumps(said | {"shape": shape, "rows": rows, "moments": moments.to_json()})
    )


def _commit(kind: Images | Speech, target: epath.Path, names: list[str], plan: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the index and the manifest, and removes the markers, which are of no use then."""
    markers = [json.loads((target / f"{name}.json").read_text()) for name in names]
    index = kind.index(kind.index.line.parse(cells) for marker in markers for cells in marker["rows"])
    text = index.to_tsv()
    write_whole(target / "index.tsv", text)
    moments = Moments()
    for marker in markers:
        moments.merge(Moments.from_json(marker["moments"]))
    quantizer = kind.model.module.quantizer
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
