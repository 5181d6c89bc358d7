"""Trained waveform tokenizers as users meet them: audio in, tokens out, audio back.

tokens = model.encode(audio, rate=16000)  # tokens.codes int32 [B, N, Q], tokens.latents float32 [B, N, D]
again = model.decode(tokens)  # float32 [L]

part, state = model.stream_encode(samples)  # of a causal model, while the sound goes on
part, state = model.stream_encode(more, state, last=True)
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
from jaxtok.models import audio_rows, audio_stream
from jaxtok.models.audio_stream import EncodeState
from jaxtok.models.tokens import Audio, Tokens
from jaxtok.tokenizers.waveform import latent_width


@flax.struct.dataclass
class AudioModel:
    """A waveform tokenizer; a pytree whose leaves are its parameters and moving state.

    Tokens are codes and their latents, or latents alone (``codes`` None) of a model with a continuous bottleneck: the
    mean of each, nothing is drawn.

    Attributes:
      variables: what ``module.apply`` takes: ``params``, and ``codebook`` where the quantizer has one that moves.
      module: a :class:`jaxtok.tokenizers.waveform.WaveformTokenizer`.
      rate: samples per second of the audio that goes in and comes out.
      window: of a model that is not causal, the longest stretch in tokens that is coded in one piece; 0 for no limit.
      context: tokens that a window of a longer recording sees on each side beyond those it is asked for.
    """

    variables: Any
    module: nn.Module = flax.struct.field(pytree_node=False)
    rate: int = flax.struct.field(pytree_node=False)
    window: int = flax.struct.field(pytree_node=False, default=0)
    context: int = flax.struct.field(pytree_node=False, default=0)

    @property
    def hop(self) -> int:
        """Samples per token."""
        return self.module.hop

    @property
    def token_rate(self) -> float:
        """Tokens per second."""
        return self.rate / self.hop

    @property
    def discrete(self) -> bool:
        """Whether tokens have codes."""
        return self.module.quantizer.num_codebooks > 0

    @property
    def streams(self) -> bool:
        """Whether the model is causal, for :meth:`stream_encode` and :meth:`stream_decode`."""
        return self.module.streams

    @property
    def bitrate(self) -> float:
        """Bits per second of the codes.

        Raises:
          ValueError: when there are none.
        """
        quantizer = self._coded("bitrate")
        return self.token_rate * quantizer.num_codebooks * float(np.log2(quantizer.codebook_size))

    def encode(self, audio: Audio | Sequence[Audio], *, rate: int = 0) -> Tokens:
        """Tokens of one recording [L] or of a list of them; they do not depend on what else is in the list.

        There are ceil(L / hop) of them. Memory is bounded: a causal model takes a long recording part by part, which
        changes nothing; another takes what is longer than ``window`` in windows that overlap by twice ``context``, and
        each token is that of the one window that has it outside its context, as in decoding each sample.

        Args:
          audio: float in [-1, 1] (or integers of any width), mono; scaled down where its peak exceeds 1.
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

        codes, latents = zip(*audio_rows.encode(self.module, self.variables, waves, **self._windows))
        return _tokens(codes, latents, [len(wave) for wave in waves], single)

    def tokens(self, codes: np.ndarray, *, samples: int = 0) -> Tokens:
        """Tokens of one recording from stored codes int [N, Q], lasting ``samples`` samples (0: all of them).

        Raises:
          ValueError: for another shape, codes that the codebook does not have, or a model without codes.
        """
        quantizer, rows = self._coded("codes"), np.asarray(codes)
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != quantizer.num_codebooks:
            raise ValueError(f"codes: expected [tokens, {quantizer.num_codebooks}], found shape {rows.shape}")
        if not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= quantizer.codebook_size:
            raise ValueError(
                f"codes: expected integers from 0 to {quantizer.codebook_size - 1}, found {rows.dtype} from "
                f"{rows.min()} to {rows.max()}"
            )
        rows = rows.astype(np.int32)
        latents = np.asarray(_dequantize(self.module, self.variables, rows[None]))[0]
        return _tokens([rows], [latents], [self._lasting(len(rows), samples)], True)

    def latents(self, latents: np.ndarray, *, samples: int = 0) -> Tokens:
        """Tokens of one recording from latents float [N, D], stored or made by a generator; they are without codes.

        Raises:
          ValueError: for another shape, or numbers that are not finite.
        """
        module: Any = self.module
        rows, width = np.asarray(latents), latent_width(module)
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != width:
            raise ValueError(f"latents: expected [tokens, {width}], found shape {rows.shape}")
        if not np.issubdtype(rows.dtype, np.floating) or not np.isfinite(rows).all():
            raise ValueError(f"latents: expected finite floating-point numbers, found {rows.dtype} or NaN or Inf")
        return _tokens([None], [rows.astype(np.float32)], [self._lasting(len(rows), samples)], True)

    def decode(self, tokens: Tokens) -> Any:
        """Audio of tokens: float32 [L] for a single recording, else a list of them; about [-1, 1]."""
        rows = [row[mask] for row, mask in zip(np.asarray(tokens.latents), np.asarray(tokens.mask))]
        found = audio_rows.decode(self.module, self.variables, rows, **self._windows)
        waves = [wave[:samples] for wave, samples in zip(found, np.asarray(tokens.samples))]
        return waves[0] if tokens.single else waves

    def stream_encode(
        self, audio: Audio, state: EncodeState | None = None, *, last: bool = False
    ) -> tuple[Tokens, EncodeState]:
        """The tokens that are certain by now, perhaps none, and the state for the samples that follow.

        All parts together are what ``encode`` gives of the whole, to 1e-5 in the latents. A part is not scaled down
        where its peak exceeds 1.

        Args:
          audio: mono [any number, also none], float in [-1, 1], at the model's rate. A number of whole hops that stays
            the same compiles least.
          state: of the call before; None at the beginning.
          last: whether the sound ends with it.

        Raises:
          ValueError: for a model that is not causal, multi-channel or non-finite audio, or a stream without samples.
        """
        from jaxtok.data import audio as sound

        self._check_streams()
        wave = sound.mono(audio, "audio") if np.size(audio) or np.ndim(audio) != 1 else np.zeros(0, np.float32)
        codes, latents, state = audio_stream.encode_part(self.module, self.variables, wave, state, last)
        return _tokens([codes], [latents], [len(latents) * self.hop], True), state

    def stream_decode(self, tokens: Tokens, state: Any = None, *, last: bool = False) -> tuple[np.ndarray, Any]:
        """The samples that are certain by now, float32 [any number], and the state for the tokens that follow.

        All parts together are hop times the tokens: what exceeds the recording's length is the caller's to cut.

        Args:
          tokens: what follows those before, of one recording; perhaps none.
          state: of the call before; None at the beginning.
          last: whether the sound ends with it.

        Raises:
          ValueError: for a model that is not causal, or tokens of several recordings.
        """
        self._check_streams()
        if len(tokens.latents) != 1:
            raise ValueError(f"tokens: a stream expected those of one recording, found {len(tokens.latents)}")
        latents = np.asarray(tokens.latents[0])[np.asarray(tokens.mask[0])]
        return audio_stream.decode_part(self.module, self.variables, latents, state, last)

    @property
    def _windows(self) -> dict[str, int]:
        return {"window": self.window, "context": self.context}

    def _lasting(self, count: int, samples: int) -> int:
        whole = count * self.hop
        if not 0 <= samples <= whole:
            raise ValueError(f"samples: expected at most {whole}, the tokens' length, found {samples}")
        return samples or whole

    def _coded(self, what: str) -> Any:
        if not self.discrete:
            raise ValueError(f"{what}: this model's tokens are continuous, expected a model with codes")
        return self.module.quantizer

    def _check_streams(self) -> None:
        if not self.streams:
            raise ValueError("stream: expected a causal model, found one that looks at the whole recording")


def assemble(config: Any, params: Any, state: Any = None) -> AudioModel:
    """The model of a config around given parameters (trained, converted, or random).

    Args:
      config: with ``model`` and ``rate``, and perhaps ``window``, whose ``seconds`` and ``context`` are in seconds.
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
    variables |= {name: state[name] for name in kept if name == "codebook"}
    window = config.get("window", {"seconds": 0, "context": 0})
    tokens = {name: round(seconds * config["rate"] / module.hop) for name, seconds in window.items()}
    return AudioModel(variables, module, config["rate"], window=tokens["seconds"], context=tokens["context"])


def _tokens(codes: Sequence[Any], latents: Sequence[np.ndarray], samples: Sequence[int], single: bool) -> Tokens:
    """One row per recording, filled up with zeros; without codes where they are None."""
    counts = [len(row) for row in latents]

    def stack(rows: Sequence[np.ndarray]) -> jax.Array:
        return jnp.asarray(np.stack([np.pad(row, ((0, max(counts) - len(row)), (0, 0))) for row in rows]))

    return Tokens(
        codes=None if codes[0] is None else stack(codes),
        latents=stack(latents),
        mask=jnp.arange(max(counts)) < jnp.asarray(counts)[:, None],
        samples=jnp.asarray(samples, jnp.int32),
        single=single,
    )


@functools.partial(jax.jit, static_argnums=0)
def _dequantize(module: Any, variables: Any, codes: jax.Array) -> jax.Array:
    return module.apply(variables, codes, method=lambda m, codes: m.quantizer.decode(codes))
