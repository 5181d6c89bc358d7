"""Training a vocoder, mel frames to audio, by a mel distance and against discriminators."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from jaxtok.diffusion import noise
from jaxtok.losses import adversarial, spectral
from jaxtok.metrics import audio as metrics
from jaxtok.nn.discriminators import Panel
from jaxtok.signal.mel import MelFrontEnd

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Vocode:
    """Crops of audio, their mel, and audio from it again; two players, ``generator`` and ``discriminator``.

    generator: weight * reconstruction + sum over ensembles of their weight * (adversarial + matching * features);
    discriminator: sum over ensembles of their weight * the criterion (+ LeCam). All are means over the examples of the
    global batch. Both players move at once, on the same samples; Vocos's trainer (arXiv 2306.00814) moves the
    discriminator first. Padding never enters: a recording shorter than a crop is repeated to its length, as there.

    Attributes:
      model: the generator, from mel [B, T, bands] to audio [B, hop T], such as :class:`jaxtok.nn.vocos.Vocos`.
      discriminator: ensembles by name.
      frontend: audio [B, L] to mel [B, L // hop, bands], with the fields ``hop`` and ``bands``.
      weights: of the ensembles, by their names.
      reconstruction: from (audio, estimate) [B, L] to a distance [B]; weight ``weight``.
      matching: weight of the features' distances beside the adversarial terms.
      first: the first hidden layer that is matched; the logits are matched as well.
      criterion: see :data:`jaxtok.losses.adversarial.CRITERIA`.
      lecam: weight of LeCam regularisation; 0 for none.
      start: step from which the discriminator's opinion counts for the generator; when it begins to learn itself is
        its player's ``start``.
      crop: samples of a training example.
      peak: (low, high) in decibels: each recording is brought to a peak drawn between them; () leaves it.
      judge: the front end of the mel distance in evaluation, the same for all vocoders.
    """

    model: Any
    discriminator: Panel
    frontend: Any
    weights: Mapping[str, float]
    reconstruction: Callable[[jax.Array, jax.Array], jax.Array] = spectral.mel
    weight: float = 45.0
    matching: float = 1.0
    first: int = 1
    criterion: str = "clipped_hinge"
    lecam: float = 0.0
    start: int = 0
    crop: int = 16384
    peak: tuple[float, ...] = (-6.0, -1.0)
    judge: MelFrontEnd = MelFrontEnd()

    def __post_init__(self):
        adversarial.criterion(self.criterion)
        if sorted(self.weights) != sorted(self.discriminator.ensembles):
            raise ValueError(f"weights: expected {sorted(self.discriminator.ensembles)}, found {sorted(self.weights)}")
        if self.crop <= 0 or self.crop % self.frontend.hop:
            raise ValueError(f"crop: expected whole hops of {self.frontend.hop} samples, found {self.crop}")
        if getattr(self.frontend, "padding", "same") != "same":
            raise ValueError(
                f"frontend: expected L // hop frames of L samples, found padding {self.frontend.padding!r}"
            )
        for name in ("hop", "bands"):
            if (ours := getattr(self.model, name)) != (found := getattr(self.frontend, name)):
                raise ValueError(f"frontend: expected the model's {name} {ours}, found {found}")
        if self.peak and (len(self.peak) != 2 or not self.peak[0] <= self.peak[1] <= 0):
            raise ValueError(f"peak: expected (low, high) decibels up to 0, or (), found {self.peak}")
        object.__setattr__(self, "weights", FrozenDict(sorted(self.weights.items())))  # so that the task hashes

    @property
    def accumulable(self) -> bool:
        """Whether micro-batches add up to the batch: LeCam's averages would move once per micro-batch."""
        return not self.lecam

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters of both players, whatever the batch, and LeCam's averages where it is on; nothing frozen."""
        del batch
        keys = jax.random.split(rng)
        audio = jnp.zeros((1, self.crop))
        generator = self.model.init(keys[0], self.frontend(audio))["params"]
        discriminator = self.discriminator.init(keys[1], audio)["params"]
        state = {}
        if self.lecam:
            seen = jax.eval_shape(self._judge, discriminator, audio)
            state["lecam"] = adversarial.lecam_init(_logits(seen))
        return {"generator": generator, "discriminator": discriminator}, state, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The losses of both players and the state after the batch."""
        del frozen, ema
        x = self.crops(batch, noise.per_example(rng, batch["index"]))
        y = self.model.apply({"params": params["generator"]}, self.frontend(x))
        seen = adversarial.looks(self._judge, params["discriminator"], x, y)
        distance = self.reconstruction(x, y).mean()
        opinion, told = jnp.zeros(()), jnp.zeros(())
        numbers, record = {"reconstruction": distance}, {}
        for name, weight in self.weights.items():
            real, fake, through = (look[name] for look in seen)
            numbers[f"adversarial_{name}"] = adversarial.generator_loss(_logits(through), self.criterion).mean()
            matched = adversarial.feature_matching(self._layers(real), self._layers(through)).mean()
            numbers[f"features_{name}"] = matched
            opinion += weight * (numbers[f"adversarial_{name}"] + self.matching * matched)
            record[name] = adversarial.discriminator_loss(_logits(real), _logits(fake), self.criterion).mean()
            told += weight * record[name]
        if self.lecam:
            logits = _logits(seen.real), _logits(seen.fake)
            record["lecam"] = adversarial.lecam(*logits, state["lecam"]).mean()
            told += self.lecam * record["lecam"]
            state = dict(state) | {"lecam": adversarial.lecam_update(state["lecam"], *logits)}
        loss = self.weight * distance + adversarial.started(step, self.start) * opinion
        return {"generator": (loss, numbers), "discriminator": (told, record)}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """Per recording ``mel_distance`` (nats below 8 kHz) and ``stft_distance`` of its audio from its own mel."""
        del state, rng, frozen
        return self.distances(*self.vocode(params, batch))

    def distances(self, x: jax.Array, y: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        """``mel_distance`` and ``stft_distance`` [B] of audio y from recordings x, both [B, L], inside the mask."""
        lengths = mask.sum(1)
        mels = [self.judge(audio, lengths=lengths) for audio in (x, y)]
        frames = jnp.arange(mels[0].shape[1]) < (lengths // self.judge.hop)[:, None]
        return {
            "mel_distance": metrics.mel_distance(*mels, frames, frontend=self.judge),
            "stft_distance": metrics.stft_distance(x, y, mask),
        }

    def vocode(self, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Whole recordings, their audio from their own mel, and the mask, all [B, whole hops of L]."""
        lengths = _mask(batch).sum(1) // self.frontend.hop * self.frontend.hop
        mel = self.frontend(batch["audio"], lengths=lengths)
        frames = jnp.arange(mel.shape[1]) < (lengths // self.frontend.hop)[:, None]
        y = self.model.apply({"params": params["generator"]}, mel, mask=frames)
        mask = jnp.arange(y.shape[1]) < lengths[:, None]
        return jnp.where(mask, batch["audio"][:, : y.shape[1]], 0), y, mask

    def crops(self, batch: Batch, keys: jax.Array) -> jax.Array:
        """Training examples [B, crop]: a stretch drawn from each recording, at a drawn peak.

        Args:
          batch: ``audio [B, L]`` and, where there is padding, ``audio_mask``.
          keys: one per recording, [B].
        """
        mask = _mask(batch)
        lengths = mask.sum(1)
        draw = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
        room = jnp.maximum(lengths - self.crop, 0)
        start = jnp.minimum((draw[:, 0] * (room + 1)).astype(jnp.int32), room)
        index = (start[:, None] + jnp.arange(self.crop)) % jnp.maximum(lengths, 1)[:, None]
        x = jnp.take_along_axis(batch["audio"], index, axis=1)
        if not self.peak:
            return x
        low, high = self.peak
        loudest = jnp.where(mask, jnp.abs(batch["audio"]), 0).max(1)
        gain = 10 ** ((low + (high - low) * draw[:, 1]) / 20) / jnp.where(loudest > 0, loudest, 1)
        return x * gain[:, None]

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``vocode``: a batch's recordings through mel and back, for ahead-of-time compilation."""
        return {"vocode": (lambda params, batch: self.vocode(params, batch)[1], (params, batch))}

    def _judge(self, params: Any, audio: jax.Array) -> Any:
        return self.discriminator.apply({"params": params}, audio)

    def _layers(self, judged: Any) -> list[tuple[Any, ...]]:
        return [(*one.features[self.first :], one.logits) for one in judged]


def _logits(seen: Any) -> Any:
    """The logits alone of what an ensemble, or a panel of them, says."""
    if isinstance(seen, Mapping):
        return {name: _logits(ensemble) for name, ensemble in seen.items()}
    return tuple(one.logits for one in seen)


def _mask(batch: Batch) -> jax.Array:
    return batch["audio_mask"] if "audio_mask" in batch else jnp.ones(batch["audio"].shape, bool)
