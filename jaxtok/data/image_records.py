"""Records of images: the bytes of an image file with its class, style and captions, and their index."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from jaxtok.data import records


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image: the bytes of its file, and what is known about it.

    Attributes:
      image: the encoded file.
      file: its name.
      group: its class.
      style: what else tells images of one class apart, such as the hand that drew them.
      item: what it shows; images of one item are never in two splits. Empty: it stands alone.
      captions: by language.
      tags: words, separated by commas.
      split: of ``records.SPLITS``.
    """

    image: bytes
    file: str
    group: str = ""
    style: str = ""
    item: str = ""
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tags: str = ""
    split: str = "train"

    @property
    def data(self) -> bytes:
        """What is encoded."""
        return self.image

    def to_bytes(self) -> bytes:
        """The record framed."""
        names = ("file", "group", "style", "item", "captions", "tags", "split")
        return records.frame({name: getattr(self, name) for name in names}, self.image)

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "record") -> "Picture":
        """The inverse of ``to_bytes``; ValueError when the data have another form."""
        fields, image = records.unframe(data, name)
        try:
            return cls(image=image, **fields)
        except TypeError as error:
            raise ValueError(f"{name}: the header is damaged ({error})") from error


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of an index; ``captions`` are the lengths of the captions in NFC UTF-8 bytes, by language."""

    file: str
    split: str
    group: str
    style: str
    item: str
    captions: Mapping[str, int]
    digest: str = ""

    @classmethod
    def of(cls, record: Any) -> Self:
        """The line for a record: a :class:`Picture`, or what has its fields and ``data``."""
        lengths = {language: records.text_bytes(text) for language, text in sorted(record.captions.items()) if text}
        return cls(
            file=record.file, split=record.split, group=record.group, style=record.style, item=record.item,
            captions=lengths, digest=records.digest(record.data) if record.data else "",
        )  # fmt: skip

    def cells(self) -> dict[str, str]:
        """The line as strings by column; captions as ``de:10 en:12``."""
        lengths = " ".join(f"{language}:{length}" for language, length in self.captions.items())
        return {name: str(value) for name, value in dataclasses.asdict(self).items()} | {"captions": lengths}

    @classmethod
    def parse(cls, cells: Sequence[str]) -> Self:
        """The inverse of ``cells``; ValueError for another number of cells or what is no number."""
        file, split, group, style, item, captions, sha = cells
        pairs = [pair.rpartition(":") for pair in captions.split()]
        return cls(file, split, group, style, item, {language: int(length) for language, _, length in pairs}, sha)


class Index(records.Columns):
    """The index of images."""

    kind = "images"
    record = Picture
    line = Row
    columns = ("file", "split", "group", "style", "item", "captions", "digest")
    filters: ClassVar[Mapping[str, Any]] = {"groups": (), "styles": ()}
    held_out_filters: ClassVar[Mapping[str, Any]] = {"groups": (), "styles": ()}

    def __init__(self, rows: Iterable[Row]):
        rows = list(rows)
        self.file = [row.file for row in rows]
        self.digest = [row.digest for row in rows]
        self.item = [row.item for row in rows]
        self.groups, self.group = records.codes([row.group for row in rows])
        self.styles, self.style = records.codes([row.style for row in rows])
        self.split = np.array([row.split for row in rows], dtype=object)
        languages = sorted({language for row in rows for language in row.captions})
        self.captions = {
            language: np.array([row.captions.get(language, 0) for row in rows], np.int32) for language in languages
        }

    def row(self, position: int) -> Row:
        """The line at a position."""
        lengths = {language: int(column[position]) for language, column in self.captions.items() if column[position]}
        return self.line(
            file=self.file[position], split=self.split[position], group=self.groups[self.group[position]],
            style=self.styles[self.style[position]], item=self.item[position], captions=lengths,
            digest=self.digest[position],
        )  # fmt: skip

    def select(self, split: str, *, groups: Sequence[str] = (), styles: Sequence[str] = ()) -> np.ndarray:
        """Positions of a split's images of these groups and styles.

        Raises:
          ValueError: for a group or style that the source does not have.
        """
        keep = (self.split == split) & records.among(groups, self.groups, self.group, "group")
        return np.flatnonzero(keep & records.among(styles, self.styles, self.style, "style"))

    def totals(self, keep: np.ndarray) -> dict[str, float]:
        """Images, and how many groups and items they are of."""
        items = {item or file for item, file, kept in zip(self.item, self.file, keep) if kept}
        return {"images": int(keep.sum()), "groups": len(np.unique(self.group[keep])), "items": len(items)}
