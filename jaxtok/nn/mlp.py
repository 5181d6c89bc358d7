"""Feed-forward blocks."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import linear

Initializer = Callable[..., Any]


def gelu(x: jax.Array) -> jax.Array:
    """GELU by the hyperbolic tangent (Hendrycks and Gimpel, arXiv 1606.08415), as in GPT-2 and DiT."""
    return nn.gelu(x, approximate=True)


def exact_gelu(x: jax.Array) -> jax.Array:
    """GELU by the error function, as in ViT and the diffusion U-Net."""
    return nn.gelu(x, approximate=False)


class MLP(nn.Module):
    """Linear, activation, Linear: [..., D] -> [..., out].

    Attributes:
      hidden: width between the two layers.
      out: output width; 0 for D.
      activation: elementwise function.
      bias: of both layers.
      precision: of the linear maps.
    """

    hidden: int
    out: int = 0
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    precision: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block to [..., D]."""
        options: dict[str, Any] = dict(
            use_bias=self.bias, kernel_init=self.kernel_init, precision=self.precision, dtype=self.dtype,
            param_dtype=self.param_dtype,
        )  # fmt: skip
        h = self.activation(linear.Dense(self.hidden, name="hidden_linear", **options)(x))
        return linear.Dense(self.out or x.shape[-1], name="out_linear", **options)(h)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), without biases unless ``bias`` (Shazeer, arXiv 2002.05202): [..., D] -> [..., D].

    ``gate`` and ``up`` share one kernel [D, 2, hidden], in this order.

    Attributes:
      hidden: width between the layers.
      bias: of all three maps.
      activation: of the gate; the exact GELU makes it GEGLU.
      dense: module class of the linear maps, with :class:`flax.linen.DenseGeneral`'s fields.
    """

    hidden: int
    bias: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    dense: Callable[..., Any] = linear.DenseGeneral
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block to [..., D]."""
        options: dict[str, Any] = dict(
            use_bias=self.bias, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype
        )
        both = self.dense((2, self.hidden), name="gate_up", **options)(x)
        return self.dense(x.shape[-1], name="down", **options)(self.activation(both[..., 0, :]) * both[..., 1, :])
