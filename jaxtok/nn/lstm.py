"""Long short-term memory along time: ``[B, T, C] -> [B, T, C]``, on whole signals and on streams."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxtok.nn.conv2d import uniform_bias

State = tuple[jax.Array, jax.Array]


class LSTM(nn.Module):
    """x + lstm(x), the long short-term memory of Hochreiter and Schmidhuber (Neural Computation 9, 1997) with a skip.

    Gates in the order input, forget, cell, output; each layer ``layers_i`` has a kernel [C, 4 C] from its input, one
    from its state, and one bias (PyTorch has two, which are added). The state is in float32.

    Attributes:
      layers: one above the other.
    """

    layers: int = 2
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def frames(self, length: Any) -> Any:
        """As many as come in."""
        return length

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, T, C]; a position depends on earlier ones alone."""
        del lengths
        return self.stream(x)[0]

    @nn.compact
    def stream(
        self, x: jax.Array, state: list[State] | None = None, last: bool = False
    ) -> tuple[jax.Array, list[State]]:
        """[B, T, C] -> [B, T, C], and the state (output, cell) [B, C] of each layer."""
        del last
        zero = jnp.zeros((len(x), x.shape[-1]))
        start: list[State] = [(zero, zero)] * self.layers
        y, after = x, []
        for i, before in enumerate(state or start):
            y, end = _Recurrence(self.dtype, self.param_dtype, name=f"layers_{i}")(y, before)
            after.append(end)
        return x + y, after


class _Recurrence(nn.Module):
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, state: State) -> tuple[jax.Array, State]:
        width = x.shape[-1]
        init = uniform_bias(width)
        kernel = self.param("kernel", init, (width, 4 * width), self.param_dtype)
        recurrent = self.param("recurrent_kernel", init, (width, 4 * width), self.param_dtype)
        bias = self.param("bias", init, (4 * width,), self.param_dtype)
        x, kernel, recurrent, bias = promote_dtype(x, kernel, recurrent, bias, dtype=self.dtype)

        def step(state, gates):
            output, cell = state
            gates = gates + (output.astype(recurrent.dtype) @ recurrent).astype(jnp.float32)
            enter, forget, new, leave = jnp.split(gates, 4, axis=-1)
            cell = nn.sigmoid(forget) * cell + nn.sigmoid(enter) * jnp.tanh(new)
            output = nn.sigmoid(leave) * jnp.tanh(cell)
            return (output, cell), output

        gates = jnp.moveaxis((x @ kernel + bias).astype(jnp.float32), 1, 0)  # [T, B, 4 C]
        state, outputs = jax.lax.scan(step, state, gates)
        return jnp.moveaxis(outputs, 0, 1).astype(x.dtype), state
