"""Tokens without a trained tokenizer: the mean colour of each patch, rounded to a few levels per channel."""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxtok.data import sources
from jaxtok.data.images import Bucket, Images, Plan


@dataclasses.dataclass(frozen=True)
class Mosaic(Images):
    """``codes`` int32 [size / patch, size / patch, 1] of images, made as they are read; the rest as in ``Images``.

    The codes are those of :mod:`jaxtok.nn.mosaic` with ``FSQ(levels, symmetric=True, bound="clip")`` between.

    Attributes:
      patch: side of a patch in pixels.
      levels: of red, green and blue.
    """

    patch: int = 4
    levels: tuple[int, int, int] = (8, 8, 8)

    def __post_init__(self):
        super().__post_init__()
        if self.patch < 1 or self.size % self.patch:
            raise ValueError(f"examples: patch {self.patch}: expected a divisor of the size {self.size}")
        if len(self.levels) != 3 or min(self.levels) < 2:
            raise ValueError(f"examples: levels {tuple(self.levels)}: expected three numbers of at least 2")

    @property
    def codebook(self) -> int:
        """Codes that there are."""
        return math.prod(self.levels)

    def make(self, plan: Plan, bucket: Bucket, source: sources.Source) -> dict[str, np.ndarray]:
        """A planned example: codes [h, w, 1]; label; text_ids, text_mask [N]."""
        return self._coded(super().make(plan, bucket, source))

    def blank(self, bucket: Bucket) -> dict[str, np.ndarray]:
        """What stands in a row that is no example."""
        return self._coded(super().blank(bucket))

    def _coded(self, example: dict[str, Any]) -> dict[str, np.ndarray]:
        image = example.pop("image")
        side = len(image) // self.patch
        colours = image.reshape(side, self.patch, side, self.patch, 3).mean((1, 3))
        sizes = np.asarray(self.levels, np.float32)
        digits = np.floor((sizes - 1) * (colours + 1) / 2 + 0.5).astype(np.int32)
        places = np.cumprod((1, *self.levels[:-1]))  # red is the least significant
        return {"codes": (digits * places).sum(-1, keepdims=True).astype(np.int32)} | example
