"""Mixtures of experts: each token goes through few of many MLPs (Shazeer et al., arXiv 1701.06538).

All shapes are fixed: an expert has room for so many tokens of each example, its capacity. Routing looks at one example
at a time, so that nothing depends on batch neighbours; the loss and the reported loads are over the global batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.mlp import Initializer, gelu


class Routes(NamedTuple):
    """Which token sits at which place of which expert, in one example.

    Attributes:
      tokens: int32 [experts, capacity], indices of tokens.
      weights: float32 [experts, capacity], of the expert's output; 0 where the place is empty.
      chosen: float32 [tokens, experts], 1 where a token asked for an expert, whether there was room or not.
    """

    tokens: jax.Array
    weights: jax.Array
    chosen: jax.Array


def token_choice(scores: jax.Array, gates: jax.Array, real: jax.Array, top_k: int, capacity: int) -> Routes:
    """Each token takes its ``top_k`` best experts; where an expert is full, the later tokens go without it.

    First choices are seated before second choices, and within them tokens in their order (GShard, arXiv 2006.16668).

    Args:
      scores: float32 [T, E], by which is chosen.
      gates: float32 [T, E], the weights of the outputs.
      real: bool [T], False on padding, which takes no place.
      top_k: experts per token.
      capacity: places per expert.
    """
    length, experts = scores.shape
    best = jax.lax.top_k(scores, top_k)[1]  # [T, k]
    chosen = jax.nn.one_hot(best, experts) * real[:, None, None]  # [T, k, E]
    asked = chosen.swapaxes(0, 1).reshape(top_k * length, experts)  # first choices of all tokens, then second ones
    place = ((jnp.cumsum(asked, axis=0) - 1) * asked).sum(-1).astype(jnp.int32)
    expert = best.T.reshape(-1)
    seated = (asked.sum(-1) > 0) & (place < capacity)
    place = jnp.where(seated, place, capacity)  # out of bounds: dropped below
    token = jnp.tile(jnp.arange(length, dtype=jnp.int32), top_k)
    tokens = jnp.zeros((experts, capacity), jnp.int32).at[expert, place].set(token, mode="drop")
    weights = jnp.zeros((experts, capacity), jnp.float32).at[expert, place].set(gates[token, expert], mode="drop")
    return Routes(tokens, weights, chosen.sum(1))


def expert_choice(scores: jax.Array, gates: jax.Array, real: jax.Array, top_k: int, capacity: int) -> Routes:
    """Each expert takes the ``capacity`` tokens of its best scores (Zhou et al., arXiv 2202.09368).

    Args:
      scores: float32 [T, E], by which is chosen.
      gates: float32 [T, E], the weights of the outputs.
      real: bool [T], False on padding, which is not taken before all real tokens are.
      top_k: not used; the capacity holds the mean number of experts per token.
      capacity: places per expert, at most T.
    """
    del top_k
    _, tokens = jax.lax.top_k(jnp.where(real[:, None], scores, -jnp.inf).T, capacity)  # [E, capacity]
    taken = real[tokens]
    weights = jnp.where(taken, jnp.take_along_axis(gates.T, tokens, axis=1), 0.0)
    rows = jnp.broadcast_to(jnp.arange(len(tokens))[:, None], tokens.shape)
    chosen = jnp.zeros_like(scores).at[tokens, rows].set(taken.astype(jnp.float32))
    return Routes(tokens.astype(jnp.int32), weights, chosen)


def balancing_loss(gates: jax.Array, chosen: jax.Array, real: jax.Array) -> jax.Array:
    """E sum_e f_e p_e with f the share of choices and p the mean gate of each expert (Switch, arXiv 2101.03961).

    1 when both are uniform, E when one expert gets all; over all real tokens of the global batch.

    Args:
      gates: float32 [..., E], with sum 1.
      chosen: float32 [..., E], 1 where a token asked for an expert; no gradient goes through it.
      real: bool [...].
    """
    experts, axes = gates.shape[-1], tuple(range(gates.ndim - 1))
    count = jnp.maximum(real.sum(), 1)
    share = jax.lax.stop_gradient(chosen.sum(axes) / jnp.maximum(chosen.sum(), 1))
    return experts * (share * (gates * real[..., None]).sum(axes) / count).sum()


class MoE(nn.Module):
    """Linear, softmax, and the chosen experts' MLPs: [B, T, D] -> ([B, T, D], numbers).

    Attributes:
      experts: E.
      hidden: width of an expert's MLP.
      top_k: experts per token; with expert choice, the mean number of them.
      room: capacity over ``top_k`` T / E, an even share of the choices; E / top_k makes sure that all have room.
      route: :func:`token_choice` or :func:`expert_choice`.
      normalize: the gates of a token's choices are divided by their sum (token choice with top_k > 1).
      activation: of the experts; the tanh-GELU unless given.
    """

    experts: int
    hidden: int
    top_k: int = 1
    room: float = 1.25
    route: Callable[..., Routes] = token_choice
    normalize: bool = False
    activation: Callable[[jax.Array], jax.Array] = gelu
    kernel_init: Initializer = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=(0,))
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def capacity(self, length: int) -> int:
        """Places per expert in an example of so many tokens: room top_k T / E, rounded down, 1 to T."""
        return max(1, min(length, int(self.room * self.top_k * length / self.experts)))

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The sum of the chosen experts' outputs times their gates; 0 for a token that no expert took.

        Args:
          x: [B, T, D].
          mask: bool [B, T], True on real tokens; the others get 0, take no place and count nowhere.

        Returns:
          [B, T, D], and over all real tokens of the batch: ``loss`` [], see :func:`balancing_loss`, to be added to the
          training's with a weight such as 0.01; ``load`` [E], the share of choices of each expert; ``dropped`` [], the
          share of choices that found no room.

        Raises:
          ValueError: for another rank, or more choices than experts.
        """
        if x.ndim != 3:
            raise ValueError(f"MoE: expected [batch, tokens, width], found shape {x.shape}")
        if not 0 < self.top_k <= self.experts:
            raise ValueError(f"top_k: expected 1 to {self.experts} experts, found {self.top_k}")
        length, width = x.shape[1:]
        real = jnp.ones(x.shape[:2], bool) if mask is None else mask
        init = nn.initializers.normal(0.006)
        router = nn.Dense(self.experts, use_bias=False, kernel_init=init, param_dtype=self.param_dtype, name="router")
        scores = jax.nn.softmax(router(x.astype(jnp.float32)), axis=-1)
        gates = scores
        if self.normalize:
            gates = scores / jax.lax.top_k(scores, self.top_k)[0].sum(-1, keepdims=True)
        size = self.capacity(length)
        routes = jax.vmap(lambda s, g, r: self.route(s, g, r, self.top_k, size))(scores, gates, real)
        y = self._experts(jax.vmap(lambda row, index: row[index])(x, routes.tokens))  # [B, E, capacity, D]
        y = y * routes.weights[..., None].astype(y.dtype)
        add = lambda index, values: jnp.zeros((length, width), y.dtype).at[index].add(values)  # noqa: E731
        out = jax.vmap(add)(routes.tokens, y)
        asked, seated = routes.chosen.sum(), (routes.weights > 0).sum()
        numbers = dict(
            loss=balancing_loss(scores, routes.chosen, real), load=routes.chosen.sum((0, 1)) / jnp.maximum(asked, 1),
            dropped=1 - seated / jnp.maximum(asked, 1),
        )  # fmt: skip
        return out, numbers

    def _experts(self, x: jax.Array) -> jax.Array:
        """[B, E, capacity, D] -> the same, through the MLP of each expert."""

        def linear(name: str, h: jax.Array, features: int) -> jax.Array:
            shape = (self.experts, h.shape[-1], features)
            kernel = self.param(f"{name}_kernel", self.kernel_init, shape, self.param_dtype).astype(self.dtype)
            bias = self.param(f"{name}_bias", nn.initializers.zeros, (self.experts, features), self.param_dtype)
            return jnp.einsum("becd,edf->becf", h.astype(self.dtype), kernel) + bias.astype(self.dtype)[:, None]

        return linear("out", self.activation(linear("hidden", x, self.hidden)), x.shape[-1])
