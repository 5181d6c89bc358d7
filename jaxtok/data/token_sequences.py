"""What ``jaxtok encode`` made of speech, as training and evaluation examples: codes and their text."""

import dataclasses
from typing import Any

import numpy as np

from jaxtok.data import sources, tokens
from jaxtok.data.sources import CorruptRecord
from jaxtok.data.speech import Bucket, Plan, Planner, Utterances


@dataclasses.dataclass(frozen=True)
class TokenSequences(Utterances):
    """``codes`` int32 [N, 1] and ``codes_mask`` of stored token sequences, with their texts as in ``Utterances``.

    Lengths are stated as there, in seconds, and planned as there; ``rate`` and ``multiple`` are the tokenizer's.

    Attributes:
      codebook: codes that there are; 0 takes any.
      fingerprint: of the tokenizer that made them, as
        ``dict(target="jaxtok.fingerprint:of_run", run="runs/tadicodec")`` says it; "" takes any.
    """

    gap: float = 0.0
    concatenate: bool = False
    codebook: int = 0
    fingerprint: str = ""

    kind = "token sequences"

    def planner(self, index: Any, chosen: np.ndarray, *, training: bool) -> Planner:
        """Plans over the positions ``chosen`` of an index.

        Raises:
          ValueError: for tokens of another tokenizer, codebook or token rate.
        """
        found = index.tokens
        tokens.check(found, self.fingerprint)
        if self.codebook and self.codebook != found["codebook"]:
            raise ValueError(
                f"examples: codebook {self.codebook}: the source holds tokens of {found['codebook']} codes"
            )
        if (self.rate, self.multiple) != (found["rate"], found["unit"]):
            raise ValueError(
                f"examples: rate {self.rate} and multiple {self.multiple}: the source holds tokens of {found['unit']} "
                f"samples at {found['rate']} Hz"
            )
        return super().planner(index, chosen, training=training)

    def make(self, plan: Plan, bucket: Bucket, source: sources.Source) -> dict[str, np.ndarray]:
        """Reads a planned example: codes [N, 1], codes_mask [N]; text_ids, text_mask [M].

        Raises:
          CorruptRecord: when a record cannot be used.
        """
        codes, texts = [], []
        for position in plan.records:
            try:
                record = source.record(position)
            except ValueError as error:
                raise CorruptRecord(source, position, str(error)) from error
            if record.tokens.ndim != 2 or record.tokens.shape[1] != 1:
                found = f"codes of shape {record.tokens.shape}, expected one per position"
                raise CorruptRecord(source, position, found)
            codes.append(record.tokens)
            texts.append(record.text)
        said = self.text.encode(" ".join(texts))
        if len(said) > bucket.ids:
            reason = f"its text has {len(said)} ids, the bucket holds {bucket.ids}"
            raise CorruptRecord(source, plan.records[-1], reason)
        return self._filled(bucket, np.concatenate(codes), said)

    def blank(self, bucket: Bucket) -> dict[str, np.ndarray]:
        """What stands in a row that is no example: one code and one id, so that no mask is empty."""
        return self._filled(bucket, np.zeros((1, 1), np.int32), np.full(1, self.text.pad_id, np.int32))

    def _filled(self, bucket: Bucket, codes: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
        length, rest = bucket.samples // self.multiple, bucket.ids - len(ids)
        return {
            "codes": np.pad(codes[:length], ((0, max(length - len(codes), 0)), (0, 0))),
            "codes_mask": np.arange(length) < len(codes),
            "text_ids": np.pad(ids, (0, rest), constant_values=self.text.pad_id),
            "text_mask": np.arange(bucket.ids) < len(ids),
        }
