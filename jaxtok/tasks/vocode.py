"""Training a vocoder, mel frames to audio, by a mel distance and against discriminators."""

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
from jaxtok.tasks import waveform
from jaxtok.tasks.waveform import Batch


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
        its player's ``start``, before which it says nothing.
      crop: samples of a training example.
      peak: (low, high) in decibels: each recording is brought to a peak drawn between them; () leaves it.
      judge: the front end of the mel distance in evaluation, the same for all vocoders.
      judged: False leaves the discriminators out of both players' losses, see :meth:`without`.
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
    judged: bool = True

    def __post_init__(self):
        adversarial.criterion(self.criterion)
        if sorted(self.weights) != sorted(self.discriminator.ensembles):
            raise ValueError(f"weights: expected {sorted(self.discriminator.ensembles)}, found {sorted(self.weights)}")
        waveform.check_crop(self.crop, self.frontend.hop, self.peak)
        if getattr(self.frontend, "padding", "same") != "same":
            raise ValueError(
                f"frontend: expected L // hop frames of L samples, found padding {self.frontend.padding!r}"
            )
        for name in ("hop", "bands"):
            if (ours := getattr(self.model, name)) != (found := getattr(self.frontend, name)):
                raise ValueError(f"frontend: expected the model's {name} {ours}, found {found}")
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
            state["lecam"] = adversarial.lecam_init(waveform.logits(seen))
        return {"generator": generator, "discriminator": discriminator}, state, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The losses of both players and the state after the batch."""
        del frozen, ema
        x = self.crops(batch, noise.per_example(rng, batch["index"]))
        y = self.model.apply({"params": params["generator"]}, self.frontend(x))
        distance = self.reconstruction(x, y).mean()
        if not self.judged:
            return {"generator": (self.weight * distance, {"reconstruction": distance})}, state
        found = waveform.opinion(self._judge, params["discriminator"], x, y, self._terms())
        told, record = found.discriminator, found.record
        if self.lecam:
            record = record | {"lecam": adversarial.lecam(found.real, found.fake, state["lecam"]).mean()}
            told += self.lecam * record["lecam"]
            state = dict(state) | {"lecam": adversarial.lecam_update(state["lecam"], found.real, found.fake)}
        loss = self.weight * distance + adversarial.started(step, self.start) * found.generator
        numbers = {"reconstruction": distance} | found.numbers
        return {"generator": (loss, numbers), "discriminator": (told, record)}, state

    def without(self, players: frozenset[str]) -> "Vocode":
        """The task while these players do not move yet: without discriminators there is nothing that they say."""
        return dataclasses.replace(self, judged="discriminator" not in players)

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """Per recording ``mel_distance`` (nats below 8 kHz) and ``stft_distance`` of its audio from its own mel."""
        del state, rng, frozen
        return self.distances(*self.vocode(params, batch))

    def distances(self, x: jax.Array, y: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        """``mel_distance`` and ``stft_distance`` [B] of audio y from recordings x, both [B, L], inside the mask."""
        return waveform.distances(x, y, mask, judge=self.judge)

    def vocode(self, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Whole recordings, their audio from their own mel, and the mask, all [B, whole hops of L]."""
        lengths = waveform.mask_of(batch).sum(1) // self.frontend.hop * self.frontend.hop
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
        return waveform.crops(batch, keys, crop=self.crop, peak=self.peak)

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``vocode``: a batch's recordings through mel and back, for ahead-of-time compilation."""
        return {"vocode": (lambda params, batch: self.vocode(params, batch)[1], (params, batch))}

    def _judge(self, params: Any, audio: jax.Array) -> Any:
        return self.discriminator.apply({"params": params}, audio)

    def _terms(self) -> dict[str, waveform.Term]:
        fields: dict[str, Any] = dict(matching=self.matching, criterion=self.criterion, first=self.first)
        return {name: waveform.Term(weight, **fields) for name, weight in self.weights.items()}
