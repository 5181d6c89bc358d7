"""Utterances as training and evaluation examples: planned from the index alone, decoded only when they are made."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxtok.data import audio, records, sources
from jaxtok.data.cache import cache_of
from jaxtok.data.sources import CorruptRecord
from jaxtok.text.bytes import Bytes

FRAME = 8 * 480  # samples of one token of the flagship at 24 kHz: 8 mel frames of 480 samples


@dataclasses.dataclass(frozen=True)
class Plan:
    """An example before decoding: positions in the source, samples with gaps and without padding, ids of the text."""

    records: tuple[int, ...]
    samples: int
    ids: int

    @property
    def length(self) -> int:
        """Samples."""
        return self.samples


@dataclasses.dataclass(frozen=True)
class Bucket:
    """The static shape of a batch: samples of audio and ids of text."""

    samples: int
    ids: int

    @property
    def length(self) -> int:
        """Samples."""
        return self.samples


@dataclasses.dataclass(frozen=True)
class Utterances:
    """Concatenates utterances of one speaker and language (training) or takes them one by one (evaluation).

    An example's audio is its utterances with ``gap`` seconds of silence between them, its text their texts joined
    by a space; where the speaker is not known, an utterance stands alone. It is zero-padded to a multiple of
    ``multiple`` samples, and that padding counts as audio (its mask is True), so that every token covers whole
    frames; what fills up the bucket beyond has mask False. Decoded audio is kept as 16-bit samples at ``rate``,
    cached or not, so that a cache changes no value.

    Attributes:
      rate: of the examples, in Hz.
      seconds: (low, high): a training example draws its target length between them; utterances are added while they
        fit. An utterance longer than the target stands alone, where a bucket holds it.
      buckets: ((seconds, text ids), ...): the shapes of batches, ascending; seconds in whole multiples of ``multiple``.
      evaluation_buckets: the same for evaluation; empty takes ``buckets``.
      gap: seconds of silence between utterances.
      text: the tokenizer of transcripts.
      multiple: samples that an example's length is a multiple of.
      peak: 0 scales down only peaks over 1; else every utterance is brought to this peak.
      concatenate: False gives single utterances in training too.
      cache: decoded audio kept in memory per process, in megabytes; 0 for none.
    """

    rate: int = 24000
    seconds: tuple[float, float] = (3.0, 6.4)
    buckets: tuple[tuple[float, int], ...] = ((4.8, 128), (6.4, 192))
    evaluation_buckets: tuple[tuple[float, int], ...] = ()
    gap: float = 0.2
    text: Any = dataclasses.field(default_factory=Bytes)
    multiple: int = FRAME
    peak: float = 0.0
    concatenate: bool = True
    cache: int = 320

    kind = "utterances"

    def __post_init__(self):
        if self.rate <= 0 or self.multiple <= 0:
            raise ValueError(f"examples: rate {self.rate} and multiple {self.multiple}: expected positive numbers")
        low, high = self.seconds
        if not 0 < low <= high:
            raise ValueError(f"examples: seconds {tuple(self.seconds)}: expected 0 < low <= high")
        if self.gap < 0 or not 0 <= self.peak <= 1:
            raise ValueError(f"examples: gap {self.gap}, peak {self.peak}: expected gap >= 0 and peak from 0 to 1")
        for training in (True, False):
            self.shapes(training)
        if round(high * self.rate) > self.shapes(True)[-1].samples:
            raise ValueError(f"examples: seconds up to {high}, but the largest bucket has {self.buckets[-1][0]} s")

    def shapes(self, training: bool) -> tuple[Bucket, ...]:
        """The buckets, ascending; ValueError naming one whose length is no multiple or that is out of order."""
        chosen = self.buckets if training or not self.evaluation_buckets else self.evaluation_buckets
        out = [Bucket(round(seconds * self.rate), int(ids)) for seconds, ids in chosen]
        unit = self.multiple / self.rate
        for bucket, (seconds, _) in zip(out, chosen):
            if bucket.samples <= 0 or bucket.samples % self.multiple or bucket.ids < 1:
                near = max(1, math.ceil(seconds / unit - 1e-6)) * unit
                raise ValueError(
                    f"examples: bucket of {seconds} s and {bucket.ids} ids: expected a multiple of {unit:g} s "
                    f"(such as {near:g}) and at least 1 id"
                )
        if not out or any(a.samples >= b.samples or a.ids > b.ids for a, b in itertools.pairwise(out)):
            raise ValueError(f"examples: buckets {tuple(chosen)}: expected at least one, ascending in seconds and ids")
        return tuple(out)

    def planner(self, index: records.Index, chosen: np.ndarray, *, training: bool) -> "Planner":
        """Plans over the positions ``chosen`` of an index."""
        return Planner(self, index, chosen, training)

    def make(self, plan: Plan, bucket: Bucket, source: sources.Source) -> dict[str, np.ndarray]:
        """Decodes a planned example into ``bucket``: audio, audio_mask [L]; text_ids, text_mask [N].

        Raises:
          CorruptRecord: when a record cannot be used.
        """
        pieces, ids = [], np.zeros(0, np.int32)
        silence = np.zeros(round(self.gap * self.rate), np.float32)
        for position in plan.records:
            samples, text = self.utterance(source, position)
            joined = self.text.encode(" ".join([*(piece[1] for piece in pieces), text]))
            if len(joined) > bucket.ids:
                if not pieces:
                    reason = f"its text has {len(joined)} ids, the bucket holds {bucket.ids}"
                    raise CorruptRecord(source, position, reason)
                break
            pieces.append((samples, text))
            ids = joined
        sound = [piece for samples, _ in pieces for piece in (silence, samples)][1:]
        joined_audio = np.concatenate(sound)
        valid = -(-len(joined_audio) // self.multiple) * self.multiple
        return {
            "audio": audio.fit_length(joined_audio, bucket.samples),
            "audio_mask": np.arange(bucket.samples) < valid,
            "text_ids": np.pad(ids, (0, bucket.ids - len(ids)), constant_values=self.text.pad_id),
            "text_mask": np.arange(bucket.ids) < len(ids),
        }

    def blank(self, bucket: Bucket) -> dict[str, np.ndarray]:
        """What stands in a row that is no example: silence of one multiple and one id, so that no mask is empty."""
        ids = np.full(bucket.ids, self.text.pad_id, np.int32)
        return {
            "audio": np.zeros(bucket.samples, np.float32), "audio_mask": np.arange(bucket.samples) < self.multiple,
            "text_ids": ids, "text_mask": np.arange(bucket.ids) < 1,
        }  # fmt: skip

    def utterance(self, source: sources.Source, position: int) -> tuple[np.ndarray, str]:
        """One utterance: float32 [L] at ``rate``, exactly as long as the index says, and its text.

        Raises:
          CorruptRecord: when it cannot be used.
        """
        cache = cache_of(source, ("utterances", self.rate, self.peak), self.cache)
        if (hit := cache.get(position)) is None:
            hit = self._decode(source, position)
            cache.put(position, hit)
        return hit[0].astype(np.float32) / np.float32(32767), hit[1]

    def _decode(self, source: sources.Source, position: int) -> tuple[np.ndarray, str]:
        try:
            record = source.record(position)
            samples, rate = audio.decode(record.audio, f"{source.name}, {record.file}")
            samples = audio.scale(audio.resample(samples, rate, self.rate), self.peak)
        except ValueError as error:
            raise CorruptRecord(source, position, str(error)) from error
        stated = self.length(float(source.index.seconds[position]))
        if abs(len(samples) - stated) > 0.02 * self.rate + 1:
            found = len(samples) / self.rate
            raise CorruptRecord(source, position, f"lasts {found:.3f} s, the index states {stated / self.rate:.3f} s")
        samples = audio.fit_length(samples, stated)
        return np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16), record.text

    def length(self, seconds: float) -> int:
        """Seconds of the index in samples."""
        return max(1, math.floor(seconds * self.rate + 0.5))


class Planner:
    """Composes examples out of the index; a pure function of the anchor and the generator that is passed in."""

    def __init__(self, examples: Utterances, index: records.Index, chosen: np.ndarray, training: bool):
        self.examples, self.training = examples, training
        self.buckets = examples.shapes(training)
        self.samples = np.maximum(1, np.floor(index.seconds * examples.rate + 0.5).astype(np.int64))
        self.ids = np.array([examples.text.length_for(int(n)) for n in index.text_bytes], np.int64)
        fits = (self.padded(self.samples) <= self.buckets[-1].samples) & (self.ids <= self.buckets[-1].ids)
        fits &= (self.ids > 0) & (index.seconds > 0)
        self.anchors = np.asarray([position for position in chosen if fits[position]], np.int64)
        self.left_out = len(chosen) - len(self.anchors)
        self.needs = f"fits the buckets {[(b.samples / examples.rate, b.ids) for b in self.buckets]}"
        self.named = np.array([bool(name) for name in index.speakers])[index.speaker]
        self.group = index.speaker.astype(np.int64) * max(1, len(index.languages)) + index.language
        self.members: Mapping[int, np.ndarray] = {
            int(group): self.anchors[self.group[self.anchors] == group] for group in np.unique(self.group[self.anchors])
        }

    def padded(self, samples: Any) -> Any:
        """Samples rounded up to the multiple."""
        return -(-samples // self.examples.multiple) * self.examples.multiple

    def single(self, position: int) -> Plan:
        """The example of one utterance."""
        return Plan((int(position),), int(self.samples[position]), int(self.ids[position]))

    def plan(self, anchor: int, rng: np.random.Generator, within: Bucket | None = None) -> Plan:
        """The example of an anchor with further utterances of its group, up to a drawn target length.

        Args:
          anchor: a position of ``anchors``.
          rng: draws the target and the further utterances.
          within: nothing longer than this; by default the largest bucket.
        """
        plan, limit = self.single(anchor), within or self.buckets[-1]
        if not self.examples.concatenate or not self.named[anchor]:
            return plan
        low, high = self.examples.seconds
        target = min(int((low + (high - low) * rng.random()) * self.examples.rate), limit.samples)
        gap = round(self.examples.gap * self.examples.rate)
        members = self.members[int(self.group[anchor])]
        for position in members[rng.integers(len(members), size=24)].tolist():
            samples = plan.samples + gap + int(self.samples[position])
            ids = plan.ids + 1 + int(self.ids[position])
            if samples <= target and ids <= limit.ids and position not in plan.records:
                plan = Plan((*plan.records, position), samples, ids)
        return plan

    def bucket(self, plans: list[Plan]) -> Bucket:
        """The smallest bucket that holds all plans."""
        samples, ids = max(self.padded(plan.samples) for plan in plans), max(plan.ids for plan in plans)
        return next(b for b in self.buckets if b.samples >= samples and b.ids >= ids)

    def replacement(self, plan: Plan, bad: Sequence[int], seed: int, bucket: Bucket) -> Plan:
        """A plan without the record ``bad[-1]``: another of its group in its place where one fits, else without it,
        else another anchor. A pure function of its arguments.

        Args:
          plan: what could not be made.
          bad: the records that were found corrupt for this example, the last one in ``plan``; none of them is taken.
          seed: of the draw.
          bucket: what the new plan fits into.

        Raises:
          ValueError: when no record is left that fits.
        """
        last, rest = bad[-1], tuple(position for position in plan.records if position != bad[-1])
        samples = bucket.samples - (plan.samples - int(self.samples[last]))
        ids = bucket.ids - (plan.ids - int(self.ids[last]))
        taken = (*plan.records, *bad)
        members = self._fitting(self.members[int(self.group[last])], samples, ids, taken)
        if not members.size and not rest:
            members = self._fitting(self.anchors, samples, ids, taken)
        if not members.size and not rest:
            raise ValueError(f"no other record fits in the place of corrupt record {last}")
        chosen = rest
        if members.size:
            other = int(members[np.random.default_rng((seed, *bad, *plan.records)).integers(members.size)])
            chosen = tuple(other if position == last else position for position in plan.records)
        gap = round(self.examples.gap * self.examples.rate)
        total = sum(int(self.samples[position]) for position in chosen) + gap * (len(chosen) - 1)
        return Plan(chosen, total, sum(int(self.ids[position]) for position in chosen) + len(chosen) - 1)

    def _fitting(self, members: np.ndarray, samples: int, ids: int, taken: tuple[int, ...]) -> np.ndarray:
        keep = (self.samples[members] <= samples) & (self.ids[members] <= ids)
        return members[keep & ~np.isin(members, taken)]
