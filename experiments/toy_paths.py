"""Trajectories of damped oscillators with captions of three words, and a judge of them: for EzAudio's experiment."""

import jax
import jax.numpy as jnp
import numpy as np

LENGTH = 32
TEMPOS, DAMPINGS = (1, 2, 3, 4), (0.5, 3.0)  # turns, and the exponent of decay, over the whole trajectory
WORDS = len(TEMPOS) + len(DAMPINGS) + 2  # "left" or "right" is the third word; one more id says nothing
GRID = np.arange(LENGTH) / LENGTH


def example(key):
    """One trajectory float32 [LENGTH, 2] and its caption int [3]."""
    keys = jax.random.split(key, 7)
    tempo, damping, side = (jax.random.randint(k, (), 0, n) for k, n in zip(keys, (len(TEMPOS), len(DAMPINGS), 2)))
    rate = jnp.asarray(TEMPOS)[tempo] * (1 + 0.1 * (jax.random.uniform(keys[3]) - 0.5))
    size, phase = 0.8 + 0.4 * jax.random.uniform(keys[4]), jax.random.uniform(keys[5])
    angle = 2 * np.pi * (phase + rate * GRID)
    envelope = size * jnp.exp(-jnp.asarray(DAMPINGS)[damping] * GRID)
    x = envelope[:, None] * jnp.stack([jnp.cos(angle), (2 * side - 1) * jnp.sin(angle)], -1)
    caption = jnp.stack([tempo, len(TEMPOS) + damping, len(TEMPOS) + len(DAMPINGS) + side])
    return {"x": x + 0.02 * jax.random.normal(keys[6], x.shape), "caption": caption}


def pool(seed, count):
    """``count`` examples that a seed fixes: ``x`` [count, LENGTH, 2], ``caption`` [count, 3]."""
    return jax.jit(jax.vmap(example))(jax.random.split(jax.random.key(seed), count))


def read(x):
    """The captions int [B, 3] that trajectories [B, LENGTH, 2] have: by the median turn, the fall of the radius."""
    z = x[..., 0] + 1j * x[..., 1]
    turn = np.median(np.angle(z[:, 1:] * np.conj(z[:, :-1])), 1) * LENGTH / (2 * np.pi)
    tempo = np.abs(np.abs(turn)[:, None] - np.asarray(TEMPOS)).argmin(1)
    radius = np.log(np.abs(z) + 1e-3)
    slope = (
        -((radius - radius.mean(1, keepdims=True)) * (GRID - GRID.mean())).sum(1) / ((GRID - GRID.mean()) ** 2).sum()
    )
    damping = (slope > np.mean(DAMPINGS)).astype(int)
    return np.stack([tempo, len(TEMPOS) + damping, len(TEMPOS) + len(DAMPINGS) + (turn > 0)], 1)
