"""Consistency functions, which answer the data estimate of any state, and the targets they are distilled on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtok.diffusion.guidance import classifier_free
from jaxtok.diffusion.paths import Path, expand
from jaxtok.diffusion.steps import Estimator

Function = Callable[..., jax.Array]  # (x, k) -> data


def boundary_scales(k: jax.Array, *, deviation: float = 0.5, scale: float = 10.0) -> tuple[jax.Array, jax.Array]:
    """(c_skip, c_out) of latent consistency models at the index k: (1, 0) at 0 (Luo et al., arXiv 2310.04378).

    d^2/((scale k)^2 + d^2) and scale k/sqrt((scale k)^2 + d^2), with d the deviation.
    """
    k = scale * jnp.asarray(k, jnp.float32)
    total = k**2 + deviation**2
    return deviation**2 / total, k / jnp.sqrt(total)


def edm_boundary_scales(
    sigma: jax.Array, *, deviation: float = 0.5, least: float = 0.002
) -> tuple[jax.Array, jax.Array]:
    """(c_skip, c_out) in EDM's clock: (1, 0) at ``least`` (Song et al., arXiv 2303.01469, appendix C)."""
    above = jnp.asarray(sigma) - least
    return deviation**2 / (above**2 + deviation**2), deviation * above / jnp.sqrt(sigma**2 + deviation**2)


def consistent(estimate: Estimator, scales: Callable[..., tuple[jax.Array, jax.Array]] = boundary_scales) -> Function:
    """f(x, k) = c_skip x + c_out data, from an estimator (x, k) -> (data, noise): the identity at the boundary."""

    def function(x: jax.Array, k: jax.Array) -> jax.Array:
        skip, out = (expand(c, x.ndim) for c in scales(k))
        return skip * x + out * estimate(x, k)[0]

    return function


def teacher_draw(
    keys: jax.Array, *, count: int = 1000, grid: int = 50, low: float = 5.0, high: float = 15.0
) -> tuple[jax.Array, jax.Array]:
    """Indices and guidance weights of a distillation step: k = (count/grid) n - 1, n in 1 .. grid; w in [low, high].

    Args:
      keys: [B].
      count: levels of the table.
      grid: the teacher's steps.
      low: least weight, of the form c + w (c - u).
      high: greatest.

    Returns:
      k int32 [B] and w float32 [B].
    """
    halves = jax.vmap(lambda key: jax.random.split(key))(keys)
    n = jax.vmap(lambda key: jax.random.randint(key, (), 1, grid + 1))(halves[:, 0])
    w = jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(halves[:, 1])
    return count // grid * n - 1, w


def teacher_step(
    conditional: Estimator,
    unconditional: Estimator,
    x: jax.Array,
    k: jax.Array,
    weight: jax.Array,
    path: Path,
    *,
    stride: int = 20,
) -> tuple[jax.Array, jax.Array]:
    """One guided DDIM step of the teacher, to k - stride; from below the stride, to index 0.

    Data and noise are both guided as c + w (c - u) (arXiv 2310.04378).

    Args:
      conditional: (x, k) -> (data, noise).
      unconditional: the same without condition.
      x: the state at k, [B, ...].
      k: int [B].
      weight: w [B].
      path: the table.
      stride: of the teacher's grid.

    Returns:
      The state, its gradient stopped, and its index int32 [B].
    """
    scale = 1 + expand(weight, x.ndim)
    pairs = zip(conditional(x, k), unconditional(x, k))
    data, noise = (classifier_free(c, u, scale) for c, u in pairs)
    then = jnp.maximum(jnp.asarray(k) - stride, 0)
    a, s = path.coefficients(expand(then, x.ndim))
    return jax.lax.stop_gradient(a * data + s * noise), then


def distillation_loss(
    student: Function,
    average: Function,
    x: jax.Array,
    k: jax.Array,
    stepped: tuple[jax.Array, jax.Array],
    *,
    huber: float = 0.001,
) -> jax.Array:
    """The student at (x, k) against its moving average at the teacher's next state: [B].

    Args:
      student: f(x, k) -> data.
      average: the same with averaged weights (0.95); no gradient reaches it.
      x: [B, ...].
      k: int [B].
      stepped: (state, index), from :func:`teacher_step`.
      huber: c of :func:`pseudo_huber`; 0 for the squared error.
    """
    difference = student(x, k) - jax.lax.stop_gradient(average(*stepped))
    error = pseudo_huber(difference, huber) if huber else jnp.square(difference)
    return error.reshape(len(x), -1).mean(1)


def pseudo_huber(difference: jax.Array, c: float = 0.001) -> jax.Array:
    """sqrt(d^2 + c^2) - c, elementwise."""
    return jnp.sqrt(jnp.square(difference) + c**2) - c
