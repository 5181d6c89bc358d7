"""``jaxtok data pack``: a folder of audio files and transcripts, or of images, becomes shards that shuffle well."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Generator, Iterator
from typing import Any

from etils import epath

from jaxtok.data import check, records, sources
from jaxtok.files import write_whole

FORMAT = 1
_LEFTOVER = re.compile(r"(shard-\d{5}-of-\d{5}\.array_record|index\.tsv)|\..*\.partial")


@dataclasses.dataclass(frozen=True)
class Packed:
    """What was written: ``str()`` is a screenful for the terminal."""

    out: str
    records: int
    hours: float
    shards: int
    bytes: int
    splits: dict[str, int]
    left_out: tuple[check.Problem, ...]
    kind: str = "utterances"

    def __str__(self) -> str:
        counts = ", ".join(f"{split} {count}" for split, count in self.splits.items())
        what = "images" if self.kind == "images" else f"records, {self.hours:.2f} h"
        lines = [f"{self.out}: {self.records} {what}, {self.shards} shards, {self.bytes} bytes ({counts})"]
        lines += [f"left out: {problem}" for problem in self.left_out]
        return "\n".join(lines)


def pack(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    shards: int = 0,
    holdout: str = "5%",
    words: int = 4,
    seconds: float = 0.0,
    skip_bad: bool = False,
) -> Packed:
    """Packs a folder (audio files and one TSV of transcripts, or images) into sharded ArrayRecord.

    The files' bytes are kept as they are. The shards come first, then ``index.tsv``, and ``manifest.json`` with the
    digests last: without it the output is not whole, and the next call cleans it and begins again.

    Args:
      folder: see ``sources.FolderSource`` and ``image_folder.ImageFolder``.
      out: an empty, new or half-written folder; may be on an object store.
      shards: how many files; 0 takes as few as hold at most 5 MB each.
      holdout, words, seconds: see ``splits.assign``, and of images ``splits.by_item``, where the last two do not count;
        without effect where the split is given.
      skip_bad: leave out records that ``check`` finds bad (they are listed), rather than refuse.

    Raises:
      ValueError: in one sentence, for a malformed folder, bad records, or an output that exists.
    """
    if shards < 0:
        raise ValueError(f"shards {shards}: expected 0 (automatic) or a positive number")
    target = epath.Path(out)
    _prepare(target)
    settings: dict[str, Any] = {"holdout": holdout, "words": words, "seconds": seconds}
    source = sources.open_folder(os.fspath(folder), **settings)
    kept, problems = _measure(source)
    if problems and not skip_bad:
        raise ValueError(
            f"folder {os.fspath(folder)!r}: {len(problems)} bad records, the first: {problems[0]}; "
            "see jaxtok data check, or leave them out with skip_bad"
        )
    if not kept:
        raise ValueError(f"folder {os.fspath(folder)!r}: no usable record among {len(source.index)}")
    if isinstance(source, sources.FolderSource):
        # The lengths are exact now: split again, so that the split is a function of what is packed.
        source = sources.open_folder(os.fspath(folder), **settings, lengths=dict(kept))
    kind = type(source.index)
    index = kind(kind.line.of(source.record(position)) for position, _ in kept)
    written = _write_shards(source, [position for position, _ in kept], target, shards)
    text = index.to_tsv()
    write_whole(target / "index.tsv", text.encode())
    manifest = {
        "format": FORMAT, "records": len(index), "shards": written,
        "index": {"file": "index.tsv", "digest": records.digest(text.encode())},
    }  # fmt: skip
    write_whole(target / "manifest.json", json.dumps(manifest, indent=1).encode())
    counts = {split: int((index.split == split).sum()) for split in records.SPLITS}
    size = sum(shard["bytes"] for shard in written)
    hours = index.totals(index.split != "").get("hours", 0.0)
    return Packed(os.fspath(out), len(index), hours, len(written), size, counts, tuple(problems), index.kind)


def _prepare(target: epath.Path) -> None:
    if not target.exists():
        target.mkdir(parents=True)
        return
    if not target.is_dir():
        raise ValueError(f"output {os.fspath(target)!r}: is a file, expected a new or empty folder")
    names = sorted(path.name for path in target.iterdir())
    if "manifest.json" in names:
        raise ValueError(f"output {os.fspath(target)!r}: holds a whole set already; choose another folder")
    foreign = [name for name in names if not _LEFTOVER.fullmatch(name)]
    if foreign:
        raise ValueError(f"output {os.fspath(target)!r}: holds {foreign[0]!r}, expected a new or empty folder")
    for name in names:
        (target / name).unlink()


def _measure(source: sources.Source) -> tuple[list[tuple[int, float]], list[check.Problem]]:
    """The positions of good records with their exact seconds (0.0 of images), and the problems of the others."""
    kept, problems = [], []
    for position in range(len(source.index)):
        if source.index.kind == "images":
            found, length = check.examine_image(source, position)[0], 0.0
        else:
            found, length, _ = check.examine_utterance(source, position)
        problems += found
        if not found:
            kept.append((position, length))
    return kept, problems


def _write_shards(source: sources.Source, positions: list[int], target: epath.Path, shards: int) -> list[dict]:
    sizes = [len(source.record(position).to_bytes()) for position in positions]
    count = min(shards or -(-sum(sizes) // 4_800_000), len(positions))
    bounds, cut = [0], 0
    for number, total in enumerate(itertools.accumulate(sizes)):
        if total > sum(sizes) * (cut + 1) / count and len(bounds) < count:
            bounds.append(max(number, bounds[-1] + 1))
            cut += 1
    bounds.append(len(positions))
    written = []
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        name = f"shard-{number:05d}-of-{len(bounds) - 1:05d}.array_record"
        items = (source.record(position).to_bytes() for position in positions[start:stop])
        written.append({"file": name, "records": stop - start, **write_shard(target / name, items)})
    return written


def write_shard(path: epath.Path, items: Iterator[bytes]) -> dict[str, Any]:
    """Writes records as one shard, local or remote; its ``bytes`` and ``sha256``, as a manifest states them."""
    with _writable(path) as local:
        _write_shard(local, items)
        data = pathlib.Path(local).read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@contextlib.contextmanager
def _writable(path: epath.Path) -> Generator[str]:
    """A local path to write to; for an object store a temporary one whose content is put there afterwards."""
    if "://" not in os.fspath(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = os.path.join(folder, path.name)
        yield local
        path.write_bytes(pathlib.Path(local).read_bytes())


def _write_shard(path: str, items: Iterator[bytes]) -> None:
    from array_record.python import array_record_module  # ty: ignore[missing-module-member]

    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    try:
        for item in items:
            writer.write(item)
    finally:
        writer.close()
