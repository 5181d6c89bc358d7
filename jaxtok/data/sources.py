"""Where data come from, by string: ``samples:speech``, ``folder:/path``, ``arrayrecord:/path``, ``tokens:/path``,
``tfds:name``; several of one kind are one, joined by commas.

A source holds speech, images or tokens; what a folder holds is found by the suffixes of its files, what a set holds by
its index. A source has an ``index`` (columns; planning decodes nothing) and gives the record at a position. It pickles,
so that worker processes can open it again.
"""

import csv
import io
import json
import os
import pathlib
import re
from typing import Any, Protocol

import numpy as np
from etils import epath

from jaxtok.data import image_records, picture, records, sequence_records, splits, token_records

INDICES: tuple[type[records.Columns], ...] = (
    records.Index, image_records.Index, token_records.Index, sequence_records.Index
)  # fmt: skip
KINDS = ("samples:", "folder:", "arrayrecord:", "tokens:", "tfds:")
_JOINED = re.compile(rf",(?={'|'.join(KINDS)})")  # a comma that a kind follows; paths may hold others
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au")


class Source(Protocol):
    """What the pipeline needs."""

    name: str
    index: Any  # a records.Columns

    def record(self, position: int) -> Any:
        """The record at a position; ValueError naming it when it cannot be read."""
        ...


class CorruptRecord(ValueError):
    """A record at ``position`` that cannot be used; the pipeline replaces it."""

    def __init__(self, source: Source, position: int, reason: str):
        super().__init__(f"record {position} ({source.index.file[position]}): {reason}")
        self.position = position


def open_source(source: str) -> Source:
    """Opens a source by its string.

    Raises:
      ValueError: in one sentence, for an unknown kind, a missing folder, or a set that is not whole.
    """
    parts = _JOINED.split(source)
    if len(parts) > 1:
        return Joined(parts, name=source)
    kind, _, rest = source.partition(":")
    if kind == "samples" and rest:
        return PackedSource(_samples(rest), name=source)
    if kind == "folder" and rest:
        return open_folder(rest, name=source)
    if kind in ("arrayrecord", "tokens") and rest:
        return PackedSource(rest, name=source)
    if kind == "tfds" and rest:
        from jaxtok.data.tfds import open_set

        return open_set(rest, name=source)
    raise ValueError(
        f"data source {source!r}: expected samples:NAME, folder:/path, arrayrecord:/path, tokens:/path or "
        "tfds:name[/config]"
    )


def samples() -> list[str]:
    """The names of the sets that the package ships."""
    folder = pathlib.Path(__file__).parent / "samples"
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


def _samples(name: str) -> str:
    if name not in samples():
        raise ValueError(f"data source 'samples:{name}': no such shipped set, known: {', '.join(samples()) or 'none'}")
    return str(pathlib.Path(__file__).parent / "samples" / name)


class Joined:
    """Sources of one kind of data, one behind the other: those of the second have the positions after the first's."""

    def __init__(self, parts: list[str], *, name: str):
        self.name, self.parts = name, [open_source(part) for part in parts]
        kinds = [type(part.index) for part in self.parts]
        if hasattr(kinds[0], "tokens"):
            raise ValueError(f"data source {name!r}: tokens are not joined; join what they are made of and encode it")
        for part, kind in zip(parts, kinds):
            if kind is not kinds[0]:
                raise ValueError(f"data source {name!r}: {parts[0]} holds {kinds[0].kind}, {part} {kind.kind}")
        rows = (part.index.row(position) for part in self.parts for position in range(len(part.index)))
        self.index: Any = kinds[0](rows)
        self._ends = np.cumsum([len(part.index) for part in self.parts])

    def record(self, position: int) -> Any:
        """The record at a position."""
        part = int(np.searchsorted(self._ends, position, side="right"))
        return self.parts[part].record(position - int(self._ends[part - 1] if part else 0))


class PackedSource:
    """A folder that ``jaxtok data pack`` or ``jaxtok encode`` wrote: shards, index.tsv, manifest.json."""

    def __init__(self, path: str, *, name: str = ""):
        self.path, self.name = os.fspath(path), name or f"arrayrecord:{path}"
        folder = epath.Path(path)
        maker = "jaxtok encode" if self.name.startswith("tokens:") else "jaxtok data pack"
        if not folder.is_dir():
            raise ValueError(f"{self.name}: no such folder, expected the output of {maker}")
        if not (folder / "manifest.json").exists():
            raise ValueError(f"{self.name}: no manifest.json, so the set is not whole; run {maker} again")
        self.manifest = json.loads((folder / "manifest.json").read_text())
        text = (folder / "index.tsv").read_text()
        if records.digest(text.encode()) != self.manifest["index"]["digest"]:
            raise ValueError(f"{self.name}: index.tsv differs from the digest in manifest.json; the set is damaged")
        header = text.partition("\n")[0].split("\t")[1:]
        kind = next((kind for kind in INDICES if list(kind.columns) == header), records.Index)
        self.index: Any = kind.from_tsv(text, f"{self.name}/index.tsv")
        if hasattr(self.index, "tokens"):
            self.index.tokens = self.manifest["tokens"]
        self._paths = [str(folder / shard["file"]) for shard in self.manifest["shards"]]
        for path_, shard in zip(self._paths, self.manifest["shards"]):
            size = epath.Path(path_).stat().length if epath.Path(path_).exists() else -1
            if size != shard["bytes"]:
                found = "is missing" if size < 0 else f"has {size} bytes"
                raise ValueError(f"{path_}: {found}, expected {shard['bytes']} bytes; the set is damaged")
        self._reader = None

    def record(self, position: int) -> Any:
        """The record at a position; its digest is verified against the index."""
        name = f"{self.name}, record {position} ({self.index.file[position]})"
        try:
            record = self.index.record.from_bytes(self._open()[position], name)
        except ValueError:
            raise
        except Exception as error:  # array_record raises RuntimeError and IndexError for damaged chunks
            reason = (str(error).splitlines() or [repr(error)])[0]
            raise ValueError(f"{name}: cannot be read ({reason})") from error
        if records.digest(record.data) != self.index.digest[position]:
            raise ValueError(f"{name}: the data differ from their digest in index.tsv")
        return record

    def _open(self):
        if self._reader is None:
            from grain.sources import ArrayRecordDataSource

            self._reader = ArrayRecordDataSource(local_copies(self._paths, self.manifest["shards"]))
            if len(self._reader) != len(self.index):
                raise ValueError(f"{self.name}: {len(self._reader)} records, the index has {len(self.index)}")
        return self._reader

    def __getstate__(self):
        return self.__dict__ | {"_reader": None}


def local_copies(paths: list[str], shards: list[dict]) -> list[str]:
    """Shards on an object store, copied once to this machine's cache; local paths are returned as they are."""
    from jaxtok.files import write_whole

    out = []
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxtok" / "shards"
    for path, shard in zip(paths, shards):
        if "://" in path:
            local = cache / f"{shard['sha256'][:32]}.array_record"
            if not (local.exists() and local.stat().st_size == shard["bytes"]):
                write_whole(epath.Path(local), epath.Path(path).read_bytes())
            path = str(local)
        out.append(path)
    return out


class FolderSource:
    """Audio files and one TSV of transcripts: columns ``file`` and ``text``; optional ``language``, ``speaker``,
    ``seconds`` (0 or absent: read from the file's header) and ``split`` (absent: by a hash of the sentence)."""

    def __init__(
        self,
        path: str,
        *,
        name: str = "",
        holdout: str = "5%",
        words: int = 4,
        seconds: float = 0.0,
        lengths: dict[int, float] | None = None,
    ):
        self.path, self.name = os.fspath(path), name or f"folder:{path}"
        self._rows = read_transcripts(self.path)
        known = lengths or {}
        self.lengths = [known.get(n) or _seconds(row, self.path) for n, row in enumerate(self._rows)]
        given = [row.get("split", "") for row in self._rows]
        if any(given):
            check_splits(given, self.name)
        else:
            keys = [(row["text"], row.get("language", ""), sec) for row, sec in zip(self._rows, self.lengths)]
            given = splits.assign(keys, holdout, words=words, seconds=seconds)
        self._splits = given
        self.index = records.Index(
            records.Row.of(self._record(n, b""), seconds=self.lengths[n]) for n in range(len(self._rows))
        )

    def record(self, position: int) -> records.Record:
        """The record at a position."""
        file = epath.Path(self.path) / self._rows[position]["file"]
        if not file.exists():
            raise ValueError(f"{file}: no such file, but the transcripts name it")
        return self._record(position, file.read_bytes())

    def unnamed(self) -> list[str]:
        """Audio files under the folder that the transcripts do not name."""
        named = {os.path.normpath(row["file"]) for row in self._rows}
        return [file for file in files(self.path, AUDIO_SUFFIXES) if file not in named]

    def _record(self, position: int, audio: bytes) -> records.Record:
        row = self._rows[position]
        return records.Record(
            audio=audio, text=row["text"].strip(), file=row["file"], language=row.get("language", ""),
            speaker=row.get("speaker", ""), seconds=self.lengths[position], split=self._splits[position],
        )  # fmt: skip


def open_folder(path: str, *, name: str = "", **settings: Any) -> Any:
    """A folder of speech (``FolderSource``) or of images (``ImageFolder``), by the suffixes of its files.

    Where there is a TSV, the files that it names decide, else all files under the folder.

    Args:
      path: the folder.
      name: how errors call it.
      **settings: ``holdout``; of speech also ``words``, ``seconds`` and ``lengths``, which images have no use for.

    Raises:
      ValueError: when the folder is missing, or holds neither or both.
    """
    folder, name = os.fspath(path), name or f"folder:{path}"
    if not epath.Path(folder).is_dir():
        raise ValueError(f"folder {folder!r}: no such folder")
    if tables := sorted(epath.Path(folder).glob("*.tsv")):
        found = {row.get("file", "") for row in read_table(tables[0])} if len(tables) == 1 else set()
    else:
        found = set(files(folder, (*AUDIO_SUFFIXES, *picture.SUFFIXES)))
    sound = sorted(file for file in found if file.lower().endswith(AUDIO_SUFFIXES))
    images = sorted(file for file in found if file.lower().endswith(picture.SUFFIXES))
    if sound and images:
        counts = f"{len(sound)} sounds (such as {sound[0]}) and {len(images)} images (such as {images[0]})"
        raise ValueError(f"folder {folder!r}: holds {counts}, expected one kind")
    if images:
        from jaxtok.data.image_folder import ImageFolder

        return ImageFolder(folder, name=name, holdout=settings.get("holdout", "5%"))
    if not tables and not sound:
        raise ValueError(f"folder {folder!r}: expected images, or sounds with one .tsv of transcripts, found none")
    return FolderSource(folder, name=name, **settings)


def files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Paths below a folder, sorted, of the files with these suffixes; hidden files and folders are left out."""
    found, folders = [], [("", epath.Path(folder))]
    while folders:
        prefix, below = folders.pop()
        for path in below.iterdir():
            if path.name.startswith("."):
                continue
            if path.name.lower().endswith(suffixes) and not path.is_dir():
                found.append(f"{prefix}{path.name}")
            elif path.is_dir():
                folders.append((f"{prefix}{path.name}/", path))
    return sorted(found)


def transcripts_file(folder: str) -> epath.Path:
    """The one ``*.tsv`` of a folder.

    Raises:
      ValueError: when the folder is missing, or has none or several.
    """
    path = epath.Path(folder)
    if not path.is_dir():
        raise ValueError(f"folder {folder!r}: no such folder")
    found = sorted(path.glob("*.tsv"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(f"folder {folder!r}: expected exactly one .tsv of transcripts, found {names}")
    return found[0]


def read_transcripts(folder: str) -> list[dict[str, str]]:
    """The lines of the folder's TSV as dicts; ValueError naming the file and line when it is malformed."""
    file = transcripts_file(folder)
    rows = read_table(file, ("file", "text"))
    if not rows:
        raise ValueError(f"{file}: holds no transcripts")
    return rows


def read_table(file: epath.Path, needed: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The lines of a TSV as dicts by its first line; ValueError naming the file and line when it is malformed."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    lines = list(csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    header = [name.strip() for name in lines[0]] if lines else []
    if not set(needed) <= set(header):
        raise ValueError(f"{file}: the first line names columns {header}, expected at least {' and '.join(needed)}")
    rows, seen = [], set()
    for number, cells in enumerate(lines[1:], start=2):
        if not cells:
            continue
        if len(cells) != len(header):
            raise ValueError(f"{file}, line {number}: found {len(cells)} cells, expected {len(header)}")
        row = dict(zip(header, cells))
        if row.get("file") in seen:
            raise ValueError(f"{file}, line {number}: {row['file']!r} is named twice")
        seen |= {row["file"]} if "file" in row else set()
        rows.append(row)
    return rows


def check_splits(splits_: list[str], name: str) -> None:
    """ValueError for a split that there is not; the first is that of the second line of a table."""
    for number, split in enumerate(splits_):
        if split not in records.SPLITS:
            known = ", ".join(records.SPLITS)
            raise ValueError(f"{name}, line {number + 2}: split {split!r}, expected one of {known}")


def _seconds(row: dict[str, str], folder: str) -> float:
    """The length by the column, else by the file's header; 0.0 where that fails (the file is named when it is used)."""
    if row.get("seconds", "").strip():
        try:
            if (value := float(row["seconds"])) > 0 and np.isfinite(value):
                return value
        except ValueError as error:
            raise ValueError(f"folder {folder!r}: {row['file']}: seconds {row['seconds']!r} is no number") from error
    import soundfile

    file = epath.Path(folder) / row["file"]
    try:
        with file.open("rb") as stream:
            info = soundfile.info(stream)  # ty: ignore[invalid-argument-type]
    except (OSError, RuntimeError, TypeError):
        return 0.0
    return info.frames / info.samplerate
