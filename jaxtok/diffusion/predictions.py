"""What a network predicts, and how each prediction gives the others: one conversion for every path.

On a path x_t = a x + s e, with D = a s' - a' s: "flow" is v = a' x + s' e, so x = (s' x_t - s v)/D and
e = (a v - a' x_t)/D; "noise" is e; "data" is x; "v" is a e - s x (Salimans and Ho, arXiv 2202.00512), so
x = (a x_t - s v)/(a^2 + s^2) and e = (s x_t + a v)/(a^2 + s^2); usual on paths where that sum is 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxtok.diffusion.paths import Path, expand

KINDS = ("flow", "noise", "data", "v")
Denoiser = Callable[..., jax.Array]  # (x_t, t) -> prediction


def check(kind: str) -> None:
    """ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"prediction must be one of {KINDS}, found {kind!r}")


def target(kind: str, path: Path, x: jax.Array, noise: jax.Array, t: jax.Array) -> jax.Array:
    """What a network of this kind learns to predict at times t, in the shape of x."""
    check(kind)
    if kind == "data":
        return x
    if kind == "noise":
        return noise
    t = expand(t, x.ndim)
    if kind == "flow":
        da, ds = path.derivatives(t)
        return da * x + ds * noise
    a, s = path.coefficients(t)
    return a * noise - s * x


def data_and_noise(
    kind: str, path: Path, prediction: jax.Array, x_t: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The estimates (x, e) that a prediction at the state x_t stands for, float32.

    Where a coefficient is 0 (data from noise at pure noise, noise from data at no noise) the result is not finite.
    """
    check(kind)
    prediction, x_t = prediction.astype(jnp.float32), x_t.astype(jnp.float32)
    t = expand(t, x_t.ndim)
    a, s = path.coefficients(t)
    if kind == "noise":
        return (x_t - s * prediction) / a, prediction
    if kind == "data":
        return prediction, (x_t - a * prediction) / s
    if kind == "v":
        power = a * a + s * s
        return (a * x_t - s * prediction) / power, (s * x_t + a * prediction) / power
    da, ds = path.derivatives(t)
    determinant = a * ds - da * s
    return (ds * x_t - s * prediction) / determinant, (a * prediction - da * x_t) / determinant


def flow(kind: str, path: Path, prediction: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """dx_t/dt = a' x + s' e of any prediction."""
    if kind == "flow":
        return prediction
    x, noise = data_and_noise(kind, path, prediction, x_t, t)
    da, ds = path.derivatives(expand(t, x_t.ndim))
    return da * x + ds * noise


def score(kind: str, path: Path, prediction: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """The gradient of log p(x_t): -e/s."""
    _, noise = data_and_noise(kind, path, prediction, x_t, t)
    return -noise / path.coefficients(expand(t, x_t.ndim))[1]


def estimator(denoise: Denoiser, kind: str, path: Path) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """From a denoiser ``(x_t, t) -> prediction`` to ``(x_t, t) -> (x, e)``, which is what samplers take."""
    check(kind)

    def both(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        return data_and_noise(kind, path, denoise(x_t, t), x_t, t)

    return both


def edm_scales(sigma: jax.Array, deviation: float = 0.5) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """(c_skip, c_out, c_in, c_noise) of EDM's preconditioning (Karras et al., arXiv 2206.00364, table 1)."""
    total = sigma**2 + deviation**2
    return deviation**2 / total, sigma * deviation / jnp.sqrt(total), 1 / jnp.sqrt(total), jnp.log(sigma) / 4


def edm_denoiser(network: Callable[..., jax.Array], deviation: float = 0.5) -> Denoiser:
    """A denoiser of kind "data" on the path :class:`~jaxtok.diffusion.paths.Sigma` from EDM's network F.

    D(x; sigma) = c_skip x + c_out F(c_in x, c_noise).
    """

    def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
        skip, out, scale, noise = edm_scales(sigma, deviation)
        skip, out, scale = (expand(c, x.ndim) for c in (skip, out, scale))
        return skip * x + out * network(scale * x, noise)

    return denoise


def edm_weight(sigma: jax.Array, deviation: float = 0.5) -> jax.Array:
    """EDM's weight of |D - x|^2, with which the loss is the plain error of F."""
    return (sigma**2 + deviation**2) / (sigma * deviation) ** 2


def min_snr_weight(kind: str, log_snr: jax.Array, gamma: float = 5.0) -> jax.Array:
    """Weights of the squared error by signal-to-noise ratio, cut at ``gamma`` (Hang et al., arXiv 2303.09556).

    Of "noise" min(snr, gamma)/snr, of "v" min(snr, gamma)/(snr + 1), of "data" min(snr, gamma).
    """
    snr = jnp.exp(log_snr)
    divisors = {"noise": snr, "v": snr + 1, "data": jnp.ones_like(snr)}
    if kind not in divisors:
        raise ValueError(f"min-SNR weights are of {tuple(divisors)}, found {kind!r}")
    return jnp.minimum(snr, gamma) / divisors[kind]
