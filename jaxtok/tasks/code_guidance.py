"""How the scale of guidance moves while codes are generated."""

import jax
import jax.numpy as jnp

from jaxtok.diffusion import guidance

SCALES = ("constant", "linear", "cosine")


def scale(name: str, value: float, done: jax.Array) -> jax.Array:
    """The scale when a share ``done`` of the generation is over.

    Args:
      name: "constant"; "linear": 1 + (value - 1) done (MAR, MUSE); "cosine": 1 + (value - 1)(1 - cos(pi done))/2.
      value: the scale, at the end.
      done: in [0, 1].
    """
    check(name)
    if name == "linear":
        return guidance.ramp(done, value)
    return guidance.power_cosine(1.0 - done, value, 1.0) if name == "cosine" else jnp.full_like(done, value)


def check(name: str) -> None:
    """ValueError for a name that is not one of ``SCALES``."""
    if name not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}, found {name!r}")
