"""Training a generator of images (or grids of latents) on a table of noise levels, as DDPM and DiT do."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion import noise, objectives, paths, predictions, samplers, times
from jaxtok.tasks import conditions, diffuse

Batch = Mapping[str, jax.Array]
METHODS = ("ancestral", "ddim", "dpm_solver")
SPACINGS = ("respaced", "trailing", "leading", "linspace")


@dataclasses.dataclass(frozen=True)
class TableSampling:
    """How a generator with a table of noise levels is run.

    Attributes:
      steps: levels of the table that are visited.
      guidance: u + guidance (c - u) of the noise; 1 for none.
      method: one of ``METHODS``; "ancestral" draws noise at each step and uses the learned variance.
      spacing: which levels, see :func:`jaxtok.diffusion.times.indices`.
      channels: how many channels are guided, 0 for all (3 in DiT's released numbers).
      clip: the largest size of the estimated data, 0 for any (1 for pixels, as DDPM does; not for latents). Near pure
        noise an error of the noise is many times larger in the data, and what begins outside does not come back.
    """

    steps: int = 250
    guidance: float = 1.0
    method: str = "ancestral"
    spacing: str = "respaced"
    channels: int = 0
    clip: float = 0.0
    interval = (0.0, 1.0)  # no field: guidance acts at all levels

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, found {self.method!r}")
        if self.spacing not in SPACINGS:
            raise ValueError(f"spacing must be one of {SPACINGS}, found {self.spacing!r}")
        for name in ("guidance", "channels", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, found {getattr(self, name)}")

    @property
    def calls(self) -> int:
        """Of the network for one sample; a guided one counts twice."""
        return self.steps * (2 if self.guidance != 1.0 else 1)


@dataclasses.dataclass(frozen=True)
class Denoise:
    """A network learns the noise of x_k = a_k x + s_k e at a level k of a table, and perhaps its own variance.

    Loss: mean |prediction - target|^2, and with a learned variance the variational bound of the variance in bits, whose
    gradient does not reach the prediction (Nichol and Dhariwal, arXiv 2102.09672; DiT, arXiv 2212.09748). The network
    is fed k itself, from 0 to K - 1.

    Attributes:
      model: ``model(x [B, H, W, C], k [B], condition)``, such as :class:`jaxtok.nn.dit.DiT`; it gives 2 C
        channels where the variance is learned.
      field: the batch's key of the data, "image" or "latents".
      betas: makes the table.
      prediction: "noise"; "v" (a e - s x), which a short training learns better; or "data", see
        :mod:`jaxtok.diffusion.predictions`.
      learned_variance: see above.
      condition: what the network is told: :class:`jaxtok.tasks.conditions.Label`, or ``Text``.
      label_drop: share of examples whose condition is hidden, for guidance.
    """

    model: Any
    field: str = "image"
    betas: Callable[[], tuple[float, ...]] = paths.linear_betas
    prediction: str = "noise"
    learned_variance: bool = True
    condition: Any = conditions.LABEL
    label_drop: float = 0.1

    def __post_init__(self):
        conditions.check_drop(self.label_drop)
        if self.prediction not in (kinds := ("noise", "v", "data")):  # a table has no velocity
            raise ValueError(f"prediction must be one of {kinds}, found {self.prediction!r}")

    accumulable = True

    @functools.cached_property
    def path(self) -> paths.Discrete:
        """The table."""
        return paths.Discrete(self.betas())

    @property
    def classes(self) -> int:
        """Labels that the network knows, besides the one of no class."""
        return self.model.classes

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters from a batch's shapes; no state, nothing frozen."""
        x, condition = self._data(batch)
        return self.model.init(rng, x, jnp.ones(len(x)), condition)["params"], {}, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The loss of the one player, ``main``."""
        del step, frozen, ema
        x, condition = self._data(batch)
        keys = jax.vmap(lambda key: jax.random.split(key, 3))(noise.per_example(rng, batch["index"]))
        levels = len(self.path.betas)
        k = jnp.minimum((times.uniform(keys[:, 0]) * levels).astype(jnp.int32), levels - 1)
        e = noise.unit(keys[:, 1], x.shape[1:])
        if condition is not None:
            condition = conditions.hide(
                keys[:, 2], condition, self.condition.none(condition, self.model), self.label_drop
            )
        x_k = paths.corrupt(self.path, x, e, k)
        guess, between = self._predict(params, x_k, k, condition)
        loss = jnp.square(guess - predictions.target(self.prediction, self.path, x, e, k)).mean()
        numbers = {self.prediction: loss}
        if between is not None:
            data, _ = predictions.data_and_noise(self.prediction, self.path, guess, x_k, k)
            numbers["bound"] = objectives.learned_variance_bound(x, x_k, k, data, between, self.path).mean()
            loss = loss + numbers["bound"]
        return {"main": (loss, numbers)}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``noise``: the squared error of the noise per example at 4 fixed levels."""
        del state, frozen
        x, condition = self._data(batch)
        e = noise.unit(noise.per_example(rng, batch["index"]), x.shape[1:])

        def at(k: jax.Array) -> jax.Array:
            k = jnp.broadcast_to(k, len(x))
            x_k = paths.corrupt(self.path, x, e, k)
            guess, _ = self._predict(params, x_k, k, condition)
            _, guess = predictions.data_and_noise(self.prediction, self.path, guess, x_k, k)
            return jnp.square(guess - e).reshape(len(x), -1).mean(1)

        levels = (times.evenly(jnp.arange(4), 4) * len(self.path.betas)).astype(jnp.int32)
        return {"noise": jax.lax.map(at, levels).mean(0)}

    def sample(
        self, params: Any, condition: Any, keys: jax.Array, shape: tuple[int, ...],
        sampling: TableSampling | None = None,
    ) -> jax.Array:  # fmt: skip
        """Samples, float32 [B, H, W, C]; each depends on its own key and condition alone.

        Args:
          params: of the model.
          condition: labels int [B]; ids and mask of text; or None for a network that is told nothing.
          keys: [B].
          shape: (H, W, C).
          sampling: None for the defaults.

        Raises:
          ValueError: for guidance of a network that is told nothing, or more steps than the table has levels.
        """
        sampling = sampling or TableSampling()
        draws = jax.vmap(lambda key: jax.random.split(key))(keys)
        start = noise.unit(draws[:, 0], shape)
        indices = times.indices(sampling.steps, len(self.path.betas), spacing=sampling.spacing)

        def predict(x: jax.Array, k: jax.Array, condition: Any) -> jax.Array:
            guess, between = self._predict(params, x, jnp.broadcast_to(k, len(x)), condition)
            return guess if between is None else jnp.concatenate([guess, between], -1)

        # Guidance is of the prediction, which is that of the noise; the variance is the conditional pass's.
        channels = sampling.channels or shape[-1]
        told = conditions.pair(self.condition, condition, self.model, params)
        denoise = diffuse.guided(predict, *told, dataclasses.replace(sampling, channels=channels))

        def estimate(x: jax.Array, k: jax.Array) -> tuple[jax.Array, ...]:
            both = denoise(x, k)
            pair = predictions.data_and_noise(self.prediction, self.path, both[..., : shape[-1]], x, k)
            if sampling.clip:  # and the noise that belongs to it
                data = jnp.clip(pair[0], -sampling.clip, sampling.clip)
                pair = predictions.data_and_noise("data", self.path, data, x, k)
            return (*pair, both[..., shape[-1] :]) if self.learned_variance else pair

        if sampling.method == "ancestral":
            return samplers.ancestral(estimate, start, indices, self.path, draws[:, 1])

        def pair(x: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
            data, e, *_ = estimate(x, k)
            return data, e

        run = samplers.ddim if sampling.method == "ddim" else samplers.dpm_solver
        return run(pair, start, np.append(indices, -1), self.path)

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``decode``: 50 steps with guidance for a batch of conditions, for ahead-of-time compilation."""
        shape = batch[self.field].shape[1:]

        def decode(params, batch, key):
            condition = self._data(batch)[1]
            guided = TableSampling(steps=50, guidance=1.0 if condition is None else 4.0)
            return self.sample(params, condition, noise.per_example(key, batch["index"]), shape, guided)

        key = jax.eval_shape(lambda: jax.random.key(0))
        return {"decode": (decode, (params, batch, key))}

    def _predict(self, params: Any, x: jax.Array, k: jax.Array, condition: Any) -> tuple[jax.Array, jax.Array | None]:
        """The prediction, and the place of the log variance between its bounds where it is learned."""
        out = self.model.apply({"params": params}, x, k.astype(jnp.float32), condition)
        if not self.learned_variance:
            return out, None
        guess, nu = jnp.split(out, 2, axis=-1)
        return guess, (nu + 1) / 2

    def _data(self, batch: Batch) -> tuple[jax.Array, Any]:
        return batch[self.field], self.condition.of(batch, self.model)
