"""Training a generator of images (or grids of latents) by diffusion, from classes, from text or from nothing."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion import guidance, noise, paths, predictions, samplers, times
from jaxtok.tasks import conditions

Batch = Mapping[str, jax.Array]
Draw = Callable[[jax.Array], jax.Array]  # keys [B] to times [B]

METHODS = ("euler", "heun", "adams_bashforth", "ddim", "dpm_solver", "euler_maruyama")


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a generator is run.

    Attributes:
      steps: of the grid.
      guidance: u + guidance (c - u); 1 for none.
      method: one of ``METHODS``; the last is stochastic.
      shift: of the grid; above 1 more steps near noise.
      interval: (low, high), the times in which guidance acts, 0 is data.
      channels: how many channels are guided, 0 for all (3 in DiT and LightningDiT's released numbers).
    """

    steps: int = 50
    guidance: float = 1.0
    method: str = "euler"
    shift: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    channels: int = 0

    @property
    def calls(self) -> int:
        """Of the network for one sample; a guided one counts twice."""
        passes = 2 * self.steps if self.method == "heun" else self.steps
        return passes * (2 if self.guidance != 1.0 else 1)

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, found {self.method!r}")
        if self.guidance < 0:
            raise ValueError(f"guidance must not be negative, found {self.guidance}")
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, found {self.shift}")
        if self.interval[0] > self.interval[1] or self.channels < 0:
            raise ValueError(
                f"expected an interval (low, high) and channels >= 0, found {self.interval} and {self.channels}"
            )


@dataclasses.dataclass(frozen=True)
class Diffuse:
    """A network learns the flow of images: x_t = a x + s e at a drawn time, loss mean |prediction - target|^2.

    The library's time runs from 0 (data) to 1 (noise). ``flip`` feeds the network 1 - t, and takes its output as the
    velocity towards data (SiT, LightningDiT); ``scale`` multiplies the time that it is fed.

    Attributes:
      model: ``model(x [B, H, W, C], t [B], condition)``, such as :class:`jaxtok.nn.dit.DiT`.
      field: the batch's key of the data, "image" or "latents".
      draw: times of training, from keys [B].
      shift: of the drawn times.
      condition: what the network is told: :class:`jaxtok.tasks.conditions.Label`, or ``Text``.
      label_drop: share of examples whose condition is hidden, for guidance.
      direction: weight of the mean of 1 - cos(prediction, target) over channels (LightningDiT).
      flip: see above.
      scale: see above.
      path: the interpolation.
    """

    model: Any
    field: str = "image"
    draw: Draw = times.logit_normal
    shift: float = 1.0
    condition: Any = conditions.LABEL
    label_drop: float = 0.1
    direction: float = 0.0
    flip: bool = True
    scale: float = 1.0
    path: paths.Path = paths.Linear()

    def __post_init__(self):
        conditions.check_drop(self.label_drop)

    accumulable = True

    @property
    def classes(self) -> int:
        """Labels that the network knows, besides the one of no class."""
        return self.model.classes

    def velocity(self, params: Any, x: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
        """dx/dt in the library's time, at times t [B] or one for all: the network behind its conventions."""
        t = jnp.broadcast_to(t, (len(x),))
        fed = (1 - t if self.flip else t) * self.scale
        out = self.model.apply({"params": params}, x, fed, condition)
        return -out if self.flip else out

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
        t = jnp.asarray(times.shift(self.draw(keys[:, 0]), self.shift))
        e = noise.unit(keys[:, 1], x.shape[1:])
        if condition is not None:
            condition = conditions.hide(
                keys[:, 2], condition, self.condition.none(condition, self.model), self.label_drop
            )
        x_t, target = paths.interpolate(self.path, x, e, t)
        found = self.velocity(params, x_t, t, condition)
        loss = jnp.square(found - target).mean()
        numbers = {"flow": loss}
        if self.direction:
            numbers["direction"] = (1 - _cosine(found, target)).mean()
            loss = loss + self.direction * numbers["direction"]
        return {"main": (loss, numbers)}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``flow``: the squared error of the velocity per example at 4 fixed times."""
        del state, frozen
        x, condition = self._data(batch)
        e = noise.unit(noise.per_example(rng, batch["index"]), x.shape[1:])

        def at(t: jax.Array) -> jax.Array:
            x_t, target = paths.interpolate(self.path, x, e, jnp.broadcast_to(t, len(x)))
            error = jnp.square(self.velocity(params, x_t, t, condition) - target)
            return error.reshape(len(x), -1).mean(1)

        return {"flow": jax.lax.map(at, times.evenly(jnp.arange(4), 4)).mean(0)}

    def sample(
        self,
        params: Any,
        condition: Any,
        keys: jax.Array,
        shape: tuple[int, ...],
        sampling: Sampling | None = None,
    ) -> jax.Array:
        """Samples, float32 [B, H, W, C]; each depends on its own key and condition alone.

        Args:
          params: of the model.
          condition: labels int [B]; ids and mask of text; or None for a network that is told nothing.
          keys: [B].
          shape: (H, W, C).
          sampling: None for the defaults.

        Raises:
          ValueError: for guidance of a network that is told nothing.
        """
        sampling = sampling or Sampling()
        draws = jax.vmap(lambda key: jax.random.split(key))(keys)
        start = noise.unit(draws[:, 0], shape)
        grid = np.asarray(times.shift(times.uniform_grid(sampling.steps), sampling.shift), np.float32)

        velocity = guided(
            functools.partial(self.velocity, params), *conditions.pair(self.condition, condition, self.model, params),
            sampling,
        )  # fmt: skip
        return _run(sampling.method, velocity, self.path, start, grid, draws[:, 1])

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``decode``: 50 Euler steps with guidance for a batch of conditions, for ahead-of-time compilation."""
        shape = batch[self.field].shape[1:]

        def decode(params, batch, key):
            condition = self._data(batch)[1]
            guided = Sampling(guidance=1.0 if condition is None else 4.0)
            return self.sample(params, condition, noise.per_example(key, batch["index"]), shape, guided)

        key = jax.eval_shape(lambda: jax.random.key(0))
        return {"decode": (decode, (params, batch, key))}

    def _data(self, batch: Batch) -> tuple[jax.Array, Any]:
        return batch[self.field], self.condition.of(batch, self.model)


def guided(predict: Callable[..., jax.Array], condition: Any, none: Any, sampling: Any) -> Callable[..., jax.Array]:
    """A denoiser ``(x, t) -> prediction`` of one ``(x, t, condition)``, with guidance of the first channels or of all.

    Args:
      predict: of x [B, ...] at times t, with conditions [B, ...] or None.
      condition: what is told, or None.
      none: what tells nothing, alike.
      sampling: has ``guidance``, ``interval`` and ``channels``, see :class:`Sampling`.

    Raises:
      ValueError: for guidance without conditions.
    """

    def strong(x: jax.Array, t: jax.Array) -> jax.Array:
        return predict(x, t, condition)

    if sampling.guidance == 1.0:
        return strong
    if condition is None:
        raise ValueError("guidance needs a model with classes or text, found one without")

    def weak(x: jax.Array, t: jax.Array) -> jax.Array:
        return predict(x, t, none)

    def rule(conditional: jax.Array, unconditional: jax.Array, scale: jax.Array | float) -> jax.Array:
        mixed = guidance.classifier_free(conditional, unconditional, scale)
        return guidance.some_channels(mixed, conditional, sampling.channels) if sampling.channels else mixed

    low, high = sampling.interval
    scale = functools.partial(guidance.interval, scale=sampling.guidance, low=low, high=high)
    return guidance.guided(strong, weak, sampling.guidance if (low, high) == (0.0, 1.0) else scale, rule=rule)


def _run(
    method: str, velocity: Any, path: paths.Path, start: jax.Array, grid: np.ndarray, keys: jax.Array
) -> jax.Array:
    """The sampler of a name."""
    if method in ("ddim", "dpm_solver"):
        estimate = predictions.estimator(velocity, "flow", path)
        return getattr(samplers, method)(estimate, start, grid, path)
    if method == "euler_maruyama":

        def score(x, t):
            return predictions.score("flow", path, velocity(x, t), x, t)

        return samplers.euler_maruyama(velocity, score, start, grid, keys)
    return getattr(samplers, method)(velocity, start, grid)


def _cosine(found: jax.Array, target: jax.Array) -> jax.Array:
    """Over the last axis, with |found| at least a hundredth of |target|: a network begins at 0, where it has a pole."""
    power = jnp.sum(target * target, -1)
    norms = jnp.maximum(jnp.sum(found * found, -1), 1e-4 * power) * power
    return jnp.sum(found * target, -1) * jax.lax.rsqrt(jnp.maximum(norms, 1e-12))
