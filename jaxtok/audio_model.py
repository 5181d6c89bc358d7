"""Trained waveform tokenizers as users meet them: audio in, tokens out, audio back.

tokens = model.encode(audio, rate=16000)  # tokens.codes int32 [B, N, Q]
again = model.decode(tokens)  # float32 [L]
"""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.build import build
from jaxtok.signal import windows
from jaxtok.speech_model import Audio, Tokens

_ROWS = 8  # recordings encoded or decoded at once: bounds the memory
_LONGEST = 1 << 30  # tokens: lengths are padded to doublings, without end


@flax.struct.dataclass
class AudioModel:
    """A waveform tokenizer; a pytree whose leaves are its parameters and moving state.

    Attributes:
      variables: what ``module.apply`` takes: ``params``, and ``codebook`` where the quantizer has one that moves.
      module: a :class:`jaxtok.tokenizers.waveform.WaveformTokenizer` of a quantizer with codes.
      rate: samples per second of the audio that goes in and comes out.
    """

    variables: Any
    module: nn.Module = flax.struct.field(pytree_node=False)
    rate: int = flax.struct.field(pytree_node=False)

    @property
    def hop(self) -> int:
        """Samples per token."""
        return self.module.hop

    @property
    def token_rate(self) -> float:
        """Tokens per second."""
        return self.rate / self.hop

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes."""
        quantizer = self.module.quantizer
        return self.token_rate * quantizer.num_codebooks * float(np.log2(quantizer.codebook_size))

    def encode(self, audio: Audio | Sequence[Audio], *, rate: int = 0) -> Tokens:
        """Tokens of one recording [L] or of a list of them; they do not depend on what else is in the list.

        A recording is encoded in one piece: memory grows with its length.

        Args:
          audio: float in [-1, 1] (or integers of any width), mono.
          rate: of the audio in Hz; 0 means the model's own.

        Raises:
          ValueError: for empty, non-finite or multi-channel audio, or a negative rate.
        """
        from jaxtok.data import audio as sound

        if rate < 0:
            raise ValueError(f"rate: expected a positive number, or 0 for the model's own, found {rate}")
        single = not isinstance(audio, (list, tuple))
        given = [sound.mono(wave, f"recording {i}") for i, wave in enumerate([audio] if single else audio)]
        if not given:
            raise ValueError("audio: expected at least one recording, found an empty list")
        waves = [sound.scale(sound.resample(wave, rate or self.rate, self.rate)) for wave in given]
        counts = [-(-len(wave) // self.hop) for wave in waves]
        codes = np.zeros((len(waves), max(counts), self.module.quantizer.num_codebooks), np.int32)
        for rows in _groups(counts):
            frames = windows.padded(max(counts[i] for i in rows), _LONGEST)
            batch, mask = np.zeros((len(rows), frames * self.hop), np.float32), []
            for row, i in enumerate(rows):
                batch[row, : len(waves[i])] = waves[i]
                mask.append(np.arange(batch.shape[1]) < len(waves[i]))
            found = np.asarray(_encode(self.module, self.variables, batch, np.stack(mask)))
            for row, i in enumerate(rows):
                codes[i, : counts[i]] = found[row, : counts[i]]
        return self._tokens(codes, counts, [len(wave) for wave in waves], single)

    def tokens(self, codes: np.ndarray, *, samples: int = 0) -> Tokens:
        """Tokens of one recording from stored codes int [N, Q], lasting ``samples`` samples (0: all of them).

        Raises:
          ValueError: for another shape, or codes that the codebook does not have.
        """
        quantizer, rows = self.module.quantizer, np.asarray(codes)
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != quantizer.num_codebooks:
            raise ValueError(f"codes: expected [tokens, {quantizer.num_codebooks}], found shape {rows.shape}")
        if not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= quantizer.codebook_size:
            raise ValueError(
                f"codes: expected integers from 0 to {quantizer.codebook_size - 1}, found {rows.dtype} from "
                f"{rows.min()} to {rows.max()}"
            )
        whole = len(rows) * self.hop
        if not 0 <= samples <= whole:
            raise ValueError(f"samples: expected at most {whole}, the codes' length, found {samples}")
        return self._tokens(rows[None].astype(np.int32), [len(rows)], [samples or whole], True)

    def decode(self, tokens: Tokens) -> Any:
        """Audio of tokens: float32 [L] for a single recording, else a list of them; about [-1, 1]."""
        counts, waves = [int(count) for count in tokens.mask.sum(1)], {}
        latents, samples = np.asarray(tokens.latents), np.asarray(tokens.samples)
        for rows in _groups(counts):
            frames = windows.padded(max(counts[i] for i in rows), _LONGEST)
            batch = np.zeros((len(rows), frames, latents.shape[2]), np.float32)
            for row, i in enumerate(rows):
                batch[row, : counts[i]] = latents[i, : counts[i]]
            mask = np.arange(frames) < np.asarray([[counts[i]] for i in rows])
            found = np.asarray(_decode(self.module, self.variables, batch, mask))
            waves |= {i: found[row, : samples[i]] for row, i in enumerate(rows)}
        return waves[0] if tokens.single else [waves[i] for i in range(len(counts))]

    def _tokens(self, codes: np.ndarray, counts: list[int], samples: list[int], single: bool) -> Tokens:
        rows = jnp.asarray(codes)
        return Tokens(
            codes=rows,
            latents=_dequantize(self.module, self.variables, rows),
            mask=jnp.arange(rows.shape[1]) < jnp.asarray(counts)[:, None],
            samples=jnp.asarray(samples, jnp.int32),
            single=single,
        )


def assemble(config: Any, params: Any, state: Any = None) -> AudioModel:
    """The model of a config around given parameters (trained, converted, or random).

    Args:
      config: with ``model`` and ``rate``.
      params: of the model, or those of both players of its training, of which the generator's are taken.
      state: of the task, where the quantizer's codebook moves; else ``{}`` will do.

    Raises:
      ValueError: when the model has a moving codebook and ``state`` none.
    """
    module, state = build(config["model"]), state or {}
    blank = jax.ShapeDtypeStruct((1, module.hop), jnp.float32)
    kept = jax.eval_shape(module.init, jax.random.key(0), blank)
    if "codebook" in kept and "codebook" not in state:
        raise ValueError(f"state: the model keeps a codebook in the run's state, found {', '.join(state) or 'none'}")
    variables = {"params": params.get("generator", params)}
    return AudioModel(variables | {name: state[name] for name in kept if name == "codebook"}, module, config["rate"])


def _groups(counts: Sequence[int]) -> list[list[int]]:
    """Positions of recordings that go together, those of like lengths; the first again until the rows are 1, 2, 4 or 8.

    Few shapes, so few compilations.
    """
    by_length = sorted(range(len(counts)), key=lambda i: counts[i])
    groups = [by_length[first : first + _ROWS] for first in range(0, len(counts), _ROWS)]
    return [rows + rows[:1] * ((1 << (len(rows) - 1).bit_length()) - len(rows)) for rows in groups]


@functools.partial(jax.jit, static_argnums=0)
def _encode(module: Any, variables: Any, audio: jax.Array, mask: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):  # on TPUs float32 products are else rounded to bfloat16
        return module.apply(variables, audio, mask=mask, method="encode").codes


@functools.partial(jax.jit, static_argnums=0)
def _decode(module: Any, variables: Any, latents: jax.Array, mask: jax.Array) -> jax.Array:
    return module.apply(variables, latents, mask=mask, method="decode")


@functools.partial(jax.jit, static_argnums=0)
def _dequantize(module: Any, variables: Any, codes: jax.Array) -> jax.Array:
    return module.apply(variables, codes, method=lambda m, codes: m.quantizer.decode(codes))
