"""Interpolation paths x_t = a(t) x + s(t) e between data (t = 0) and unit Gaussian noise (t = 1).

:class:`Sigma` and :class:`Discrete` have other clocks: the noise level, and the index of a table.
"""

import dataclasses
import functools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Path(Protocol):
    """What samplers and objectives need of a path."""

    def coefficients(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, s) at times t."""
        ...

    def derivatives(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(da/dt, ds/dt) at times t."""
        ...


@dataclasses.dataclass(frozen=True)
class Linear:
    """The straight path of flow matching: a = 1 - t, s = floor + (1 - floor) t (Lipman et al., arXiv 2210.02747).

    Attributes:
      floor: noise left at t = 0; 0 for rectified flow, 1e-5 in TaDiCodec.
    """

    floor: float = 0.0

    def coefficients(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, s) at times t."""
        return 1.0 - t, self.floor + (1.0 - self.floor) * t

    def derivatives(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(da/dt, ds/dt) at times t."""
        return -jnp.ones_like(t), jnp.full_like(t, 1.0 - self.floor)

    def time(self, log_snr: jax.Array) -> jax.Array:
        """The time at which log(a^2/s^2) has a value."""
        ratio = jnp.exp(-jnp.asarray(log_snr) / 2)
        return (ratio - self.floor) / (ratio + 1.0 - self.floor)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """a = cos(pi t/2), s = sin(pi t/2): a^2 + s^2 = 1 (SiT's GVP, arXiv 2401.08740)."""

    def coefficients(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, s) at times t."""
        return jnp.cos(math.pi / 2 * t), jnp.sin(math.pi / 2 * t)

    def derivatives(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(da/dt, ds/dt) at times t."""
        return -math.pi / 2 * jnp.sin(math.pi / 2 * t), math.pi / 2 * jnp.cos(math.pi / 2 * t)

    def time(self, log_snr: jax.Array) -> jax.Array:
        """The time at which log(a^2/s^2) has a value."""
        return 2 / math.pi * jnp.arctan(jnp.exp(-jnp.asarray(log_snr) / 2))


@dataclasses.dataclass(frozen=True)
class VariancePreserving:
    """log a = -t^2 (high - low)/4 - t low/2, s = sqrt(1 - a^2) (Song et al., arXiv 2011.13456). s' is infinite at 0.

    Attributes:
      low: rate of noise at t = 0.
      high: at t = 1.
    """

    low: float = 0.1
    high: float = 20.0

    def coefficients(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, s) at times t."""
        log_a = self._log(t)
        return jnp.exp(log_a), jnp.sqrt(-jnp.expm1(2 * log_a))

    def derivatives(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(da/dt, ds/dt) at times t > 0."""
        a, s = self.coefficients(t)
        slope = -t * (self.high - self.low) / 2 - self.low / 2
        return slope * a, -slope * a * a / s

    def _log(self, t: jax.Array) -> jax.Array:
        return -t * t * (self.high - self.low) / 4 - t * self.low / 2

    def time(self, log_snr: jax.Array) -> jax.Array:
        """The time at which log(a^2/s^2) has a value."""
        decay = jax.nn.softplus(-jnp.asarray(log_snr)) / 2  # -log a, quadratic in t
        slope = self.high - self.low
        return 2 * decay / (self.low / 2 + jnp.sqrt(self.low**2 / 4 + slope * decay))


@dataclasses.dataclass(frozen=True)
class Sigma:
    """a = 1, s = t: the clock of EDM, where t is the noise level itself (Karras et al., arXiv 2206.00364)."""

    def coefficients(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, s) at noise levels t."""
        return jnp.ones_like(t), t

    def derivatives(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(0, 1)."""
        return jnp.zeros_like(t), jnp.ones_like(t)

    def time(self, log_snr: jax.Array) -> jax.Array:
        """The noise level at which log(1/s^2) has a value."""
        return jnp.exp(-jnp.asarray(log_snr) / 2)


@dataclasses.dataclass(frozen=True)
class Discrete:
    """A table of K noise levels: t is the index k from 0 to K - 1; -1 stands for data (Ho et al., arXiv 2006.11239).

    a = sqrt(ab_k), s = sqrt(1 - ab_k) with ab_k = prod_{j <= k} (1 - beta_j).

    Attributes:
      betas: K of them, see :func:`linear_betas` and its neighbours.
    """

    betas: tuple[float, ...]

    def __post_init__(self):
        low, high = min(self.betas, default=0.0), max(self.betas, default=0.0)
        if not (low > 0.0 and high <= 1.0):
            raise ValueError(f"betas must lie in (0, 1], found {len(self.betas)} from {low} to {high}")

    @functools.cached_property
    def alpha_bar(self) -> np.ndarray:
        """float64 [K]."""
        return np.cumprod(1.0 - np.asarray(self.betas, np.float64))

    def coefficients(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(a, s) at indices t, integers of any type, -1 included."""
        table = np.concatenate([[1.0], self.alpha_bar])
        a, s = np.sqrt(table).astype(np.float32), np.sqrt(1.0 - table).astype(np.float32)
        index = jnp.asarray(t).astype(jnp.int32) + 1
        return jnp.asarray(a)[index], jnp.asarray(s)[index]

    def derivatives(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A table has no velocity: predict noise, data or v."""
        raise ValueError("Discrete: a table of noise levels has no derivatives; expected a prediction other than flow")


def linear_betas(count: int = 1000, low: float = 1e-4, high: float = 0.02) -> tuple[float, ...]:
    """Evenly spaced (DDPM, DiT); ``low`` and ``high`` are of 1000 steps and scale by 1000 / count."""
    return tuple(np.linspace(1000 / count * low, 1000 / count * high, count).tolist())


def sqrt_linear_betas(count: int = 1000, low: float = 0.00085, high: float = 0.012) -> tuple[float, ...]:
    """Squares of evenly spaced square roots (Stable Diffusion's "scaled linear")."""
    return tuple((np.linspace(low**0.5, high**0.5, count) ** 2).tolist())


def cosine_betas(count: int = 1000, most: float = 0.999) -> tuple[float, ...]:
    """ab(u) = cos^2(((u + 0.008)/1.008) pi/2) (Nichol and Dhariwal, arXiv 2102.09672), each beta at most ``most``."""
    level = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
    return tuple(np.minimum(1 - level[1:] / level[:-1], most).tolist())


def sqrt_betas(count: int = 2000, most: float = 0.999) -> tuple[float, ...]:
    """ab(u) = 1 - sqrt(u + 1e-4), each beta at most ``most``: for embedded text (Diffusion-LM, arXiv 2205.14217)."""
    level = 1 - np.sqrt(np.arange(count + 1) / count + 1e-4)
    return tuple(np.minimum(1 - level[1:] / level[:-1], most).tolist())


def zero_terminal(betas: tuple[float, ...]) -> tuple[float, ...]:
    """The table shifted and scaled so that the last level is pure noise (Lin et al., arXiv 2305.08891).

    The last beta is 1. Noise cannot be predicted there: use v or data, and times that include the last.
    """
    root = np.sqrt(np.cumprod(1.0 - np.asarray(betas, np.float64)))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    level = root**2
    return (float(1 - level[0]), *(1 - level[1:] / level[:-1]).tolist())


def respaced(path: Discrete, indices: np.ndarray) -> Discrete:
    """The table of some of its levels, ascending: betas 1 - ab_k/ab_previous. Networks are fed the original indices."""
    level = path.alpha_bar[np.asarray(indices)]
    return Discrete(tuple((1 - level / np.concatenate([[1.0], level[:-1]])).tolist()))


def expand(t: jax.Array, ndim: int) -> jax.Array:
    """Times [B] (or a scalar) shaped to broadcast against arrays of ``ndim`` axes; per-token times [B, T] as well."""
    t = jnp.asarray(t)
    return t.reshape(t.shape + (1,) * (ndim - t.ndim)) if t.ndim else t


def interpolate(path: Path, x: jax.Array, noise: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The state x_t and its velocity dx_t/dt.

    Args:
      path: with ``coefficients`` and ``derivatives``.
      x: data [B, ...].
      noise: [B, ...], unit Gaussian.
      t: [B] (or [B, T], a time per token).

    Returns:
      x_t and a'(t) x + s'(t) noise, both [B, ...].
    """
    t = expand(t, x.ndim)
    (a, s), (da, ds) = path.coefficients(t), path.derivatives(t)
    return a * x + s * noise, da * x + ds * noise


def corrupt(path: Path, x: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """The state x_t = a x + s noise alone, for paths without a velocity too."""
    a, s = path.coefficients(expand(t, x.ndim))
    return a * x + s * noise


def log_snr(path: Path, t: jax.Array) -> jax.Array:
    """log(a^2/s^2), infinite where a or s is 0."""
    a, s = path.coefficients(t)
    return 2 * (jnp.log(a) - jnp.log(s))


def log_snr_slope(path: Path, t: jax.Array) -> jax.Array:
    """d log(a^2/s^2)/dt = -2 (a s' - a' s)/(a s), at most 0."""
    (a, s), (da, ds) = path.coefficients(t), path.derivatives(t)
    return -2 * (a * ds - da * s) / (a * s)


def log_snr_grid(path: Any, steps: int, *, low: float, high: float) -> jax.Array:
    """Times at even steps of log(a^2/s^2) from ``low`` (noise) to ``high``: float32 [steps + 1].

    Args:
      path: a continuous one, with ``time``.
      steps: of the grid.
      low: log-SNR of the first time.
      high: of the last.
    """
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, found {steps}")
    return path.time(jnp.linspace(low, high, steps + 1))


def shrinkage(path: Path, now: jax.Array, then: jax.Array) -> jax.Array:
    """e^-h = (s_then/a_then)/(s/a) of a step towards data, in [0, 1]; h is the step of log(a/s)."""
    (a, s), (a_then, s_then) = path.coefficients(now), path.coefficients(then)
    below = s * a_then
    return jnp.minimum(jnp.where(below > 0, a * s_then / jnp.where(below > 0, below, 1.0), 0.0), 1.0)


def posterior(path: Path, data: jax.Array, x_t: jax.Array, now: jax.Array, then: jax.Array) -> tuple[Any, Any]:
    """Mean and variance of the state at ``then``, given data and the state at ``now`` (Ho et al., arXiv 2006.11239).

    Of the process whose noise accumulates: a_then data + s_then e^-h noise, and s_then^2 (1 - e^-2h).

    Args:
      path: any with ``coefficients``.
      data: [B, ...].
      x_t: the state at ``now``, [B, ...].
      now: times that broadcast against x_t.
      then: likewise, nearer to data.
    """
    (a, s), (a_then, s_then) = path.coefficients(now), path.coefficients(then)
    shrink = shrinkage(path, now, then)
    return a_then * data + s_then * shrink / s * (x_t - a * data), s_then**2 * (1 - shrink**2)


def forward_variance(path: Path, now: jax.Array, then: jax.Array) -> jax.Array:
    """Variance of what the process adds from ``then`` to ``now``, s^2 (1 - e^-2h): beta, of neighbours in a table."""
    _, s = path.coefficients(now)
    return s**2 * (1 - shrinkage(path, now, then) ** 2)
