"""A small denoiser of trajectories, modulated by the time in one of three ways: for EzAudio's experiment."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments import toy_paths
from jaxtok.nn import embed
from jaxtok.nn.dit import DiTBlock, adaln
from jaxtok.nn.norms import LayerNorm
from jaxtok.papers.ezaudio import shared_condition, sola

WIDTH, DEPTH, HIDDEN, RANK = 48, 3, 96, 2


def unmodulated(condition, count, width, *, name, **types):
    """No shift, no scale, open gates."""
    del condition, name, types
    return [jnp.full((1, 1, width), float(i in (2, 5))) for i in range(count)]


class Denoiser(nn.Module):
    """Trajectories, levels and captions to v."""

    modulation: str
    hidden: int

    @nn.compact
    def __call__(self, x, k, caption, context, hidden):
        """v [B, T, 2] of x [B, T, 2] at levels k [B], captions [B, 3] and the context [B, T, 2] that is not hidden."""
        seen = jnp.where(hidden[..., None], self.param("mask", nn.initializers.zeros, (2,)), context)
        h = nn.Dense(WIDTH, name="input")(jnp.concatenate([x, seen, hidden[..., None] * 1.0], -1))
        level = embed.TimeEmbedding(WIDTH, name="time")(k.astype(jnp.float32))
        h = h + embed.line_table(x.shape[1], WIDTH) + nn.Dense(WIDTH, name="time_input")(level)[:, None]
        text = nn.Embed(toy_paths.WORDS + 1, WIDTH, name="text")(caption)
        makers = {"zero": adaln, "none": unmodulated, "sola": functools.partial(sola, rank=RANK)}
        condition = shared_condition(level, 6) if self.modulation == "sola" else level
        for i in range(DEPTH):
            block = DiTBlock(4, self.hidden, modulation=makers[self.modulation], qk_norm=True, name=f"blocks_{i}")
            h = block(h, condition, None, text)
        return nn.Dense(2, name="output")(LayerNorm(name="norm")(h))


def counts(modulation, hidden):
    """Parameters in all, and those of the modulation."""
    x, k, text, seen = jnp.zeros((1, 32, 2)), jnp.zeros(1, int), jnp.zeros((1, 3), int), jnp.ones((1, 32), bool)
    shapes = jax.eval_shape(Denoiser(modulation, hidden).init, jax.random.key(0), x, k, text, x, seen)
    sizes = [(jax.tree_util.keystr(path), leaf.size) for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)]
    return sum(size for _, size in sizes), sum(size for path, size in sizes if "modulation" in path)


def network(modulation):
    """The arm's network, its MLPs so wide that all arms have as many parameters as adaLN-Zero with ``HIDDEN``."""
    (low, _), (high, _) = counts(modulation, HIDDEN), counts(modulation, HIDDEN + 1)
    return Denoiser(modulation, HIDDEN + round((counts("zero", HIDDEN)[0] - low) / (high - low)))
