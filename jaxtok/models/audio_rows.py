"""Recordings of any lengths through a waveform tokenizer, in bounded memory: a few at once, and long ones in parts.

A causal tokenizer takes a long recording part by part, with the state of the part before. Another takes it in windows
that overlap, of which only what lies outside the context is kept.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtok.models import audio_stream
from jaxtok.signal import windows

ROWS = 8  # recordings encoded or decoded at once, at most ...
SAMPLES = 1 << 21  # ... of so many samples together, padding included: bounds the memory
LONG = 1024  # tokens; a recording of more goes through a causal tokenizer in parts
_LONGEST = 1 << 30  # tokens: lengths are padded to doublings, without end

Spans = Sequence[tuple[int, int, int, int, int]]  # recording, low, high, start, end; see windows.overlapping


def encode(
    module: Any, variables: Any, waves: Sequence[np.ndarray], *, window: int = 0, context: int = 0
) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """(codes int32 [N, Q] or None, latents float32 [N, D]) of each recording float32 [L], N = ceil(L / hop).

    None of them depends on the others. ``window`` and ``context`` are in tokens, see :class:`AudioModel`.
    """
    spans = _spans(module, [-(-len(wave) // module.hop) for wave in waves], window, context)
    parts = [waves[i][low * module.hop : high * module.hop] for i, low, high, _, _ in spans]

    def one(i: int) -> Any:
        return audio_stream.encode(module, variables, parts[i])

    def several(rows: Sequence[int], frames: int) -> Any:
        batch = np.zeros((len(rows), frames * module.hop), np.float32)
        mask = np.zeros(batch.shape, bool)
        for row, i in enumerate(rows):
            batch[row, : len(parts[i])] = parts[i]
            mask[row, : audio_stream.filled(module, len(parts[i]))] = True
        return _encode(module, variables, batch, mask)

    return _each(module, spans, 1, window, one, several)


def decode(
    module: Any, variables: Any, latents: Sequence[np.ndarray], *, window: int = 0, context: int = 0
) -> list[np.ndarray]:
    """Audio float32 [hop N] of the latents float32 [N, D] of each recording; see :func:`encode`."""
    spans = _spans(module, [len(rows) for rows in latents], window, context)
    parts = [latents[i][low:high] for i, low, high, _, _ in spans]

    def one(i: int) -> Any:
        return audio_stream.decode(module, variables, parts[i])

    def several(rows: Sequence[int], frames: int) -> Any:
        batch = np.zeros((len(rows), frames, latents[0].shape[1]), np.float32)
        mask = np.zeros(batch.shape[:2], bool)
        for row, i in enumerate(rows):
            batch[row, : len(parts[i])], mask[row, : len(parts[i])] = parts[i], True
        return _decode(module, variables, batch, mask)

    return _each(module, spans, module.hop, window, one, several)


def _spans(module: Any, counts: Sequence[int], window: int, context: int) -> Spans:
    """The windows of recordings of so many tokens; one for all of it where the tokenizer is causal or has no window."""
    whole = module.streams or not window
    cut = [[(0, n, 0, n)] if whole else windows.overlapping(n, window, context) for n in counts]
    return [(i, *span) for i, spans in enumerate(cut) for span in spans]


def _each(
    module: Any, spans: Spans, unit: int, window: int, one: Callable[[int], Any],
    several: Callable[[Sequence[int], int], Any],
) -> list[Any]:  # fmt: skip
    """For each recording what its windows are asked for, end to end: tokens times ``unit``."""
    counts = [high - low for _, low, high, _, _ in spans]
    found: dict[int, Any] = {i: one(i) for i, count in enumerate(counts) if module.streams and count > LONG}
    pad = functools.partial(windows.padded, largest=window or _LONGEST)
    rest = {i: count for i, count in enumerate(counts) if i not in found}
    for rows in _groups(rest, lambda count: pad(count) * module.hop):
        batch = jax.tree.map(np.asarray, several(rows, pad(max(counts[i] for i in rows))))
        for row, i in enumerate(rows):
            _, low, _, start, end = spans[i]
            asked = slice((start - low) * unit, (end - low) * unit)
            found[i] = jax.tree.map(functools.partial(_cut, row, asked), batch)
    parts: dict[int, list[Any]] = {}
    for number, (i, *_) in enumerate(spans):
        parts.setdefault(i, []).append(found[number])
    return [jax.tree.map(_joined, *pieces) for pieces in parts.values()]


def _cut(row: int, asked: slice, batch: np.ndarray) -> np.ndarray:
    return batch[row, asked]


def _joined(*pieces: np.ndarray) -> np.ndarray:
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _groups(counts: Mapping[int, int], samples: Callable[[int], int]) -> list[list[int]]:
    """Positions that go together, those of like lengths; the first again until the rows are 1, 2, 4 or 8.

    Few shapes, so few compilations. ``samples`` says how many a row of so many tokens has.
    """
    by_length, groups = sorted(counts, key=lambda i: counts[i]), []
    while by_length:
        size = ROWS
        while size > 1 and size * samples(counts[by_length[:size][-1]]) > SAMPLES:
            size //= 2
        rows, by_length = by_length[:size], by_length[size:]
        groups.append(rows + rows[:1] * ((1 << (len(rows) - 1).bit_length()) - len(rows)))
    return groups


@functools.partial(jax.jit, static_argnums=0)
def _encode(module: Any, variables: Any, audio: jax.Array, mask: jax.Array) -> Any:
    with jax.default_matmul_precision("highest"):  # on TPUs float32 products are else rounded to bfloat16
        tokens = module.apply(variables, audio, mask=mask, method="encode")
    return tokens.codes, tokens.latents


@functools.partial(jax.jit, static_argnums=0)
def _decode(module: Any, variables: Any, latents: jax.Array, mask: jax.Array) -> jax.Array:
    return module.apply(variables, latents, mask=mask, method="decode")
