"""Feed-forward blocks."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = Callable[..., Any]


class MLP(nn.Module):
    """Linear, activation, Linear, with biases: [..., D] -> [..., out].

    Attributes:
      hidden: width between the two layers.
      out: output width.
      activation: elementwise function.
    """

    hidden: int
    out: int
    activation: Callable[[jax.Array], jax.Array] = nn.silu
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block to [..., D]."""
        options: dict[str, Any] = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        x = self.activation(nn.Dense(self.hidden, name="hidden_linear", **options)(x))
        return nn.Dense(self.out, name="out_linear", **options)(x)


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x), without biases unless ``bias`` (Shazeer, arXiv 2002.05202): [..., D] -> [..., D].

    ``gate`` and ``up`` share one kernel [D, 2, hidden], in this order.
    """

    hidden: int
    bias: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block to [..., D]."""
        options: dict[str, Any] = dict(
            use_bias=self.bias, kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype
        )
        both = nn.DenseGeneral((2, self.hidden), name="gate_up", **options)(x)
        return nn.Dense(x.shape[-1], name="down", **options)(nn.silu(both[..., 0, :]) * both[..., 1, :])
