"""A folder of image files as a source: classes by subfolder, or one TSV."""

import dataclasses
import os
import re

from etils import epath

from jaxtok.data import image_records, picture, sources, splits

SPLIT_FOLDERS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"} | {
    "validation": "validation", "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip


class ImageFolder:
    """Image files; the subfolder is the class (``group``), unless one TSV describes them.

    Without a TSV: where all images are in folders named after splits (``train``, ``val``, ``test`` ...), these are the
    splits and the next folder is the class; a class within a class is the whole path. With one: the column ``file``,
    and optionally ``group`` (or ``label``), ``style``, ``item`` (images of one item are never in two splits), ``tags``,
    ``split``, and captions: ``caption`` (English), ``caption_de`` and so on. Where nothing tells the split, ``holdout``
    of the items of each group are held out by a hash (``splits.by_item``).

    Raises:
      ValueError: in one sentence, for a malformed TSV or a folder without images.
    """

    def __init__(self, path: str, *, name: str = "", holdout: str = "5%"):
        self.path, self.name = os.fspath(path), name or f"folder:{path}"
        tables = sorted(epath.Path(self.path).glob("*.tsv"))
        if len(tables) > 1:
            names = ", ".join(table.name for table in tables)
            raise ValueError(f"folder {self.path!r}: expected at most one .tsv, found {names}")
        self.described = bool(tables)
        found = [_described(row) for row in sources.read_table(tables[0], ("file",))] if tables else _found(self.path)
        given = [record.split for record in found]
        if any(given):
            sources.check_splits(given, self.name)
        else:
            given = splits.by_item([(record.group, record.item or record.file) for record in found], holdout)
        self._records = [dataclasses.replace(record, split=split) for record, split in zip(found, given)]
        self.index = image_records.Index(image_records.Row.of(record) for record in self._records)

    def record(self, position: int) -> image_records.Picture:
        """The record at a position."""
        record = self._records[position]
        file = epath.Path(self.path) / record.file
        if not file.exists():
            raise ValueError(f"{file}: no such file, but the TSV names it")
        return dataclasses.replace(record, image=file.read_bytes())

    def unnamed(self) -> list[str]:
        """Image files under the folder that the TSV does not name."""
        named = {os.path.normpath(record.file) for record in self._records}
        return [file for file in sources.files(self.path, picture.SUFFIXES) if file not in named]


def _described(row: dict[str, str]) -> image_records.Picture:
    """A line of the TSV."""
    captions = {name.partition("_")[2] or "en": text for name, text in row.items() if re.match("caption(_|$)", name)}
    return image_records.Picture(
        image=b"", file=row["file"], group=(row.get("group") or row.get("label", "")).strip(),
        style=row.get("style", "").strip(), item=row.get("item", "").strip(), tags=row.get("tags", "").strip(),
        captions={language: text.strip() for language, text in captions.items() if text.strip()},
        split=row.get("split", ""),
    )  # fmt: skip


def _found(folder: str) -> list[image_records.Picture]:
    """The files of a folder without a TSV."""
    found = sources.files(folder, picture.SUFFIXES)
    if not found:
        raise ValueError(f"folder {folder!r}: holds no image ({', '.join(picture.SUFFIXES)})")
    by_split = all(file.partition("/")[0].lower() in SPLIT_FOLDERS and "/" in file for file in found)
    out = []
    for file in found:
        first, _, rest = file.partition("/")
        group = os.path.dirname(rest if by_split else file)
        split = SPLIT_FOLDERS[first.lower()] if by_split else ""
        out.append(image_records.Picture(image=b"", file=file, group=group, split=split))
    return out
