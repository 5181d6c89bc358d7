"""What a source holds: records (an encoded recording with its transcript) and the index that plans without decoding."""

import dataclasses
import hashlib
import json
import struct
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

SPLITS = ("train", "validation", "test")
_MAGIC = b"JTR1"
_COLUMNS = ("file", "split", "language", "speaker", "seconds", "text_bytes", "words", "digest")


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

    def to_bytes(self) -> bytes:
        """Magic, length of the JSON header (uint32, little-endian), header, audio."""
        fields = {name: getattr(self, name) for name in ("text", "file", "language", "speaker", "seconds", "split")}
        header = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
        return _MAGIC + struct.pack("<I", len(header)) + header + self.audio

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "record") -> "Record":
        """The inverse of ``to_bytes``; ValueError when the data have another form."""
        if data[:4] != _MAGIC or len(data) < 8:
            raise ValueError(f"{name}: begins with {data[:4]!r}, expected a record written by jaxtok data pack")
        (length,) = struct.unpack("<I", data[4:8])
        try:
            return cls(audio=data[8 + length :], **json.loads(data[8 : 8 + length]))
        except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{name}: the header is damaged ({error})") from error


def digest(data: bytes) -> str:
    """The first 16 hex digits of SHA-256."""
    return hashlib.sha256(data).hexdigest()[:16]


def text_bytes(text: str) -> int:
    """The length of the NFC text in UTF-8 bytes, as the index states it."""
    return len(unicodedata.normalize("NFC", text).encode())


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation; two texts with equal words are the same sentence."""
    kept = "".join(c if c.isalnum() or c in "'’" else " " for c in unicodedata.normalize("NFKC", text).casefold())
    return [word for word in (word.strip("'’") for word in kept.split()) if word]


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


def replace_split(row: Row, split: str) -> Row:
    """The same line in another split."""
    return dataclasses.replace(row, split=split)


class Index:
    """The index as columns: arrays of [n], so that a set of millions of utterances is planned in little memory."""

    def __init__(self, rows: Iterable[Row]):
        rows = list(rows)
        self.file = [row.file for row in rows]
        self.digest = [row.digest for row in rows]
        self.languages, self.language = _codes([row.language for row in rows])
        self.speakers, self.speaker = _codes([row.speaker for row in rows])
        self.split = np.array([row.split for row in rows], dtype=object)
        self.seconds = np.array([row.seconds for row in rows], np.float64)
        self.text_bytes = np.array([row.text_bytes for row in rows], np.int64)
        self.words = np.array([row.words for row in rows], np.int32)

    def __len__(self) -> int:
        return len(self.file)

    def row(self, position: int) -> Row:
        """The line at a position."""
        return Row(
            file=self.file[position], split=self.split[position], language=self.languages[self.language[position]],
            speaker=self.speakers[self.speaker[position]], seconds=float(self.seconds[position]),
            text_bytes=int(self.text_bytes[position]), words=int(self.words[position]), digest=self.digest[position],
        )  # fmt: skip

    def to_tsv(self) -> str:
        """The sidecar file: a header line, then position and columns."""
        lines = ["\t".join(("position", *_COLUMNS))]
        for position in range(len(self)):
            row = dataclasses.asdict(self.row(position)) | {"seconds": f"{self.seconds[position]:.6f}"}
            lines.append("\t".join(str(value) for value in (position, *(row[name] for name in _COLUMNS))))
        return "\n".join(lines) + "\n"

    @classmethod
    def from_tsv(cls, text: str, name: str = "index.tsv") -> "Index":
        """The inverse of ``to_tsv``; ValueError naming the line that has another form."""
        lines = text.splitlines()
        if not lines or lines[0].split("\t") != ["position", *_COLUMNS]:
            raise ValueError(f"{name}: the first line is not the header of an index, expected position, {_COLUMNS}")
        rows = []
        for number, line in enumerate(lines[1:]):
            cells = line.split("\t")
            try:
                position, file, split, language, speaker, seconds, length, count, sha = cells
                row = Row(file, split, language, speaker, float(seconds), int(length), int(count), sha)
            except ValueError as error:
                raise ValueError(f"{name}, line {number + 2}: found {len(cells)} cells ({error})") from error
            if int(position) != number:
                raise ValueError(f"{name}, line {number + 2}: found position {position}, expected {number}")
            rows.append(row)
        return cls(rows)


def _codes(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    names = sorted(set(values))
    code = {name: number for number, name in enumerate(names)}
    return names, np.array([code[value] for value in values], np.int32)
