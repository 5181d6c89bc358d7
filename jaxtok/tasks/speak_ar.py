"""Training a language model that says the codes of speech one after another, behind the text."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.decode import autoregressive
from jaxtok.decode import sampling as draws
from jaxtok.diffusion import noise
from jaxtok.nn import cache as cache_lib
from jaxtok.tasks.speak_masked import data

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class SpeakARSampling:
    """How codes are drawn; the defaults are TaDiCodec's (arXiv 2508.16790).

    Attributes:
      temperature: of the logits; 0 takes the most probable code.
      top_k: only the most probable codes; 0 for all.
      top_p: only the most probable codes that hold this share of the probability; 1 for all.
      least: codes that are said at least.
      most: codes that are said at most.
    """

    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 0.98
    least: int = 12
    most: int = 400

    def __post_init__(self):
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "expected temperature >= 0, top_k >= 0 and top_p in (0, 1], found "
                f"{self.temperature}, {self.top_k} and {self.top_p}"
            )
        if not 1 <= self.least <= self.most:
            raise ValueError(f"expected 1 <= least <= most codes, found {self.least} and {self.most}")


@dataclasses.dataclass(frozen=True)
class SpeakAR:
    """Next-token cross-entropy of the codes and of the end behind them, given the text: the mean over the batch's.

    One vocabulary: the text's ids, then the start of speech, the codes, and the end. A sequence is text, start, codes,
    end; padding between text and start takes no position and is not looked at, so nothing depends on it. A prompt
    needs no training of its own: its text and its codes are the beginning of the sequence.

    Attributes:
      model: such as :class:`jaxtok.nn.llama.LlamaLM`, causal, of ``vocabulary`` ids.
      codes: of the codebook.
    """

    model: Any
    codes: int

    accumulable = False  # the mean over a batch's codes
    timed = False  # it ends by itself

    def __post_init__(self):
        if self.text_vocabulary < 1 or not self.model.causal:
            raise ValueError(
                f"model: expected a causal one of more than {self.codes + 2} ids ({self.codes} codes, start and end), "
                f"found {self.model.vocabulary}"
            )

    @property
    def text_vocabulary(self) -> int:
        """Ids of the text; the start of speech is the next one."""
        return self.model.vocabulary - self.codes - 2

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters from a batch's shapes; no state, nothing frozen."""
        codes, _ = data(batch)
        return self.model.init(rng, codes)["params"], {}, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The loss of the one player, ``main``; ``accuracy`` is the share of codes that are most probable."""
        del rng, step, frozen, ema
        nats, right, counted = self._errors(params, batch)
        loss = (nats * counted).sum() / counted.sum()
        return {"main": (loss, {"nats": loss, "accuracy": (right & counted).sum() / counted.sum()})}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``nats`` and ``accuracy`` per code of each example, the end left out, with the codes before it."""
        del state, rng, frozen
        nats, right, _ = self._errors(params, batch)
        counted = jnp.pad(batch["codes_mask"], ((0, 0), (0, 1)))
        count = counted.sum(1)
        return {"nats": (nats * counted).sum(1) / count, "accuracy": (right & counted).sum(1) / count}

    def speak(
        self, params: Any, told: Batch, keys: jax.Array, sampling: SpeakARSampling | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Codes of speech up to its end; each row depends on its own key, text and prompt alone.

        Draws are among the codes and the end, none among the ids of text.

        Args:
          params: of the model.
          told: ``text_ids`` int and ``text_mask`` bool [B, N]; ``prompt`` int and ``prompt_mask`` bool [B, P], codes
            that come before.
          keys: [B].
          sampling: None for the defaults.

        Returns:
          Codes int32 [B, most], and bool [B, most], True before the end.
        """
        sampling = sampling or SpeakARSampling()
        ids, real = self._sequence(told["prompt"], told["prompt_mask"], told["text_ids"], told["text_mask"])
        order = jnp.argsort(real, axis=1, stable=True)  # padding goes to the front: the last slot is real in all rows
        ids, real = (jnp.take_along_axis(x, order, axis=1) for x in (ids, real))
        batch, begin = ids.shape
        slots = begin + sampling.most - 1
        seen = jnp.pad(real, ((0, 0), (0, slots - begin)), constant_values=True)[:, None, None]
        cache = self.model.cache(batch, slots)
        mask = cache_lib.causal_mask(cache, begin) & seen
        logits, cache = self._apply(params, ids, positions=_positions(real), mask=mask, cache=cache, last=1)
        count = real.sum(1)

        def audio(logits: jax.Array, place: jax.Array | int) -> jax.Array:
            """Of codes and end, the latter not before its time."""
            logits = logits[:, -1, self.text_vocabulary + 1 :]
            return logits.at[:, self.codes].add(jnp.where(place < sampling.least, -jnp.inf, 0.0))

        def step(code: jax.Array, place: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            ids, positions = (code + self.text_vocabulary + 1)[:, None], (count + place)[:, None]
            mask = cache_lib.causal_mask(cache, 1) & seen
            logits, cache = self._apply(params, ids, positions=positions, mask=mask, cache=cache)
            return audio(logits, place + 1), cache

        choose = functools.partial(
            draws.choose, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p
        )
        codes, _ = autoregressive.generate(
            step, cache, audio(logits, 0), keys, length=sampling.most, choose=choose, stop=self.codes
        )
        said = codes < self.codes
        return jnp.where(said, codes, 0), said

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``decode``: the codes of a batch's texts, for ahead-of-time compilation."""

        def decode(params, batch, key):
            codes, told = data(batch)
            told |= {"prompt": codes, "prompt_mask": told["mask"]}
            return self.speak(params, told, noise.per_example(key, batch["index"]))[0]

        return {"decode": (decode, (params, batch, jax.eval_shape(lambda: jax.random.key(0))))}

    def _sequence(
        self, codes: jax.Array, mask: jax.Array, text_ids: jax.Array, text_mask: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Text, start and codes as ids [B, N + 1 + L], and which of them exist."""
        start = jnp.full((len(codes), 1), self.text_vocabulary, jnp.int32)
        ids = jnp.concatenate([text_ids, start, codes + self.text_vocabulary + 1], axis=1)
        return ids, jnp.concatenate([text_mask, jnp.ones_like(start, bool), mask], axis=1)

    def _errors(self, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """-log p of every code and of the end [B, L + 1], whether it is the most probable id, and which exist."""
        codes, told = data(batch)
        ids, real = self._sequence(codes, told["mask"], told["text_ids"], told["text_mask"])
        length = codes.shape[1] + 1
        logits = self._apply(params, ids, positions=_positions(real), mask=real[:, None, None], last=length)
        count = told["mask"].sum(1, keepdims=True)
        place = jnp.arange(length)
        targets = jnp.where(place == count, self.codes, jnp.pad(codes, ((0, 0), (0, 1)))) + self.text_vocabulary + 1
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        return nats, logits.argmax(-1) == targets, place <= count

    def _apply(self, params: Any, ids: jax.Array, **kwargs: Any) -> Any:
        return self.model.apply({"params": params}, ids, **kwargs)


def _positions(real: jax.Array) -> jax.Array:
    """Of ids that exist, bool [B, T], one after another."""
    return jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
