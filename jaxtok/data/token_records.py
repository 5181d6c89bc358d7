"""Records of images as tokens: a grid of codes or latents with the image's class and style, and their index."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jaxtok.data import image_records, records

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
      split: of ``records.SPLITS``.
    """

    tokens: np.ndarray
    file: str
    group: str = ""
    style: str = ""
    item: str = ""
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
        fields = {name: getattr(self, name) for name in ("file", "group", "style", "item", "split")}
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
class Row:
    """One line of an index."""

    file: str
    split: str
    group: str
    style: str
    item: str
    digest: str = ""
    captions: ClassVar[Mapping[str, int]] = {}

    @classmethod
    def of(cls, record: TokenGrid) -> "Row":
        """The line for a record."""
        return cls(record.file, record.split, record.group, record.style, record.item, records.digest(record.data))

    def cells(self) -> dict[str, str]:
        """The line as strings by column."""
        return dataclasses.asdict(self)

    @classmethod
    def parse(cls, cells: Sequence[str]) -> "Row":
        """The inverse of ``cells``; ValueError for another number of cells."""
        file, split, group, style, item, sha = cells
        return cls(file, split, group, style, item, sha)


class Index(image_records.Index):
    """The index of token grids; ``tokens`` is what the manifest says of all of them (see ``jaxtok.encode_dataset``)."""

    kind = "token grids"
    record = TokenGrid
    line = Row
    columns = ("file", "split", "group", "style", "item", "digest")
    tokens: Mapping[str, Any] = {}

    def __init__(self, rows: Iterable[Any]):
        super().__init__(rows)

    def row(self, position: int) -> Any:
        """The line at a position."""
        return Row(
            file=self.file[position], split=self.split[position], group=self.groups[self.group[position]],
            style=self.styles[self.style[position]], item=self.item[position], digest=self.digest[position],
        )  # fmt: skip
