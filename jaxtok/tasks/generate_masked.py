"""Training a generator that fills in masked codes of an image, many at a time, with classes or without."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.decode import masked
from jaxtok.diffusion import guidance, noise, times
from jaxtok.tasks import code_guidance, conditions
from jaxtok.tasks.generate_ar import check_shape, data, program, rows

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class MaskedSampling:
    """How codes are filled in.

    Attributes:
      steps: calls of the network.
      temperature: of the draws; 0 takes the most probable codes.
      choice_temperature: of the Gumbel noise on the confidence by which codes are kept.
      guidance: u + guidance (c - u) of the logits; 1 for none.
      scale: how guidance moves over the steps, one of ``code_guidance.SCALES``.
      schedule: the share that stays masked by step, see ``jaxtok.decode.masked``.
    """

    steps: int = 12
    temperature: float = 1.0
    choice_temperature: float = 4.5
    guidance: float = 1.0
    scale: str = "constant"
    schedule: str = "cosine"

    @property
    def calls(self) -> int:
        """Of the network for one sample; a guided one counts twice."""
        return self.steps * (2 if self.guidance != 1.0 else 1)

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.temperature < 0 or self.choice_temperature < 0 or self.guidance < 0:
            raise ValueError(
                "temperature, choice_temperature and guidance must not be negative, found "
                f"{self.temperature}, {self.choice_temperature} and {self.guidance}"
            )
        code_guidance.check(self.scale)
        masked.masked_share(jnp.ones(()), 2, self.schedule)  # refuses an unknown one


@dataclasses.dataclass(frozen=True)
class GenerateMasked:
    """MaskGIT's training: a share cos(pi u/2), u uniform per example, of the codes is masked and to be told.

    loss = sum over masked codes of the cross-entropy with smoothed labels / (codes * expected share): its mean over
    batches weighs every masked code alike, as the reference does, and examples still add up one by one. The softmax is
    over the codebook alone.

    Attributes:
      model: such as :class:`jaxtok.nn.token_transformer.MaskedCodes`.
      label_drop: share of examples whose class is masked too, for guidance.
      smoothing: of the labels, over the codebook.
      least: the smallest share that is masked.
    """

    model: Any
    label_drop: float = 0.1
    smoothing: float = 0.1
    least: float = 0.0

    def __post_init__(self):
        for name in ("label_drop", "smoothing", "least"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], found {getattr(self, name)}")

    accumulable = True

    @property
    def classes(self) -> int:
        """Labels that the network knows, besides the one of no class."""
        return self.model.classes

    @property
    def expected(self) -> float:
        """The mean of max(cos(pi u/2), least) over uniform u."""
        edge = 2 / math.pi * math.acos(self.least)
        return 2 / math.pi * math.sin(math.pi / 2 * edge) + (1 - edge) * self.least

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters from a batch's shapes; no state, nothing frozen."""
        return self.model.init(rng, *data(batch, self.model))["params"], {}, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The loss of the one player, ``main``, with dropout; ``nats`` are per masked code, without smoothing."""
        del step, frozen, ema
        codes, label = data(batch, self.model)
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(noise.per_example(rng, batch["index"]))
        label = conditions.hide(keys[:, 0], label, self.classes, self.label_drop)
        share = jnp.maximum(jnp.cos(jnp.pi / 2 * times.uniform(keys[:, 1])), self.least)
        hidden = chosen(keys[:, 2], share, codes.shape[1])
        log_p, target = self._log_p(params, codes, hidden, label, keys[:, 3])
        smooth = (1 - self.smoothing) * target + self.smoothing * log_p.mean(-1)
        loss = -(smooth * hidden).sum() / (codes.size * self.expected)
        return {"main": (loss, {"nats": -(target * hidden).sum() / hidden.sum()})}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``nats``: per masked code, of each example with its class, at four fixed shares."""
        del state, frozen
        codes, label = data(batch, self.model)
        keys = noise.per_example(rng, batch["index"])

        def at(u: jax.Array) -> jax.Array:
            share = jnp.broadcast_to(jnp.cos(jnp.pi / 2 * u), len(codes))
            hidden = chosen(keys, share, codes.shape[1])
            _, target = self._log_p(params, codes, hidden, label, None)
            return -(target * hidden).sum(1) / hidden.sum(1)

        return {"nats": jax.lax.map(at, times.evenly(jnp.arange(4), 4)).mean(0)}

    def sample(
        self,
        params: Any,
        label: jax.Array | None,
        keys: jax.Array,
        shape: tuple[int, ...],
        sampling: MaskedSampling | None = None,
    ) -> jax.Array:
        """Codes int32 [B, h, w, 1]; each grid depends on its own key and label alone.

        Args:
          params: of the model.
          label: int [B], or None for a network without classes.
          keys: [B].
          shape: (h, w, 1), the model's.
          sampling: None for the defaults.

        Raises:
          ValueError: for another shape, or guidance of a network that knows no class.
        """
        sampling = sampling or MaskedSampling()
        check_shape(shape, self.model)
        label, guided = rows(label, len(keys), self.model, sampling.guidance)

        def predict(ids: jax.Array, done: jax.Array) -> jax.Array:
            logits = self._logits(params, jnp.concatenate([ids, ids]) if guided else ids, label, None)
            if not guided:
                return logits
            scale = code_guidance.scale(sampling.scale, sampling.guidance, done)
            return guidance.classifier_free(*jnp.split(logits, 2), scale)

        start = jnp.full((len(keys), shape[0] * shape[1]), self.model.mask_id, jnp.int32)
        ids = masked.maskgit(
            predict, start, keys, steps=sampling.steps, mask_id=self.model.mask_id, schedule=sampling.schedule,
            temperature=sampling.temperature, choice_temperature=sampling.choice_temperature,
        )  # fmt: skip
        return ids.reshape(-1, *shape)

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``decode``: the codes of a batch of labels with guidance, for ahead-of-time compilation."""
        return {"decode": program(self, MaskedSampling(guidance=2.0 if self.classes else 1.0), params, batch)}

    def _logits(self, params: Any, ids: jax.Array, label: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Of the codes alone, [B, h w, codes]."""
        return self.model.apply({"params": params}, ids, label, keys=keys)[..., : self.model.codes]

    def _log_p(
        self, params: Any, codes: jax.Array, hidden: jax.Array, label: jax.Array, keys: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """log p of all codes [B, h w, codes], and of the right one [B, h w], with some hidden."""
        ids = jnp.where(hidden, self.model.mask_id, codes)
        log_p = jax.nn.log_softmax(self._logits(params, ids, label, keys))
        return log_p, jnp.take_along_axis(log_p, codes[..., None], axis=-1)[..., 0]


def chosen(keys: jax.Array, share: jax.Array, length: int) -> jax.Array:
    """Bool [B, length]: ceil(share * length) random positions of each example, at least one."""
    count = jnp.clip(jnp.ceil(share * length), 1, length)
    return masked.random_order(keys, length).argsort(1) < count[:, None]
