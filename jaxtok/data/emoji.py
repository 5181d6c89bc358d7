"""Which emoji show the same thing, so that none of them is learned from and another one held out.

    python -m jaxtok.data.emoji FOLDER    rewrites the TSV of a folder of emoji for ``jaxtok data pack``

A file is named after its emoji's code points, ``STYLE/1f468-200d-1f373.webp``.
"""

import csv
import hashlib
import pathlib
import sys
from collections.abc import Iterable

# Joiners, skin tones, and the signs that say female, male and facing right.
_MODIFIERS = {"200d", "fe0f", "2640", "2642", "27a1", "1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
_PERSON, _CHILD, _FAMILY = "1f9d1", "1f9d2", "1f46a"
_ANY = dict.fromkeys(("1f468", "1f469"), _PERSON) | dict.fromkeys(("1f466", "1f467"), _CHILD)
_SAME = {
    "1f474": "1f9d3", "1f475": "1f9d3",  # old man, old woman: older person
    "1f934": "1fac5", "1f478": "1fac5",  # prince, princess: person with crown
    "1f936": "1f385", "1f9d1-1f384": "1f385",  # Mrs. Claus, Mx Claus: Santa Claus
    "1f930": "1fac4", "1fac3": "1fac4",  # pregnant woman, pregnant man: pregnant person
    "1f57a": "1f483",  # man dancing: woman dancing
    "1f46c": "1f46b", "1f46d": "1f46b", "1f9d1-1f91d-1f9d1": "1f46b",  # people holding hands
    "1f9d1-2764-1f9d1": "1f491", "1f9d1-2764-1f48b-1f9d1": "1f48f",  # couple with heart, kiss
}  # fmt: skip


def item(name: str) -> str:
    """What an emoji shows, whatever the gender, skin tone or direction: the code points of its plainest form.

    Man and woman are person, boy and girl are child, and several of them and nothing else are a family.

    Args:
      name: code points in hexadecimal, joined by ``-``.
    """
    parts = [_ANY.get(part, part) for part in name.lower().split("-")]
    parts = [part for part in parts if part not in _MODIFIERS] or parts
    if len(parts) > 1 and set(parts) <= {_PERSON, _CHILD}:
        return _FAMILY
    plain = "-".join(parts)
    return _SAME.get(plain, plain)


def items(files: Iterable[tuple[str, bytes]]) -> list[str]:
    """The item of each (file name, bytes): by ``item``, and items with an identical file between them are one.

    So the flags of France and of Clipperton Island are one item. The name is that of the first in alphabetical order.
    """
    names, above, first = [], {}, {}

    def root(name: str) -> str:
        while (upper := above.setdefault(name, name)) != name:
            name = upper
        return name

    for file, data in files:
        name = item(pathlib.PurePath(file).stem)
        names.append(name)
        one, other = sorted((root(name), root(first.setdefault(hashlib.sha256(data).digest(), name))))
        above[other] = one
    return [root(name) for name in names]


def main(folder: str) -> None:
    """Rewrites the TSV: the column ``item`` is added, and captions are named ``caption_LANGUAGE``."""
    (path,) = pathlib.Path(folder).glob("*.tsv")
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    found = items((row["file"], (path.parent / row["file"]).read_bytes()) for row in rows)
    known = ("file", "style", "group", "tags")
    lines = []
    for row, shown in zip(rows, found):
        captions = {f"caption_{'en' if name == 'caption' else name}": row[name] for name in row if name not in known}
        lines.append({name: row[name] for name in known} | {"item": shown} | dict(sorted(captions.items())))
    text = ["\t".join(lines[0]), *("\t".join(line.values()) for line in lines)]
    path.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
