"""Classes of images and of their tokens: what a label counts."""

from typing import Any

import numpy as np

LABELS = ("group", "style", "group_style", "")


def check(label: str) -> None:
    """ValueError for a label that is not one of ``LABELS``."""
    if label not in LABELS:
        raise ValueError(f"examples: label {label!r}: expected one of {', '.join(map(repr, LABELS))}")


def names(label: str, index: Any) -> list[str]:
    """What the numbers of a label stand for.

    Args:
      label: ``group`` (the classes of the source in alphabetical order), ``style``, ``group_style`` (group * number of
        styles + style), or "" for no label.
      index: of images, with the columns ``group`` and ``style``.
    """
    simple = {"group": index.groups, "style": index.styles, "": []}
    if label in simple:
        return simple[label]
    return [f"{group} {style}".strip() for group in index.groups for style in index.styles]


def numbers(label: str, index: Any, at: Any = slice(None)) -> np.ndarray:
    """The classes of the records at ``at``, one position or several: int32 of its shape."""
    group, style = index.group[at], index.style[at]
    simple = {"group": group, "style": style, "": np.zeros_like(group)}
    return np.asarray(simple[label] if label in simple else group * len(index.styles) + style, np.int32)
