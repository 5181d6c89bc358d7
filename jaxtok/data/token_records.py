"""Records of images as tokens: a grid of codes or latents with the image's class and style, and their index."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from jaxtok.data import image_records, records

COLUMNS = ("file", "split", "group", "style", "item", "digest", "captions")
DTYPES = {"codes": "<i4", "latents": "<f4"}


@dataclasses.dataclass(frozen=True, eq=False)
class TokenGrid:
    """The tokens of one image, and what is known about the image.

    Attributes:
      tokens: codes int32 [1, h, w, Q] or latents float32 [1, h, w, D]; [2, ...] where the second is of the mirrored
        image.
      file: the image's name.
      group: its class.
      style: what else tells images of one class apart.
      item: what it shows.
      captions: by language.
      split: of ``records.SPLITS``.
    """

    tokens: np.ndarray
    file: str
    group: str = ""
    style: str = ""
    item: str = ""
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    split: str = "train"

    @property
    def data(self) -> bytes:
        """The tokens' bytes, little-endian."""
        return np.ascontiguousarray(self.tokens, DTYPES[self._kind]).tobytes()

    @property
    def _kind(self) -> str:
        return "codes" if np.issubdtype(self.tokens.dtype, np.integer) else "latents"

    def to_bytes(self) -> bytes:
        """The record framed."""
        fields = {name: getattr(self, name) for name in ("file", "group", "style", "item", "captions", "split")}
        return records.frame(fields | {"tokens": self._kind, "shape": list(self.tokens.shape)}, self.data)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "record") -> "TokenGrid":
        """The inverse of ``to_bytes``; ValueError when the data have another form."""
        fields, raw = records.unframe(data, name)
        try:
            shape, dtype = fields.pop("shape"), DTYPES[fields.pop("tokens")]
            return cls(tokens=np.frombuffer(raw, dtype).reshape(shape), **fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{name}: the header is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class Row(image_records.Row):
    """One line of an index, as of images, in an order of its own by which the kinds of index are told apart."""

    def cells(self) -> dict[str, str]:
        """The line as strings by column."""
        cells = super().cells()
        return {name: cells[name] for name in COLUMNS}

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """The inverse of ``cells``; ValueError for another number of cells or what is no number."""
        *first, sha, captions = cells
        return super().parse((*first, captions, sha))


class Index(image_records.Index):
    """The index of token grids; ``tokens`` is what the manifest says of all of them (see ``encode_dataset``)."""

    kind = "token grids"
    record = TokenGrid
    line = Row
    columns = COLUMNS
    tokens: Mapping[str, Any] = {}
