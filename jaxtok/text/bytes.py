"""Text as UTF-8 bytes: no vocabulary file, every language, 259 ids."""

import dataclasses
import unicodedata

import numpy as np


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Ids are UTF-8 bytes of the NFC text plus ``offset``; the ids below are reserved (0 pads, 1 ends, 2 unknown).

    The numbering is ByT5's (Xue et al. 2021, arXiv 2105.13626). No special ids are added by ``encode``.
    """

    offset: int = 3

    @property
    def pad_id(self) -> int:
        """The id that fills up a row."""
        return 0

    @property
    def vocabulary_size(self) -> int:
        """The number of ids."""
        return 256 + self.offset

    def encode(self, text: str) -> np.ndarray:
        """Text to int32 [N]."""
        data = unicodedata.normalize("NFC", text).encode("utf-8")
        return np.frombuffer(data, np.uint8).astype(np.int32) + self.offset

    def decode(self, ids: np.ndarray) -> str:
        """Ids to text; reserved ids are left out, and broken UTF-8 becomes U+FFFD.

        Raises:
          ValueError: when an id is outside the vocabulary.
        """
        ids = np.asarray(ids).reshape(-1)
        if ids.size and (ids.min() < 0 or ids.max() >= self.vocabulary_size):
            raise ValueError(f"ids from {ids.min()} to {ids.max()}: expected 0 to {self.vocabulary_size - 1}")
        return (ids[ids >= self.offset] - self.offset).astype(np.uint8).tobytes().decode("utf-8", errors="replace")

    def length_for(self, utf8_bytes: int) -> int:
        """How many ids a text of that many NFC UTF-8 bytes has (here exactly; other tokenizers give an estimate)."""
        return utf8_bytes
