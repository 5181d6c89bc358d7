"""Runs a network's layers on whole signals or on a stream, so that a network is written once.

What goes through is a layer with three methods: ``layer(x, lengths)`` takes whole signals [B, T, C], of which a row is
real up to its length; ``layer.stream(x, state, last)`` takes the next part of a stream and answers (what can be said by
now, the state for the next part), where the state is None at the beginning and ``last`` marks the end; and
``layer.frames(n)`` is how many positions come out of n. Parts of a stream may have any number of positions, also none.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Held:
    """What a layer keeps of a stream's past.

    Attributes:
      inputs: [B, n, C], the positions that it still needs.
      started: whether the padding stands before them already; static, so that a change of it compiles anew.
    """

    inputs: jax.Array
    started: bool = flax.struct.field(pytree_node=False, default=False)


class Whole:
    """Layers on whole signals; counts each row's real positions on the way.

    Attributes:
      lengths: int32 [B], or None where all is real.
    """

    def __init__(self, lengths: jax.Array | None = None):
        self.lengths = lengths

    def __call__(self, layer: Any, x: jax.Array) -> jax.Array:
        """``layer`` applied to x."""
        y = layer(x, self.lengths)
        if self.lengths is not None:
            self.lengths = layer.frames(self.lengths)
        return y

    def add(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """x + y."""
        del name
        return x + y


class Part:
    """Layers on the next part of a stream.

    Attributes:
      state: of the layers seen so far, by their names.
    """

    def __init__(self, state: Mapping[str, Any] | None, last: bool):
        self._before, self._last = state or {}, last
        self.state: dict[str, Any] = {}

    def __call__(self, layer: Any, x: jax.Array) -> jax.Array:
        """What ``layer`` says by now."""
        y, self.state[layer.name] = layer.stream(x, self._before.get(layer.name), self._last)
        return y

    def add(self, name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """x + y, as far as both are there; positions of x wait for those of y, which come later."""
        if name in self._before:
            x = jnp.concatenate([self._before[name], x], axis=1)
        self.state[name] = x[:, y.shape[1] :]
        return x[:, : y.shape[1]] + y


Walk = Whole | Part


class Unit(nn.Module):
    """A layer made of layers, with as many positions out as in; subclasses say which in ``walk``."""

    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The unit on what ``walk`` runs layers on."""
        raise NotImplementedError

    def frames(self, length: Any) -> Any:
        """As many as come in."""
        return length

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, T, C]."""
        return self.walk(Whole(lengths), x)

    def stream(self, x: jax.Array, state: Any = None, last: bool = False) -> tuple[jax.Array, Any]:
        """What can be said by now, and the state for the next part."""
        part = Part(state, last)
        return self.walk(part, x), part.state


def lengths_of(mask: jax.Array | None, x: jax.Array) -> jax.Array | None:
    """Each row's real positions, int32 [B], of a mask [B, T] that is True on them, at the beginning of the row.

    Raises:
      ValueError: when the mask has not the shape of x [B, T, C] without its channels.
    """
    if mask is None:
        return None
    if mask.shape != x.shape[:2]:
        raise ValueError(f"mask: expected shape {x.shape[:2]} as the signals have positions, found {mask.shape}")
    return mask.sum(1, dtype=jnp.int32)


def real(lengths: jax.Array, positions: int) -> jax.Array:
    """The mask [B, positions] of rows with these lengths."""
    return jnp.arange(positions) < lengths[:, None]


def inside(x: jax.Array, lengths: jax.Array | None) -> jax.Array:
    """x [B, T, C] with zeros outside of what is real."""
    return x if lengths is None else jnp.where(real(lengths, x.shape[1])[..., None], x, 0)
