"""Tokens of speech without a trained tokenizer: how loud each stretch is, rounded to a few levels."""

import dataclasses
from typing import Any

import numpy as np

from jaxtok.data import sources
from jaxtok.data.speech import Bucket, Plan, Utterances

QUIET = -60.0  # dB of full scale, what the lowest level stands for


@dataclasses.dataclass(frozen=True)
class Loudness(Utterances):
    """``codes`` int32 [L / multiple, 1] and ``codes_mask`` in place of audio, made as it is read; else ``Utterances``.

    A code is the root mean square of its ``multiple`` samples in decibels, from ``QUIET`` to 0 in equal steps.

    Attributes:
      levels: of loudness, which are the codes.
    """

    levels: int = 16

    def __post_init__(self):
        super().__post_init__()
        if self.levels < 2:
            raise ValueError(f"examples: levels {self.levels}: expected at least 2")

    def make(self, plan: Plan, bucket: Bucket, source: sources.Source) -> dict[str, np.ndarray]:
        """A planned example: codes [N, 1], codes_mask [N]; text_ids, text_mask [M]."""
        return self._coded(super().make(plan, bucket, source))

    def blank(self, bucket: Bucket) -> dict[str, np.ndarray]:
        """What stands in a row that is no example."""
        return self._coded(super().blank(bucket))

    def _coded(self, example: dict[str, Any]) -> dict[str, np.ndarray]:
        power = np.square(example.pop("audio").reshape(-1, self.multiple)).mean(-1)
        loud = 1.0 - 10.0 * np.log10(np.maximum(power, 10.0 ** (QUIET / 10))) / QUIET  # 0 to 1
        codes = np.rint(np.minimum(loud, 1.0) * (self.levels - 1)).astype(np.int32)
        return {"codes": codes[:, None], "codes_mask": example.pop("audio_mask")[:: self.multiple]} | example
