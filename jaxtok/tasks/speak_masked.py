"""Training a generator that fills in the masked codes of speech from its text, many at a time."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.decode import masked
from jaxtok.diffusion import guidance, noise, times
from jaxtok.tasks import prompts

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class SpeakMaskedSampling:
    """How codes are filled in; the defaults are TaDiCodec's (arXiv 2508.16790).

    Attributes:
      steps: calls of the network; a guided one counts twice.
      guidance: u + guidance (c - u) of the features before the output layer; 1 for none.
      rescale: share of the guided features whose standard deviation is set to the conditional ones', of each utterance
        by itself (the reference takes one over the batch, so that utterances depend on their neighbours).
      temperature: of the first draw, see :func:`jaxtok.decode.masked.annealed`.
      top_share: only this share of the codes, the most probable ones, may come.
      choice: noise on the confidence of the first step.
    """

    steps: int = 25
    guidance: float = 2.5
    rescale: float = 0.75
    temperature: float = 0.9
    top_share: float = 0.02
    choice: float = 1.0

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, found {self.steps}")
        if self.guidance < 0 or not 0.0 <= self.rescale <= 1.0:
            raise ValueError(
                "guidance must not be negative and rescale must lie in [0, 1], found "
                f"{self.guidance} and {self.rescale}"
            )
        self.propose()  # refuses the others

    def propose(self) -> masked.Propose:
        """The draws of a step."""
        return masked.annealed(self.steps, temperature=self.temperature, top_share=self.top_share, noise=self.choice)


@dataclasses.dataclass(frozen=True)
class SpeakMasked:
    """Masked codes are told from the others, the text, and a prompt that is never masked (TaDiCodec's MGM).

    t is uniform per example, and each code behind the prompt is masked with probability max(sin(pi t/2), least), one at
    least. The loss is the mean cross-entropy of the masked codes of the batch, which are real by definition. Coins are
    tossed per example, where the reference tosses one per batch. Guidance wants the network to know speech of no text
    and no prompt, which the released training never shows; here a share of the examples without prompt lacks the text.

    Attributes:
      model: such as :class:`jaxtok.papers.tadicodec_mgm.MaskedSpeech`.
      prompt_rate: probability of a prompt, of min(L/4, 5) to prompt_share * L codes.
      prompt_share: of the longest.
      text_drop: of the examples without a prompt, the share that is without text too.
      least: the smallest probability of being masked.
    """

    model: Any
    prompt_rate: float = 0.8
    prompt_share: float = 0.4
    text_drop: float = 0.5
    least: float = 0.2

    accumulable = False  # the mean over a batch's masked codes
    timed = True  # the caller says how long it speaks

    def __post_init__(self):
        for name in ("prompt_rate", "prompt_share", "text_drop", "least"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], found {getattr(self, name)}")

    @property
    def codes(self) -> int:
        """Of the codebook."""
        return self.model.codes

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters from a batch's shapes; no state, nothing frozen."""
        codes, text = data(batch)
        return self.model.init(rng, codes, jnp.ones(len(codes)), text.pop("text_ids"), **text)["params"], {}, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The loss of the one player, ``main``; ``accuracy`` is the share of masked codes that are most probable."""
        del step, frozen, ema
        codes, text = data(batch)
        keys = jax.vmap(lambda key: jax.random.split(key, 5))(noise.per_example(rng, batch["index"]))
        t = jnp.maximum(times.uniform(keys[:, 0]), 1e-5)
        prompt = prompts.lengths(
            keys[:, 1], keys[:, 2], text["mask"].sum(1), rate=self.prompt_rate, share=self.prompt_share
        )
        told = (prompt > 0) | (times.uniform(keys[:, 3]) >= self.text_drop)
        text["text_mask"] &= told[:, None]
        hidden = self.hide(keys[:, 4], t, prompt, text["mask"])
        nats, right = self._errors(params, codes, hidden, t, text)
        count = hidden.sum()
        loss = (nats * hidden).sum() / count
        return {"main": (loss, {"nats": loss, "accuracy": (right & hidden).sum() / count})}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``nats`` and ``accuracy`` per masked code of each example, with its text and no prompt, at four times."""
        del state, frozen
        codes, text = data(batch)
        keys = noise.per_example(rng, batch["index"])

        def at(t: jax.Array) -> tuple[jax.Array, jax.Array]:
            t = jnp.broadcast_to(t, len(codes))
            hidden = self.hide(keys, t, jnp.zeros(len(codes)), text["mask"])
            nats, right = self._errors(params, codes, hidden, t, text)
            count = hidden.sum(1)
            return (nats * hidden).sum(1) / count, (right & hidden).sum(1) / count

        nats, accuracy = jax.lax.map(at, times.evenly(jnp.arange(4), 4))
        return {"nats": nats.mean(0), "accuracy": accuracy.mean(0)}

    def speak(
        self, params: Any, told: Batch, keys: jax.Array, sampling: SpeakMaskedSampling | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Codes of speech; each row depends on its own key, text, prompt and length alone.

        Args:
          params: of the model.
          told: ``text_ids`` int and ``text_mask`` bool [B, N]; ``prompt`` int and ``prompt_mask`` bool [B, P], codes
            that come before; ``mask`` bool [B, L], True at as many positions, the first ones, as codes are wanted.
          keys: [B].
          sampling: None for the defaults.

        Returns:
          Codes int32 [B, L] and ``mask``.
        """
        sampling = sampling or SpeakMaskedSampling()
        mask, before, count = told["mask"], told["prompt"], told["prompt"].shape[1]
        text_ids, text_mask, prompt_mask = told["text_ids"], told["text_mask"], told["prompt_mask"]
        guided = sampling.guidance != 1.0
        if guided:  # the second half hears neither text nor prompt: its positions begin at the first code wanted
            text_ids = jnp.concatenate([text_ids, text_ids])
            text_mask = jnp.concatenate([text_mask, jnp.zeros_like(text_mask)])
            prompt_mask = jnp.concatenate([prompt_mask, jnp.zeros_like(prompt_mask)])
        known = jnp.concatenate([prompt_mask, jnp.concatenate([mask, mask]) if guided else mask], axis=1)

        def predict(ids: jax.Array, done: jax.Array) -> jax.Array:
            ids = jnp.concatenate([before, ids], axis=1)
            ids = jnp.concatenate([ids, ids]) if guided else ids
            t = jnp.full(len(ids), 1.0 - done)
            found = self._apply(params, ids, t, text_ids, mask=known, text_mask=text_mask, method="features")
            found = found[:, count:].astype(jnp.float32)
            if guided:
                strong, weak = jnp.split(found, 2)
                found = guidance.classifier_free(strong, weak, sampling.guidance)
                found = guidance.rescale(found, strong, sampling.rescale, mask=mask)
            return self._apply(params, found, method="logits")

        start = jnp.where(mask, self.model.mask_id, 0)
        codes = masked.fill(
            predict, start, keys, steps=sampling.steps, mask_id=self.model.mask_id, propose=sampling.propose(),
            left=masked.sine(sampling.steps), known=~mask,
        )  # fmt: skip
        return codes, mask

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``decode``: the codes of a batch's texts, for ahead-of-time compilation."""

        def decode(params, batch, key):
            codes, text = data(batch)
            told = text | {"prompt": codes, "prompt_mask": text["mask"]}
            return self.speak(params, told, noise.per_example(key, batch["index"]))[0]

        return {"decode": (decode, (params, batch, jax.eval_shape(lambda: jax.random.key(0))))}

    def hide(self, keys: jax.Array, t: jax.Array, prompt: jax.Array, mask: jax.Array) -> jax.Array:
        """Bool [B, L]: what is masked at times t [B] of the positions ``mask`` behind ``prompt`` [B]; at least one."""
        place = jnp.arange(mask.shape[1])
        share = jnp.maximum(jnp.sin(math.pi / 2 * t), self.least)[:, None]
        free = mask & (place >= prompt[:, None])
        hidden = free & (noise.uniforms(keys, mask.shape[1]) < share)
        return jnp.where(hidden.any(1, keepdims=True), hidden, place == prompt[:, None])

    def _errors(
        self, params: Any, codes: jax.Array, hidden: jax.Array, t: jax.Array, text: Mapping[str, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        """-log p of every code [B, L], and whether it is the most probable one, with some hidden."""
        ids = jnp.where(hidden, self.model.mask_id, codes)
        logits = self._apply(params, ids, t, text["text_ids"], mask=text["mask"], text_mask=text["text_mask"])
        nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)[..., 0]
        return nats, logits.argmax(-1) == codes

    def _apply(self, params: Any, *args: Any, **kwargs: Any) -> Any:
        return self.model.apply({"params": params}, *args, **kwargs)


def data(batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Codes int [B, L], and their ``mask`` [B, L] with ``text_ids`` and ``text_mask`` [B, N].

    Raises:
      ValueError: for several codes per position, or no text.
    """
    if "text_ids" not in batch:
        raise ValueError(f"text_ids: a generator of speech needs text, found a batch of {', '.join(sorted(batch))}")
    codes = batch["codes"]
    if codes.ndim != 3 or codes.shape[2] != 1:
        raise ValueError(f"codes: expected [batch, length, 1], one code per position, found shape {codes.shape}")
    text = {name: batch[name] for name in ("text_ids", "text_mask")}
    return codes[..., 0], {"mask": batch["codes_mask"], **text}
