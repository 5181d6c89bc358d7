"""Trained generators of speech as users meet them: a text in, and perhaps a voice to follow, and audio out.

audio = model.sample("good morning", prompt=voice, prompt_text="what the voice says", rng=0)  # float32 [L]
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import fingerprint
from jaxtok.build import build
from jaxtok.data import tokens
from jaxtok.model import load
from jaxtok.models.speech import SpeechModel
from jaxtok.models.tokens import Audio
from jaxtok.tasks.on_the_fly import OnTheFly
from jaxtok.tokenizers.diffusion import FlowSampler

_UNIT = 16  # lengths of codes are padded to multiples of it, those of text to twice as many: few compilations


@flax.struct.dataclass
class SpeechGenerator:
    """A generator of speech; a pytree whose leaves are its parameters and its tokenizer's.

    Attributes:
      params: of the task's model.
      decoder: the tokenizer whose codes are generated; None for a generator of codes that have no sound.
      task: with ``speak``, such as :class:`jaxtok.tasks.speak_masked.SpeakMasked`.
      sampling: the settings where none are given.
      text: from a text to its ids.
      longest: ids of a text, with those of the prompt's.
      steps: of the decoder; ``guidance`` likewise.
    """

    params: Any
    decoder: SpeechModel | None
    task: Any = flax.struct.field(pytree_node=False)
    sampling: Any = flax.struct.field(pytree_node=False)
    text: Any = flax.struct.field(pytree_node=False)
    longest: int = flax.struct.field(pytree_node=False)
    steps: int = flax.struct.field(pytree_node=False, default=25)
    guidance: float = flax.struct.field(pytree_node=False, default=1.0)

    @property
    def frozen(self) -> dict[str, Any]:
        """The arrays that a run on tokens made on the fly does not change."""
        return {} if self.decoder is None else {"tokenizer": self.decoder.variables}

    @property
    def rate(self) -> int:
        """Samples per second of the audio."""
        return self._decoder().rate

    def sample(
        self,
        text: str | Sequence[str],
        *,
        prompt: Audio | None = None,
        prompt_text: str = "",
        rate: int = 0,
        seconds: float = 0.0,
        rng: Any = 0,
        decoder_steps: int | None = None,
        decoder_guidance: float | None = None,
        **settings: Any,
    ) -> Any:
        """Audio of a text, float32 [L], or a list of them for several texts; each depends on its place alone.

        A prompt is cut to whole tokens, so that its codes and its sound go together; its text and what is to be said
        are joined by a space, as utterances are in training. A generator that does not end by itself speaks as fast as
        the prompt: seconds of the prompt times the ratio of the texts' bytes in UTF-8.

        Args:
          text: what is to be said.
          prompt: one utterance [L] whose voice is followed.
          prompt_text: what it says.
          rate: of the prompt in Hz; 0 means the model's own.
          seconds: how long the speech is to last; 0 goes by the prompt.
          rng: a key, or the seed of one.
          decoder_steps: of the tokenizer's decoder, and ``decoder_guidance``; None for the run's own.
          **settings: fields of ``sampling`` that shall be others, such as ``steps=10``.

        Raises:
          ValueError: in one sentence, for a prompt without its text, no text or too long a one, an unknown length, or
            a setting that this generator does not have.
        """
        decoder, texts = self._decoder(), self._texts(text)
        guidance = self.guidance if decoder_guidance is None else decoder_guidance
        sampler = FlowSampler(self.steps if decoder_steps is None else decoder_steps, guidance)
        if (prompt is None) != (not prompt_text.strip()):
            raise ValueError(
                "prompt_text: given without a prompt" if prompt is None else
                "prompt_text: expected what the prompt says, found nothing"
            )  # fmt: skip
        wave, lasts = np.zeros(0, np.float32), 0.0
        if prompt is not None:
            wave, lasts = decoder.whole(prompt, rate=rate, name="prompt"), len(prompt) / (rate or decoder.rate)
        counts = self._counts(texts, prompt_text, lasts, seconds)
        self._check(self._ids(texts, prompt_text), len(wave) // (decoder.factor * decoder.frontend.hop), counts)
        self._settings(settings)
        before, known = np.zeros(0, np.int32), {}
        if prompt is not None:
            before = np.asarray(decoder.encode(wave).codes[0, :, 0])
            known = dict[str, Any](prompt=wave, prompt_text=self._join(prompt_text, ""))
        codes, said = self.sample_codes(
            texts, prompt=before, prompt_text=prompt_text, counts=counts, rng=rng, **settings
        )
        keys, waves = _keys(rng, len(texts), 1), []
        for row, words in enumerate(texts):
            found = decoder.tokens(codes[row, : int(said[row].sum()), None])
            waves.append(decoder.decode(
                found, rng=keys[row], text=words, steps=sampler.steps, guidance=sampler.guidance, **known
            ))  # fmt: skip
        return waves[0] if isinstance(text, str) else waves

    def sample_codes(
        self,
        texts: Sequence[str],
        *,
        prompt: Any = (),
        prompt_text: str = "",
        counts: Sequence[int] | None = None,
        rng: Any = 0,
        **settings: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes int32 [B, N] of B texts, and which of them exist, bool [B, N].

        Args:
          texts: what is to be said.
          prompt: codes int [P] that come before all of them.
          prompt_text: what these say.
          counts: how many codes each shall have; None for a generator that ends by itself.
          rng: as in ``sample``, and ``settings``.
        """
        sampling, before = self._settings(settings), np.asarray(prompt, np.int32)
        ids = self._ids(self._texts(texts), prompt_text)
        if self.task.timed != (counts is not None):
            raise ValueError(f"counts: expected {'some' if self.task.timed else 'none'} for this generator")
        self._check(ids, len(before), counts)
        told = {"prompt": before[None].repeat(len(ids), 0)}
        told |= dict(zip(("text_ids", "text_mask"), _padded(ids, 2 * _UNIT, self.text.pad_id)))
        told["prompt"], told["prompt_mask"] = _padded(list(told["prompt"]), _UNIT, 0)
        if counts:
            told["mask"] = _padded([np.zeros(count) for count in counts], _UNIT, 0)[1]
        else:
            most = min(sampling.most, self.room)  # and not what the prompt leaves, which would compile for each prompt
            sampling = dataclasses.replace(sampling, most=most, least=min(sampling.least, most))
        keys = jax.random.key_data(_keys(rng, len(ids), 0))
        codes, said = _speak(self.task, sampling, self.params, told, keys)
        left = self.room - len(before)
        return np.asarray(codes)[:, :left], np.asarray(said)[:, :left]

    @property
    def room(self) -> int:
        """Tokens, with the prompt's, that are decoded in one piece."""
        return 1 << 20 if self.decoder is None else self.decoder.window // self.decoder.factor

    def _counts(self, texts: list[str], prompt_text: str, lasts: float, seconds: float) -> list[int] | None:
        """Codes that are wanted of each text."""
        if not self.task.timed:
            if seconds:
                raise ValueError(f"seconds {seconds:g}: this generator ends by itself, expected none")
            return None
        if not 0.0 <= seconds < 3600.0:
            raise ValueError(f"seconds: expected from 0 to an hour, found {seconds:g}")
        if not (seconds or prompt_text):
            raise ValueError("seconds: without a prompt expected how long the speech is to last, found none")
        size = max(len(prompt_text.encode()), 1)
        each = [seconds or lasts * len(text.encode()) / size for text in texts]
        return [max(1, int(one * self._decoder().token_rate)) for one in each]

    def _check(self, ids: list[np.ndarray], before: int, counts: Sequence[int] | None) -> None:
        """ValueError for texts or speech that are too long, with a prompt of ``before`` tokens."""
        if (most := max(map(len, ids))) > self.longest:
            beside = " with the prompt's" if before else ""
            raise ValueError(f"text: has {most} ids{beside}, expected at most {self.longest}")
        if self.room - before < (max(counts) if counts else 1):
            wanted = f"{max(counts)} tokens" if counts else "any"
            raise ValueError(
                f"text: {wanted} beside the prompt's {before} are more than the {self.room} that are decoded in one "
                "piece; shorten the prompt or split the text"
            )

    def _ids(self, texts: list[str], before: str) -> list[np.ndarray]:
        """Of each text behind that of the prompt."""
        return [np.asarray(self.text.encode(self._join(before, text))) for text in texts]

    def _texts(self, text: str | Sequence[str]) -> list[str]:
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
            raise ValueError(f"text: expected what is to be said, found {text!r}")
        return texts

    def _join(self, before: str, text: str) -> str:
        return f"{before.rstrip()} {text}" if before else text

    def _decoder(self) -> SpeechModel:
        if self.decoder is None:
            raise ValueError("this generator was trained on codes of no tokenizer, so that they have no sound")
        return self.decoder

    def _settings(self, settings: Mapping[str, Any]) -> Any:
        known = [field.name for field in dataclasses.fields(self.sampling)]
        for name in settings:
            if name not in known:
                raise ValueError(f"{name}: this generator has no such setting; it has {', '.join(known)}")
        return dataclasses.replace(self.sampling, **settings)


def assemble(config: Mapping[str, Any], params: Any, state: Any = None) -> SpeechGenerator:
    """The generator of a config around given parameters.

    Args:
      config: with ``model``, ``task``, ``sampling``, ``decoding``, ``text`` and ``data``; ``tokenizer`` is the
        directory of the tokenizer's run, "" for codes that have no sound.
      params: of the model.
      state: not used: generators keep none.

    Raises:
      ValueError: when there is no tokenizer of speech at that place, or one with another codebook.
    """
    del state
    task = build(config["task"], model=build(config["model"]))
    if isinstance(task, OnTheFly):
        task = task.generator
    decoder = None
    if place := config["tokenizer"]:
        decoder = load(place)
        if not isinstance(decoder, SpeechModel):
            raise ValueError(f"tokenizer {place!r}: expected a tokenizer of speech, found a {type(decoder).__name__}")
        quantizer = decoder.module.quantizer
        if (quantizer.num_codebooks, quantizer.codebook_size) != (1, task.codes):
            found = f"{quantizer.num_codebooks} of {quantizer.codebook_size} codes"
            raise ValueError(f"tokenizer {place!r}: expected one codebook of {task.codes} codes, found {found}")
        source = config["data"]["source"]
        if source.startswith("tokens:"):
            tokens.check(tokens.describe(source), fingerprint.of_run(place))
    plain = {name: value for name, value in config["data"]["examples"].items() if name != "fingerprint"}
    longest = build(plain).shapes(True)[-1].ids
    return SpeechGenerator(
        params, decoder, task, build(config["sampling"]), build(config["text"]), longest, **config["decoding"]
    )


def _padded(rows: list[np.ndarray], unit: int, fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of numbers as int32 [B, N], N a multiple of ``unit``, and which exist, bool [B, N]."""
    sizes = np.asarray([len(row) for row in rows])
    length = -(-int(sizes.max()) // unit) * unit
    numbers = np.stack([np.pad(row, (0, length - len(row)), constant_values=fill) for row in rows])
    return numbers.astype(np.int32), np.arange(length) < sizes[:, None]


def _keys(rng: Any, count: int, use: int) -> jax.Array:
    """One key for each of ``count`` rows, from a key or a seed, for one use of them."""
    rng = jax.random.key(int(rng)) if isinstance(rng, (int, np.integer)) else rng
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(rng, row), use))(jnp.arange(count))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _speak(task: Any, sampling: Any, params: Any, told: Mapping[str, jax.Array], keys: jax.Array) -> Any:
    return task.speak(params, told, jax.random.wrap_key_data(keys), sampling)
