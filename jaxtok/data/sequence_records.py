"""Records of speech as tokens: the codes of an utterance with its text and speaker, and their index."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxtok.data import records

COLUMNS = ("file", "split", "speaker", "language", "seconds", "text_bytes", "words", "digest")


@dataclasses.dataclass(frozen=True, eq=False)
class TokenSequence:
    """The tokens of one utterance, and what is known about it.

    Attributes:
      tokens: codes int32 [N, Q].
      text: what is said.
      file: the utterance's name.
      language: of the text.
      speaker: who says it.
      seconds: that the tokens last, so up to one token more than the recording.
      split: of ``records.SPLITS``.
    """

    tokens: np.ndarray
    text: str
    file: str
    language: str = ""
    speaker: str = ""
    seconds: float = 0.0
    split: str = "train"

    @property
    def data(self) -> bytes:
        """The codes' bytes, little-endian."""
        return np.ascontiguousarray(self.tokens, "<i4").tobytes()

    def to_bytes(self) -> bytes:
        """The record framed."""
        names = ("text", "file", "language", "speaker", "seconds", "split")
        return records.frame({name: getattr(self, name) for name in names} | {"shape": self.tokens.shape}, self.data)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "record") -> "TokenSequence":
        """The inverse of ``to_bytes``; ValueError when the data have another form."""
        fields, raw = records.unframe(data, name)
        try:
            shape = fields.pop("shape")
            return cls(tokens=np.frombuffer(raw, "<i4").reshape(shape), **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: the header is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class Row(records.Row):
    """One line of an index, as of speech, in an order of its own by which the kinds of index are told apart."""

    @classmethod
    def of(cls, record: Any, *, split: str = "", seconds: float = 0.0) -> Self:
        """The line for a record."""
        return cls(
            file=record.file, split=split or record.split, language=record.language, speaker=record.speaker,
            seconds=seconds or record.seconds, text_bytes=records.text_bytes(record.text),
            words=len(records.words(record.text)), digest=records.digest(record.data),
        )  # fmt: skip

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """The inverse of ``cells``; ValueError for another number of cells or what is no number."""
        file, split, speaker, language, seconds, length, count, sha = cells
        return cls(file, split, language, speaker, float(seconds), int(length), int(count), sha)


class Index(records.Index):
    """The index of token sequences; ``tokens`` is what the manifest says of all of them."""

    kind = "token sequences"
    record = TokenSequence
    line = Row
    columns = COLUMNS
    tokens: Mapping[str, Any] = {}
