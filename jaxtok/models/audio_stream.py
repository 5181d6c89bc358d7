"""Recordings through a causal waveform tokenizer part by part: as they come in, or because they are long.

The state of a stream goes in and comes out; the network sees whole hops, so that few shapes are compiled.
"""

import functools
from collections.abc import Iterator
from typing import Any

import flax.struct
import jax
import numpy as np

from jaxtok.tokenizers.waveform import latent_width

SIZES = (512, 32, 1)  # hops that a long recording is cut into: mostly the first, the others for its rest


@flax.struct.dataclass
class EncodeState:
    """What a stream of audio leaves for its next part.

    Attributes:
      network: the encoder's state, None before the first whole hop.
      rest: float32 [less than a hop], samples that wait for a whole hop.
      samples: how many came in so far.
    """

    network: Any = None
    rest: Any = flax.struct.field(default_factory=lambda: np.zeros(0, np.float32))
    samples: int = 0


def filled(module: Any, samples: int) -> int:
    """Samples of a recording, with the zeros behind it that its last token needs.

    An encoder that gives a frame for what is only begun, as EnCodec's, needs none; to others the recording is
    lengthened to whole hops.
    """
    return samples if module.encoder.frames(1) == 1 else -(-samples // module.hop) * module.hop


def encode_part(
    module: Any, variables: Any, audio: np.ndarray, state: EncodeState | None, last: bool
) -> tuple[np.ndarray | None, np.ndarray, EncodeState]:
    """(codes int32 [N, Q] or None, latents float32 [N, D], state), N perhaps 0, of the next samples [any number].

    Raises:
      ValueError: for a stream that ends without any sample.
    """
    state = state or EncodeState()
    x, total = np.concatenate([state.rest, audio]), state.samples + len(audio)
    if last and not total:
        raise ValueError("audio: the stream ended, expected at least one sample before, found none")
    if last:
        x = np.pad(x, (0, filled(module, total) - total))
    ready = len(x) if last else len(x) // module.hop * module.hop
    if not ready and not last:
        books = module.quantizer.num_codebooks
        codes, latents = np.zeros((0, books), np.int32), np.zeros((0, latent_width(module)), np.float32)
        return codes if books else None, latents, EncodeState(state.network, x, total)
    codes, latents, network = _encode(module, variables, x[None, :ready], state.network, last)
    codes = None if codes is None else np.asarray(codes[0])
    return codes, np.asarray(latents[0]), EncodeState(network, x[ready:], total)


def decode_part(
    module: Any, variables: Any, latents: np.ndarray, state: Any, last: bool
) -> tuple[np.ndarray, Any]:  # fmt: skip
    """(audio float32 [L], L perhaps 0, state) of the next latents [any number, D]."""
    if not len(latents) and (not last or state is None):
        return np.zeros(0, np.float32), state
    audio, state = _decode(module, variables, latents[None], state, last)
    return np.asarray(audio[0]), state


def encode(module: Any, variables: Any, audio: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Codes [N, Q] or None and latents [N, D] of a whole recording [L], in memory of a few seconds of it."""
    state, parts = None, []
    spans = _spans(len(audio) // module.hop, module.hop)
    for begin, end in spans:
        *found, state = encode_part(module, variables, audio[begin:end], state, False)
        parts.append(found)
    *found, _ = encode_part(module, variables, audio[len(audio) // module.hop * module.hop :], state, True)
    codes, latents = zip(*parts, found)
    return None if codes[0] is None else np.concatenate(codes), np.concatenate(latents)


def decode(module: Any, variables: Any, latents: np.ndarray) -> np.ndarray:
    """Audio float32 [hop N] of latents [N, D], in memory of a few seconds of it."""
    state, parts = None, []
    for begin, end in _spans(len(latents), 1):
        part, state = decode_part(module, variables, latents[begin:end], state, False)
        parts.append(part)
    return np.concatenate([*parts, decode_part(module, variables, latents[:0], state, True)[0]])


def _spans(count: int, unit: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of parts of ``SIZES`` units that follow each other, ``count`` units in all."""
    begin = 0
    for size in SIZES:
        while count - begin >= size:
            yield begin * unit, (begin + size) * unit
            begin += size


@functools.partial(jax.jit, static_argnums=(0, 4))
def _encode(module: Any, variables: Any, audio: jax.Array, state: Any, last: bool) -> Any:
    with jax.default_matmul_precision("highest"):  # on TPUs float32 products are else rounded to bfloat16
        tokens, state = module.apply(variables, audio, state, last=last, method="stream_encode")
    return tokens.codes, tokens.latents, state


@functools.partial(jax.jit, static_argnums=(0, 4))
def _decode(module: Any, variables: Any, latents: jax.Array, state: Any, last: bool) -> Any:
    return module.apply(variables, latents, state, last=last, method="stream_decode")
