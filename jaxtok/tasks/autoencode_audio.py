"""Training a waveform tokenizer by a mel distance, its quantizer's loss, and against discriminators."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from jaxtok.diffusion import noise
from jaxtok.losses import adversarial, spectral
from jaxtok.nn.discriminators import Panel
from jaxtok.signal.mel import MelFrontEnd
from jaxtok.tasks import codebooks, waveform
from jaxtok.tasks.waveform import Batch, Term
from jaxtok.tokenizers.waveform import WaveformTokenizer


@dataclasses.dataclass(frozen=True)
class AudioAutoencode:
    """Crops of audio through encoder, quantizer and decoder; two players, ``generator`` and ``discriminator``.

    generator: weight * reconstruction + the quantizer's loss + what the discriminators say; discriminator: see
    :class:`jaxtok.tasks.waveform.Term`. All are means over the examples of the global batch. Both players move at once,
    on the same samples (WavTokenizer's trainer, arXiv 2408.16532, moves the discriminators first, and its codebook at
    both turns). Any bottleneck will do: the task's state holds the model's collection "codebook" where it has one,
    which moves once a step, and decayed hit counts of every code where there are codes; a continuous one may draw its
    latents. Padding never enters: a recording shorter than a crop is repeated to its length.

    Attributes:
      model: the tokenizer.
      discriminator: ensembles by name.
      terms: by the names of the ensembles.
      reconstruction: from (audio, estimate) [B, L] to a distance [B]; weight ``weight``.
      start: step from which the discriminators' opinion counts for the generator.
      crop: samples of a training example, whole tokens.
      peak: (low, high) in decibels: each recording is brought to a peak drawn between them; () leaves it.
      bandwidths: how many ids a conditional decoder and conditional discriminators know: one is drawn per example (in
        WavTokenizer's release per turn of a player) in training, and 0 stands in evaluation; 0 bandwidths for none.
      decay: of the hit counts per step.
      floor: a warning is given when fewer codes are in use than this share of what uniform codes would show ...
      patience: ... later than so many steps.
      judge: the front end of the mel distance in evaluation, the same for all systems.
      judged: False leaves the discriminators out of both players' losses, see :meth:`without`.
    """

    model: WaveformTokenizer
    discriminator: Panel
    terms: Mapping[str, Term]
    reconstruction: Callable[[jax.Array, jax.Array], jax.Array] = spectral.mel
    weight: float = 45.0
    start: int = 0
    crop: int = 72000
    peak: tuple[float, ...] = (-6.0, -1.0)
    bandwidths: int = 0
    decay: float = 0.99
    floor: float = 0.25
    patience: int = 200
    judge: MelFrontEnd = MelFrontEnd()
    judged: bool = True

    def __post_init__(self):
        if sorted(self.terms) != sorted(self.discriminator.ensembles):
            raise ValueError(f"terms: expected {sorted(self.discriminator.ensembles)}, found {sorted(self.terms)}")
        waveform.check_crop(self.crop, self.model.hop, self.peak)
        if not 0.0 < self.decay < 1.0:
            raise ValueError(f"decay: expected a number between 0 and 1, found {self.decay}")
        object.__setattr__(self, "terms", FrozenDict(sorted(self.terms.items())))  # so that the task hashes

    @property
    def accumulable(self) -> bool:
        """Whether the quantizer's loss is a mean over examples, so that micro-batches add up; it must say so."""
        return getattr(self.model.quantizer, "accumulable", False)

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters of both players and the state, whatever the batch; nothing frozen."""
        del batch
        keys, audio = jax.random.split(rng), jnp.zeros((1, self.crop))
        variables = self.model.init(keys[0], audio)
        condition = jnp.zeros(1, jnp.int32) if self.bandwidths else None
        discriminator = self.discriminator.init(keys[1], audio, condition)["params"]
        params = {"generator": variables["params"], "discriminator": discriminator}
        return params, codebooks.start(variables, self.model.quantizer), {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The losses of both players and the state after the batch."""
        del frozen, ema
        keys = jax.random.split(rng, 4)
        cut, drop, which = (noise.per_example(key, batch["index"]) for key in keys[:3])
        x = waveform.crops(batch, cut, crop=self.crop, peak=self.peak)
        ids = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.bandwidths))(which) if self.bandwidths else None
        cond = None if ids is None else {"bandwidth_id": ids}
        once = jax.random.fold_in(keys[3], batch["index"][0])  # micro-batches draw differently
        run = {"rng": once, "train": True, "method": "encode", "mutable": ["codebook"]}
        tokens, moved = self._apply(params["generator"], state, x, **run)
        y = self._apply(params["generator"], state, tokens.latents, cond=cond, rng=drop, train=True, method="decode")
        state, watched = codebooks.count(dict(state) | dict(moved), tokens.codes, decay=self.decay)

        def judge(params: Any, audio: jax.Array) -> Any:
            return self.discriminator.apply({"params": params}, audio, ids)

        distance = self.reconstruction(x, y).mean()
        loss = self.weight * distance + tokens.loss
        numbers = {"reconstruction": distance, "quantizer": tokens.loss, **tokens.metrics, **watched}
        if not self.judged:
            return {"generator": (loss, numbers)}, state
        found = waveform.opinion(judge, params["discriminator"], x, y, self.terms)
        loss += adversarial.started(step, self.start) * found.generator
        numbers |= found.numbers
        return {"generator": (loss, numbers), "discriminator": (found.discriminator, found.record)}, state

    def without(self, players: frozenset[str]) -> "AudioAutoencode":
        """The task while these players do not move yet: without discriminators there is nothing that they say."""
        return dataclasses.replace(self, judged="discriminator" not in players)

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """Per recording ``mel_distance`` (nats below 8 kHz) and ``stft_distance`` of its reconstruction."""
        del rng, frozen
        x, y, mask, _ = self.reconstruct(params, state, batch)
        return waveform.distances(x, y, mask, judge=self.judge)

    def reconstruct(
        self, params: Any, state: Any, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        """Recordings, their reconstructions and their mask, all [B, L], and codes [B, T, Q], without training."""
        mask = waveform.mask_of(batch)
        tokens, y = self._apply(params["generator"], state, batch["audio"], mask=mask)
        return jnp.where(mask, batch["audio"], 0), y, mask, tokens.codes

    def warnings(self, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        """What the person who watches training should know; see :func:`jaxtok.tasks.codebooks.warnings`."""
        return codebooks.warnings(
            self.model.quantizer, step, metrics, player="generator", floor=self.floor, patience=self.patience
        )

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``reconstruct``: a batch's recordings through tokens and back, for ahead-of-time compilation."""
        state = jax.eval_shape(lambda: self.init(jax.random.key(0), {})[1])
        return {"reconstruct": (lambda *args: self.reconstruct(*args)[1], (params, state, batch))}

    def _apply(self, params: Any, state: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        moving = {name: state[name] for name in state if name == "codebook"}
        return self.model.apply({"params": params} | moving, *args, **kwargs)
