"""Trained speech tokenizers as users meet them: raw audio in, tokens out, raw audio back."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.build import build
from jaxtok.models.tokens import Audio, Tokens
from jaxtok.models.vocoder import vocode
from jaxtok.signal import windows
from jaxtok.signal.griffin_lim import GriffinLim
from jaxtok.signal.mel import MelFrontEnd
from jaxtok.tokenizers.diffusion import FlowSampler

_WINDOWS = 8  # windows encoded at once: bounds the memory of long recordings


@flax.struct.dataclass
class SpeechModel:
    """A speech tokenizer with what stands around it; a pytree whose leaves are the parameters.

    Attributes:
      params: of ``module``.
      module: the tokenizer, mel to mel.
      frontend: audio to mel.
      text: transcripts to ids.
      vocoder: mel [B, T, F] to audio [B, T * hop], a pytree: Griffin-Lim or a ``VocoderModel``.
      window: the longest stretch in frames that is encoded or decoded in one piece.
      context: frames that a window of a longer recording sees on each side beyond its own tokens.
      factor: frames per token.
    """

    params: Any
    vocoder: Any
    module: nn.Module = flax.struct.field(pytree_node=False)
    frontend: MelFrontEnd = flax.struct.field(pytree_node=False)
    text: Any = flax.struct.field(pytree_node=False)
    window: int = flax.struct.field(pytree_node=False, default=2000)
    context: int = flax.struct.field(pytree_node=False, default=200)
    factor: int = flax.struct.field(pytree_node=False, default=8)

    @property
    def variables(self) -> dict[str, Any]:
        """What ``module.apply`` takes."""
        return {"params": self.params}

    @property
    def rate(self) -> int:
        """Samples per second of the audio that goes in and comes out."""
        return self.frontend.sample_rate

    @property
    def token_rate(self) -> float:
        """Tokens per second."""
        return self.rate / (self.frontend.hop * self.factor)

    @property
    def bitrate(self) -> float:
        """Bits per second."""
        quantizer = self.module.quantizer
        return self.token_rate * quantizer.num_codebooks * float(np.log2(quantizer.codebook_size))

    def encode(self, audio: Audio, *, rate: int = 0, text: str | Sequence[str] | None = None) -> Tokens:
        """Tokens of one utterance [L] or of a list of utterances of any lengths.

        An utterance is resampled to the model's rate, scaled down where its peak exceeds 1, and zero-padded to whole
        tokens (the reference drops the rest of up to 7 frames instead). Its tokens do not depend on what else is in
        the list. Recordings longer than ``window`` frames are cut into windows that overlap by twice ``context``;
        each token is taken from the one window that has it outside its context (at both ends of the recording the
        context is taken from the inside), so memory is bounded and no seam is decided by averaging.

        Args:
          audio: float in [-1, 1] (or integers of any width), mono.
          rate: of the audio in Hz; 0 means the model's own.
          text: the transcripts, kept in the tokens for ``decode``; this encoder does not read them.

        Raises:
          ValueError: for empty, non-finite, or multi-channel audio, or a number of texts other than of utterances.
        """
        single = not isinstance(audio, (list, tuple))
        waves = [self._wave(wave, rate, f"utterance {i}") for i, wave in enumerate([audio] if single else audio)]
        if not waves:
            raise ValueError("audio: expected at least one utterance, found an empty list")
        transcripts = None if text is None else tuple([text] if isinstance(text, str) else text)
        if transcripts is not None and len(transcripts) != len(waves):
            raise ValueError(f"text: expected {len(waves)} transcripts, one per utterance, found {len(transcripts)}")
        codes = self._encode([self._mel(wave) for wave in waves])
        longest = max(map(len, codes))
        padded = jnp.asarray(np.stack([np.pad(c, ((0, longest - len(c)), (0, 0))) for c in codes]))
        return Tokens(
            codes=padded,
            latents=_dequantize(self.module, self.params, padded),
            mask=jnp.arange(longest) < jnp.asarray([[len(c)] for c in codes]),
            samples=jnp.asarray([len(wave) for wave in waves], jnp.int32),
            text=transcripts,
            single=single,
        )

    def tokenize(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """A training batch with ``codes`` int32 [B, N, Q] and ``codes_mask`` in place of ``audio``; traceable.

        They are those that ``encode`` makes of each utterance alone, where it is no longer than ``window``.
        """
        lengths = batch["audio_mask"].sum(1)
        mel = self.frontend(batch["audio"], lengths=lengths)
        mask = jnp.arange(mel.shape[1]) < (lengths // self.frontend.hop)[:, None]
        codes = _encode(self.module, variables["params"], jnp.where(mask[..., None], mel, 0.0), mask)
        rest = {name: value for name, value in batch.items() if name not in ("audio", "audio_mask")}
        return rest | {"codes": codes, "codes_mask": mask[:, self.factor // 2 :: self.factor]}

    def whole(self, audio: Audio, *, rate: int = 0, name: str = "audio") -> np.ndarray:
        """One utterance, float32 [L] at the model's rate, cut down to whole tokens.

        Raises:
          ValueError: where it is shorter than one token, or not as ``encode`` expects it.
        """
        wave, unit = self._wave(audio, rate, name), self.frontend.hop * self.factor
        if len(wave) < unit:
            least = unit / self.rate
            raise ValueError(f"{name}: lasts {len(wave) / self.rate:.3f} s, expected at least one token, {least:g} s")
        return wave[: len(wave) // unit * unit]

    def tokens(self, codes: np.ndarray, *, samples: int = 0) -> Tokens:
        """Tokens of one utterance from stored codes int [N, Q], lasting ``samples`` samples (0: all of them)."""
        quantizer = self.module.quantizer
        rows = jnp.asarray(codes, jnp.int32)[None]
        if rows.ndim != 3 or not rows.shape[1] or rows.shape[2] != quantizer.num_codebooks:
            raise ValueError(f"codes: expected [tokens, {quantizer.num_codebooks}], found shape {rows.shape[1:]}")
        if int(rows.min()) < 0 or int(rows.max()) >= quantizer.codebook_size:
            raise ValueError(f"codes: expected values from 0 to {quantizer.codebook_size - 1}, found {int(rows.max())}")
        whole = rows.shape[1] * self.factor * self.frontend.hop
        return Tokens(
            codes=rows,
            latents=_dequantize(self.module, self.params, rows),
            mask=jnp.ones(rows.shape[:2], bool),
            samples=jnp.asarray([samples or whole], jnp.int32),
            single=True,
        )

    def decode(
        self,
        tokens: Tokens,
        *,
        rng: jax.Array,
        text: str | Sequence[str] | None = None,
        prompt: Audio | None = None,
        prompt_text: str = "",
        rate: int = 0,
        lead: float = 0.0,
        steps: int = 32,
        guidance: float = 2.0,
        rescale: float = 0.75,
    ) -> Any:
        """Audio of tokens: float32 [L] for a single utterance, else a list of them.

        Args:
          tokens: from ``encode``. Utterances of more than ``window`` frames are sampled piece by piece, each given
            the last ``context`` frames of the one before; only without text, since nobody knows which words belong to
            a piece (see ``decode_segments``).
          rng: one key, which serves every utterance alike, or a key per utterance [B]. With the same key an
            utterance sounds the same whatever stands beside it.
          text: transcripts; None takes those of the tokens, and without any the decoder goes by the tokens alone.
          prompt: one utterance [L] whose voice is to be followed; cut to whole tokens.
          prompt_text: its transcript, put before the text without a separator, as the reference does.
          rate: of the prompt in Hz; 0 means the model's own.
          lead: seconds; above 0, ``prompt`` is the one encoded utterance itself, whose beginning of this length, cut
            to whole tokens, is given clean and left out of the output, as the reference evaluates (with 3 s).
          steps: Euler steps.
          guidance: 1 for none.
          rescale: how far guidance keeps the conditional prediction's standard deviation.

        Raises:
          ValueError: in one sentence, for a wrong number of texts, too long tokens with text, or bad settings.
        """
        sampler = FlowSampler(steps=steps, guidance=guidance, rescale=rescale)
        mel, mask = self.decode_mel(
            tokens, rng=rng, text=text, prompt=prompt, prompt_text=prompt_text, rate=rate, lead=lead, sampler=sampler
        )
        audio = vocode(self.vocoder, mel, mask)
        given = (tokens.codes.shape[1] * self.factor - mel.shape[1]) * self.frontend.hop
        waves = [wave[: samples - given] for wave, samples in zip(audio, np.asarray(tokens.samples))]
        return waves[0] if tokens.single else waves

    def decode_mel(
        self,
        tokens: Tokens,
        *,
        rng: jax.Array,
        text: str | Sequence[str] | None = None,
        prompt: Audio | None = None,
        prompt_text: str = "",
        rate: int = 0,
        lead: float = 0.0,
        sampler: FlowSampler | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """As ``decode``, up to the vocoder: normalised mel [B, T, F] and its mask [B, T], without the prompt."""
        batch = len(tokens.codes)
        texts = self._texts(tokens, text, prompt_text if prompt is not None else "")
        codes, mask = np.asarray(tokens.codes), np.asarray(tokens.mask)
        before = np.zeros((0, self.frontend.bands), np.float32)
        if prompt is not None:
            before = self._mel(self._wave(prompt, rate, "prompt"), whole=not lead)
            before = before[: self._lead(lead, batch, codes.shape[1])] if lead else before
        if len(before) and not lead:
            own = self._encode([before])[0]
            codes = np.concatenate([np.broadcast_to(own, (batch, *own.shape)), codes], axis=1)
            mask = np.concatenate([np.ones((batch, len(own)), bool), mask], axis=1)
        frames, seconds = codes.shape[1] * self.factor, self.frontend.hop / self.rate
        if frames > self.window and texts is not None:
            raise ValueError(
                f"tokens: {frames * seconds:.1f} s with the prompt, at most {self.window * seconds:.1f} s are decoded "
                "in one piece; give decode_segments a list of (tokens, text), or leave the text out"
            )
        if len(before) >= self.window:
            raise ValueError(f"prompt: lasts {len(before) * seconds:.2f} s, expected below {self.window * seconds:.2f}")
        draw = functools.partial(self._piece, texts=texts, sampler=sampler or FlowSampler())
        given, keys = np.broadcast_to(before, (batch, *before.shape)), jnp.broadcast_to(rng, (batch,))
        if frames <= self.window:
            mel = draw(codes, mask, given, keys)
        else:
            rows = [self._continued(draw, *row) for row in zip(codes, mask, given, keys)]
            mel = jnp.asarray(np.stack(rows))
        return mel[:, len(before) :], jnp.asarray(np.repeat(mask, self.factor, axis=1)[:, len(before) :])

    def _piece(self, codes, mask, before, keys, *, texts, sampler) -> jax.Array:
        """Mel [B, N * factor, F] of codes [B, N, Q] with mask [B, N], whose first frames are ``before`` [B, P, F]."""
        frames, given = codes.shape[1] * self.factor, before.shape[1]
        padded = windows.padded(frames, self.window)
        width = ((0, 0), (0, padded // self.factor - codes.shape[1]))
        cond = {} if texts is None else self._ids(texts)
        if given:
            cond["prompt"] = np.pad(before, ((0, 0), (0, padded - given), (0, 0)))
            cond["prompt_mask"] = np.broadcast_to(np.arange(padded) < given, (len(codes), padded))
        mel = _sample(
            self.module, sampler, self.params, jnp.asarray(np.pad(codes, (*width, (0, 0)))),
            np.repeat(np.pad(mask, width), self.factor, axis=1), cond, keys,
        )  # fmt: skip
        return mel[:, :frames]

    def _continued(self, draw, codes, mask, before, key) -> np.ndarray:
        """Mel [N * factor, F] of one row longer than ``window``: each piece is given the end of the one before it."""
        most, whole = self.window // self.factor, self.factor * int(mask.sum())
        pieces, given, start, done = [before], before, 0, len(before)
        while done < whole:
            part = slice(start // self.factor, min(start // self.factor + most, whole // self.factor))
            own = jax.random.fold_in(key, len(pieces) - 1) if start else key  # the first as if there were no other
            mel = np.asarray(draw(codes[None, part], mask[None, part], given[None], own[None])[0])
            pieces.append(mel[len(given) :])
            done = part.stop * self.factor
            start = done - self.context // self.factor * self.factor
            given = mel[len(mel) - (done - start) :]
        return np.pad(np.concatenate(pieces), ((0, len(codes) * self.factor - done), (0, 0)))

    def decode_segments(self, segments: Sequence[tuple[Tokens, str]], *, rng: jax.Array, **settings: Any) -> np.ndarray:
        """Audio [L] of a long recording given as (tokens, text) segments of one utterance each, end to end.

        Each segment is sampled by itself with its own key (folded from ``rng`` by its number) and the same
        ``settings`` as in ``decode``; the vocoder runs over each, and the pieces are joined without overlap.
        """
        if not segments:
            raise ValueError("segments: expected at least one (tokens, text), found none")
        pieces = []
        for i, (tokens, text) in enumerate(segments):
            if len(tokens.codes) != 1:
                raise ValueError(f"segments: segment {i} holds {len(tokens.codes)} utterances, expected one")
            out = self.decode(tokens, text=[text], rng=jax.random.fold_in(rng, i), **settings)
            pieces.append(out if tokens.single else out[0])
        return np.concatenate(pieces)

    def _lead(self, lead: float, batch: int, tokens: int) -> int:
        """The frames of ``lead`` seconds, in whole tokens."""
        count = int(lead * self.token_rate)
        if batch != 1 or not 0 < count < tokens:
            raise ValueError(
                f"lead: expected one utterance longer than the lead, and a lead of at least one token, found {batch} "
                f"utterances, {tokens / self.token_rate:.2f} s and a lead of {lead:g} s"
            )
        return count * self.factor

    def _wave(self, audio: Audio, rate: int, name: str) -> np.ndarray:
        """One utterance as float32 [L] at the model's rate, with peaks of at most 1."""
        from jaxtok.data import audio as sound

        wave = sound.mono(audio, name)
        if rate < 0:
            raise ValueError(f"{name}: rate must be positive, found {rate}")
        return sound.scale(sound.resample(wave, rate or self.rate, self.rate))

    def _mel(self, wave: np.ndarray, whole: bool = False) -> np.ndarray:
        """Normalised mel [T, F], T a multiple of ``factor``: padded up, or cut down where ``whole`` and long enough."""
        unit = self.frontend.hop * self.factor
        if whole and len(wave) >= unit:
            wave = wave[: len(wave) // unit * unit]
        wave = np.pad(wave, (0, -len(wave) % unit))
        hop, margin = self.frontend.hop, self.frontend.n_fft // self.frontend.hop
        frames, pieces, start = len(wave) // hop, [], 0
        while start < frames:
            end = min(start + self.window, frames)
            low, high = max(start - margin, 0), min(end + margin, frames)
            padded = windows.padded(high - low, self.window + 2 * margin)
            piece = np.zeros(padded * hop, np.float32)
            piece[: (high - low) * hop] = wave[low * hop : high * hop]
            mel = _frames(self.frontend, piece[None], np.asarray([(high - low) * hop]))[0]
            pieces.append(np.asarray(mel[start - low : end - low]))
            start = end
        return np.concatenate(pieces)

    def _encode(self, mels: list[np.ndarray]) -> list[np.ndarray]:
        """Codes [N, Q] of each mel [T, F], window by window."""
        jobs = [
            (i, *span)
            for i, mel in enumerate(mels)
            for span in windows.overlapping(len(mel), self.window, self.context)
        ]
        found: dict[int, list[np.ndarray]] = {i: [] for i in range(len(mels))}
        by_shape: dict[int, list[int]] = {}
        for number, (_, low, high, _, _) in enumerate(jobs):
            by_shape.setdefault(windows.padded(high - low, self.window), []).append(number)
        results: dict[int, np.ndarray] = {}
        for padded, numbers in by_shape.items():
            for first in range(0, len(numbers), _WINDOWS):
                chunk = numbers[first : first + _WINDOWS]
                rows = 1 << (len(chunk) - 1).bit_length()  # few batch sizes, so few compilations
                mel = np.zeros((rows, padded, self.frontend.bands), np.float32)
                mask = np.zeros((rows, padded), bool)
                for row, number in enumerate(chunk):
                    i, low, high, _, _ = jobs[number]
                    mel[row, : high - low], mask[row, : high - low] = mels[i][low:high], True
                codes = np.asarray(_encode(self.module, self.params, mel, mask))
                results |= {number: codes[row] for row, number in enumerate(chunk)}
        for number, (i, low, _, start, end) in enumerate(jobs):
            found[i].append(results[number][(start - low) // self.factor : (end - low) // self.factor])
        return [np.concatenate(found[i]) for i in range(len(mels))]

    def _texts(self, tokens: Tokens, text: str | Sequence[str] | None, before: str) -> list[str] | None:
        chosen = tokens.text if text is None else [text] * len(tokens.codes) if isinstance(text, str) else list(text)
        if chosen is None:
            return [before] * len(tokens.codes) if before else None
        if len(chosen) != len(tokens.codes):
            raise ValueError(f"text: expected {len(tokens.codes)} transcripts, one per utterance, found {len(chosen)}")
        return [before + one for one in chosen]

    def _ids(self, texts: list[str]) -> dict[str, np.ndarray]:
        ids = [self.text.encode(text) for text in texts]
        longest = -(-max(1, *(len(row) for row in ids), 1) // 32) * 32
        padded = np.stack([np.pad(row, (0, longest - len(row)), constant_values=self.text.pad_id) for row in ids])
        return {"text_ids": padded, "text_mask": np.arange(longest) < np.asarray([[len(row)] for row in ids])}


def assemble(config: Any, params: Any, state: Any = None) -> SpeechModel:
    """The model of a config around given parameters (trained, converted, or random).

    Args:
      config: with ``model``, ``frontend``, ``text``, ``window``, and perhaps ``vocoder``.
      params: of the model.
      state: not used: no codebook moves.
    """
    del state
    frontend = build(config["frontend"])
    window = config["window"]
    return SpeechModel(
        params=params,
        module=build(config["model"]),
        frontend=frontend,
        text=build(config["text"]),
        vocoder=_vocoder(config, frontend),
        window=round(window["seconds"] * frontend.sample_rate / frontend.hop),
        context=round(window["context"] * frontend.sample_rate / frontend.hop),
        factor=config["model"]["encoder"]["factor"],
    )


def _vocoder(config: Any, frontend: MelFrontEnd) -> Any:
    """The config's vocoder, Griffin-Lim where it has none; ValueError for one of another mel."""
    vocoder = build(config["vocoder"]) if "vocoder" in config else GriffinLim(frontend)
    if vocoder.frontend != frontend:
        raise ValueError(f"vocoder: expected one of {frontend}, found one of {vocoder.frontend}")
    return vocoder


@functools.partial(jax.jit, static_argnums=0)
def _frames(frontend: MelFrontEnd, audio: jax.Array, lengths: jax.Array) -> jax.Array:
    return frontend(audio, lengths=lengths)


@functools.partial(jax.jit, static_argnums=0)
def _encode(module: Any, params: Any, mel: jax.Array, mask: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):  # on TPUs float32 products are else rounded to bfloat16
        return module.apply({"params": params}, mel, mask=mask, method="encode").codes


@functools.partial(jax.jit, static_argnums=0)
def _dequantize(module: Any, params: Any, codes: jax.Array) -> jax.Array:
    return module.apply({"params": params}, codes, method=lambda m, codes: m.quantizer.decode(codes))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sample(module, sampler, params, codes, mask, cond, keys):
    latents = _dequantize(module, params, codes)
    variables = {"params": params}
    return module.apply(variables, latents, mask=mask, cond=cond, rng=keys, sampler=sampler, method="decode")
