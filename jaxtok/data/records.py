"""What a source holds: records (an encoded recording with its transcript) and the index that plans without decoding.

What every kind of data shares is here (``frame``, ``unframe``, ``Columns``), and the records of speech; those of images
are in ``image_records``.
"""

import abc
import dataclasses
import hashlib
import json
import struct
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from jaxtok.text.words import words

SPLITS = ("train", "validation", "test")
_MAGIC = b"JTR1"


def frame(fields: Mapping[str, Any], data: bytes) -> bytes:
    """A record as bytes: magic, length of the JSON header (uint32, little-endian), header, the encoded data."""
    header = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
    return _MAGIC + struct.pack("<I", len(header)) + header + data


def unframe(data: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """The inverse of ``frame``; ValueError when the bytes have another form."""
    if data[:4] != _MAGIC or len(data) < 8:
        raise ValueError(f"{name}: begins with {data[:4]!r}, expected a record written by jaxtok data pack")
    (length,) = struct.unpack("<I", data[4:8])
    try:
        return json.loads(data[8 : 8 + length]), data[8 + length :]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{name}: the header is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class Record:
    """One utterance: the bytes of an audio file, and what is known about it. ``seconds`` 0.0 means unknown."""

    audio: bytes
    text: str
    file: str
    language: str = ""
    speaker: str = ""
    seconds: float = 0.0
    split: str = "train"

    @property
    def data(self) -> bytes:
        """What is encoded."""
        return self.audio

    def to_bytes(self) -> bytes:
        """The record framed."""
        fields = {name: getattr(self, name) for name in ("text", "file", "language", "speaker", "seconds", "split")}
        return frame(fields, self.audio)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "record") -> "Record":
        """The inverse of ``to_bytes``; ValueError when the data have another form."""
        fields, audio = unframe(data, name)
        try:
            return cls(audio=audio, **fields)
        except TypeError as error:
            raise ValueError(f"{name}: the header is damaged ({error})") from error


def digest(data: bytes) -> str:
    """The first 16 hex digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def text_bytes(text: str) -> int:
    """The length of the NFC text in UTF-8 bytes, as the index states it."""
    return len(unicodedata.normalize("NFC", text).encode())


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of an index. ``digest`` (of the encoded audio) is empty where it is unknown."""

    file: str
    split: str
    language: str
    speaker: str
    seconds: float
    text_bytes: int
    words: int
    digest: str = ""

    @classmethod
    def of(cls, record: Record, *, split: str = "", seconds: float = 0.0) -> "Row":
        """The line for a record."""
        return cls(
            file=record.file, split=split or record.split, language=record.language, speaker=record.speaker,
            seconds=seconds or record.seconds, text_bytes=text_bytes(record.text), words=len(words(record.text)),
            digest=digest(record.audio) if record.audio else "",
        )  # fmt: skip

    def cells(self) -> dict[str, str]:
        """The line as strings by column."""
        return {name: str(value) for name, value in dataclasses.asdict(self).items()} | {
            "seconds": f"{self.seconds:.6f}"
        }

    @classmethod
    def parse(cls, cells: Sequence[str]) -> "Row":
        """The inverse of ``cells``; ValueError for another number of cells or what is no number."""
        file, split, language, speaker, seconds, length, count, sha = cells
        return cls(file, split, language, speaker, float(seconds), int(length), int(count), sha)


def replace_split(row: Any, split: str) -> Any:
    """The same line in another split."""
    return dataclasses.replace(row, split=split)


class Columns(abc.ABC):
    """An index as columns: arrays of [n], so that a set of millions of records is planned in little memory.

    One subclass per kind of data: it names the kind, its records and lines, and by what it can be filtered.
    """

    kind: ClassVar[str]  # what it holds, in a word of a sentence
    record: ClassVar[Any]  # the classes of its records and of its lines
    line: ClassVar[Any]
    columns: ClassVar[tuple[str, ...]]
    filters: ClassVar[Mapping[str, Any]]  # of training, with their defaults
    held_out_filters: ClassVar[Mapping[str, Any]]  # of evaluation
    select: Callable[..., np.ndarray]  # (split, **filters): positions; ValueError for a value that there is not
    file: list[str]
    digest: list[str]
    split: np.ndarray

    @abc.abstractmethod
    def __init__(self, rows: Iterable[Any]): ...

    def __len__(self) -> int:
        return len(self.file)

    @abc.abstractmethod
    def row(self, position: int) -> Any:
        """The line at a position."""

    @abc.abstractmethod
    def totals(self, keep: np.ndarray) -> dict[str, float]:
        """What the records at ``keep`` amount to, for reports."""

    def to_tsv(self) -> str:
        """The sidecar file: a header line, then position and columns."""
        lines = ["\t".join(("position", *self.columns))]
        for position in range(len(self)):
            cells = self.row(position).cells()
            lines.append("\t".join((str(position), *(cells[name] for name in self.columns))))
        return "\n".join(lines) + "\n"

    @classmethod
    def from_tsv(cls, text: str, name: str = "index.tsv") -> Self:
        """The inverse of ``to_tsv``; ValueError naming the line that has another form."""
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        if not lines or lines[0].split("\t") != ["position", *cls.columns]:
            raise ValueError(f"{name}: the first line is not the header of an index, expected position, {cls.columns}")
        rows = []
        for number, line in enumerate(lines[1:]):
            position, *cells = line.split("\t")
            try:
                row = cls.line.parse(cells)
                place = int(position)
            except ValueError as error:
                raise ValueError(f"{name}, line {number + 2}: found {len(cells) + 1} cells ({error})") from error
            if place != number:
                raise ValueError(f"{name}, line {number + 2}: found position {position}, expected {number}")
            rows.append(row)
        return cls(rows)


class Index(Columns):
    """The index of speech."""

    kind = "utterances"
    record = Record
    line = Row
    columns = ("file", "split", "language", "speaker", "seconds", "text_bytes", "words", "digest")
    filters: ClassVar[Mapping[str, Any]] = {"languages": ()}
    held_out_filters: ClassVar[Mapping[str, Any]] = {"languages": (), "words": 1, "seconds": 0.0}

    def __init__(self, rows: Iterable[Row]):
        rows = list(rows)
        self.file = [row.file for row in rows]
        self.digest = [row.digest for row in rows]
        self.languages, self.language = codes([row.language for row in rows])
        self.speakers, self.speaker = codes([row.speaker for row in rows])
        self.split = np.array([row.split for row in rows], dtype=object)
        self.seconds = np.array([row.seconds for row in rows], np.float64)
        self.text_bytes = np.array([row.text_bytes for row in rows], np.int64)
        self.words = np.array([row.words for row in rows], np.int32)

    def row(self, position: int) -> Row:
        """The line at a position."""
        return Row(
            file=self.file[position], split=self.split[position], language=self.languages[self.language[position]],
            speaker=self.speakers[self.speaker[position]], seconds=float(self.seconds[position]),
            text_bytes=int(self.text_bytes[position]), words=int(self.words[position]), digest=self.digest[position],
        )  # fmt: skip

    def select(self, split: str, *, languages: Sequence[str] = (), words: int = 0, seconds: float = 0.0) -> np.ndarray:
        """Positions of a split's utterances in these languages, with at least so many words and seconds.

        Raises:
          ValueError: for a language that the source does not have.
        """
        keep = (self.split == split) & (self.words >= words) & (self.seconds >= seconds)
        return np.flatnonzero(keep & among(languages, self.languages, self.language, "language"))

    def totals(self, keep: np.ndarray) -> dict[str, float]:
        """Utterances, the words of their sentences, and hours."""
        hours = float(self.seconds[keep].sum()) / 3600
        return {"utterances": int(keep.sum()), "words": int(self.words[keep].sum()), "hours": hours}


def among(chosen: Sequence[str], names: list[str], codes: np.ndarray, what: str) -> np.ndarray:
    """Which of the codes [n] name one of ``chosen``, all where nothing is chosen; ValueError for an unknown name."""
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ValueError(f"{what} {unknown[0]!r}: the source has {', '.join(map(repr, names))}")
    return np.isin(codes, [names.index(name) for name in chosen]) if chosen else np.ones(len(codes), bool)


def codes(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct values, sorted, and the number of each value among them."""
    names = sorted(set(values))
    code = {name: number for number, name in enumerate(names)}
    return names, np.array([code[value] for value in values], np.int32)
