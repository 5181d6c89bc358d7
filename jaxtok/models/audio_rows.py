"""Recordings of any lengths through a waveform tokenizer: a few at once, and long ones in parts where it is causal."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtok.models import audio_stream
from jaxtok.signal import windows

ROWS = 8  # recordings encoded or decoded at once: bounds the memory
LONG = 1024  # tokens; a recording of more goes through a causal tokenizer in parts
_LONGEST = 1 << 30  # tokens: lengths are padded to doublings, without end


def encode(module: Any, variables: Any, waves: Sequence[np.ndarray]) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """(codes int32 [N, Q] or None, latents float32 [N, D]) of each recording float32 [L], N = ceil(L / hop).

    None of them depends on the others.
    """

    def one(i: int) -> Any:
        return audio_stream.encode(module, variables, waves[i])

    def several(rows: Sequence[int], frames: int) -> Any:
        batch = np.zeros((len(rows), frames * module.hop), np.float32)
        mask = np.zeros(batch.shape, bool)
        for row, i in enumerate(rows):
            batch[row, : len(waves[i])] = waves[i]
            mask[row, : audio_stream.filled(module, len(waves[i]))] = True
        return _encode(module, variables, batch, mask)

    return _each(module, [-(-len(wave) // module.hop) for wave in waves], 1, one, several)


def decode(module: Any, variables: Any, latents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Audio float32 [hop N] of the latents float32 [N, D] of each recording."""

    def one(i: int) -> Any:
        return audio_stream.decode(module, variables, latents[i])

    def several(rows: Sequence[int], frames: int) -> Any:
        batch = np.zeros((len(rows), frames, latents[0].shape[1]), np.float32)
        mask = np.zeros(batch.shape[:2], bool)
        for row, i in enumerate(rows):
            batch[row, : len(latents[i])], mask[row, : len(latents[i])] = latents[i], True
        return _decode(module, variables, batch, mask)

    return _each(module, [len(rows) for rows in latents], module.hop, one, several)


def _each(
    module: Any, counts: Sequence[int], unit: int, one: Callable[[int], Any],
    several: Callable[[Sequence[int], int], Any],
) -> list[Any]:  # fmt: skip
    """What the tokenizer gives for recordings of so many tokens, each cut to its tokens times ``unit``."""
    found: dict[int, Any] = {i: one(i) for i, count in enumerate(counts) if module.streams and count > LONG}
    for rows in _groups({i: count for i, count in enumerate(counts) if i not in found}):
        frames = windows.padded(max(counts[i] for i in rows), _LONGEST)
        batch = jax.tree.map(np.asarray, several(rows, frames))
        for row, i in enumerate(rows):
            found[i] = jax.tree.map(functools.partial(_cut, row, counts[i] * unit), batch)
    return [found[i] for i in range(len(counts))]


def _cut(row: int, size: int, batch: np.ndarray) -> np.ndarray:
    return batch[row, :size]


def _groups(counts: Mapping[int, int]) -> list[list[int]]:
    """Positions of recordings that go together, those of like lengths; the first again until the rows are 1, 2, 4 or 8.

    Few shapes, so few compilations.
    """
    by_length = sorted(counts, key=lambda i: counts[i])
    groups = [by_length[first : first + ROWS] for first in range(0, len(counts), ROWS)]
    return [rows + rows[:1] * ((1 << (len(rows) - 1).bit_length()) - len(rows)) for rows in groups]


@functools.partial(jax.jit, static_argnums=0)
def _encode(module: Any, variables: Any, audio: jax.Array, mask: jax.Array) -> Any:
    with jax.default_matmul_precision("highest"):  # on TPUs float32 products are else rounded to bfloat16
        tokens = module.apply(variables, audio, mask=mask, method="encode")
    return tokens.codes, tokens.latents


@functools.partial(jax.jit, static_argnums=0)
def _decode(module: Any, variables: Any, latents: jax.Array, mask: jax.Array) -> jax.Array:
    return module.apply(variables, latents, mask=mask, method="decode")
