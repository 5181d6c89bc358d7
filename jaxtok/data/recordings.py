"""Recordings to measure a codec with: files, a folder, or the held-out part of a data source, always in one order."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxtok.data import audio, sources


@dataclasses.dataclass(frozen=True)
class Recording:
    """One recording, not read yet.

    Attributes:
      name: its file.
      read: gives float32 [samples], mono, and the rate in Hz; ValueError naming it when it cannot be read.
      text: its transcript, or None.
      language: of the speech, such as "en"; empty where it is not known.
    """

    name: str
    read: Callable[[], tuple[np.ndarray, int]]
    text: str | None = None
    language: str = ""


def find(
    inputs: Sequence[str], *, split: str = "test", limit: int = 0, texts: Sequence[str] = ()
) -> tuple[list[Recording], str]:
    """The recordings that are meant, and where their transcripts come from, in words.

    Args:
      inputs: audio files, in this order; or one folder, of which all audio files below it are taken, sorted by name,
        with the transcripts and languages of its ``.tsv`` where it has one; or one data source such as
        ``samples:speech``, of which the records of ``split`` are taken, sorted by file name.
      split: of a data source.
      limit: at most so many, the first ones; 0 for all.
      texts: transcripts, one per recording, in place of those that are found.

    Raises:
      ValueError: in one sentence, for inputs that are missing, mixed, empty or no sound, or a wrong number of texts.
    """
    if not inputs:
        raise ValueError("--input: expected audio files, a folder or a data source, found none")
    if limit < 0:
        raise ValueError(f"--limit: expected a number of recordings, or 0 for all, found {limit}")
    one = inputs[0] if len(inputs) == 1 else ""
    if one.startswith(sources.KINDS):
        found, origin = _of_source(one, split), f"the transcripts of {one}"
    elif one and epath.Path(one).is_dir():
        found, origin = _of_folder(one)
    else:
        for path in inputs:
            if path.startswith(sources.KINDS) or epath.Path(path).is_dir():
                raise ValueError(f"--input: {path} is given beside others, expected it alone")
            if not epath.Path(path).exists():
                raise ValueError(f"{path}: no such file, expected an audio file")
        found, origin = [Recording(path, functools.partial(audio.read, path)) for path in inputs], "none"
    found = found[: limit or None]
    if texts:
        if len(texts) != len(found):
            raise ValueError(f"--text: expected {len(found)} transcripts, one per recording, found {len(texts)}")
        found = [dataclasses.replace(one, text=text) for one, text in zip(found, texts)]
        origin = "the command line"
    return found, origin


def _of_source(name: str, split: str) -> list[Recording]:
    source = sources.open_source(name)
    if source.index.kind != "utterances":
        raise ValueError(f"--input: {name} holds {source.index.kind}, expected sound")
    positions = sorted(source.index.select(split).tolist(), key=lambda position: source.index.file[position])
    if not positions:
        raise ValueError(f"--input: {name} has no recording in the split {split!r}")
    return [_of_record(source, position) for position in positions]


def _of_record(source: Any, position: int) -> Recording:
    record = source.record(position)
    text, language = record.text or None, record.language
    return Recording(record.file, functools.partial(_decode, source, position), text, language)


def _decode(source: Any, position: int) -> tuple[np.ndarray, int]:
    record = source.record(position)
    return audio.decode(record.audio, f"{source.name}, {record.file}")


def _of_folder(folder: str) -> tuple[list[Recording], str]:
    names = sources.files(folder, sources.AUDIO_SUFFIXES)
    if not names:
        raise ValueError(f"--input: {folder} holds no audio file ({', '.join(sources.AUDIO_SUFFIXES)})")
    rows, origin = {}, "none"
    if any(epath.Path(folder).glob("*.tsv")):
        rows = {row["file"]: row for row in sources.read_transcripts(folder)}
        origin = f"{sources.transcripts_file(folder)}"
    found = []
    for name in names:
        row = rows.get(name, {})
        read = functools.partial(audio.read, epath.Path(folder) / name)
        found.append(Recording(name, read, row.get("text", "").strip() or None, row.get("language", "")))
    return found, origin
