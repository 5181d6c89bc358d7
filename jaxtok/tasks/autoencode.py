"""Training a tokenizer with a diffusion decoder by one flow-matching loss (and the quantizer's)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.diffusion import noise, paths, times
from jaxtok.signal.mel import MelFrontEnd
from jaxtok.tasks import prompts
from jaxtok.tokenizers.diffusion import DiffusionTokenizer, FlowSampler

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class SpeechFlow:
    """Mel frames through encoder, quantizer and flow-matching decoder (TaDiCodec's training, arXiv 2508.16790).

    loss = L1(velocity) + quantizer loss, where L1 averages |v - (dx_t/dt)| over bands and over all frames of the global
    batch that are neither prompt nor padding. Coins are tossed per sample (the reference tosses one per batch), and a
    prompt's length is drawn from the sample's own length (the reference's: from the padded one).

    Attributes:
      model: the tokenizer.
      frontend: from audio to mel; unused when a batch carries ``mel``.
      prompt_rate: probability that a sample shows a clean prefix, of min(T/4, 5) to prompt_share * T frames.
      code_drop: probability that a sample's tokens are hidden from the decoder, for guidance.
      text_drop: probability that a sample's text is hidden.
      shift: of the drawn times, see :func:`jaxtok.diffusion.times.shift`; above 1 more of them near noise, where the
        decoder depends on the tokens.
      path: the interpolation; TaDiCodec leaves 1e-5 of noise at the data end.
    """

    model: DiffusionTokenizer
    frontend: MelFrontEnd = MelFrontEnd()
    prompt_rate: float = 0.8
    prompt_share: float = 0.4
    code_drop: float = 0.2
    text_drop: float = 0.0
    shift: float = 1.0
    path: paths.Linear = paths.Linear(floor=1e-5)

    accumulable = False  # the quantizer's entropy is of the whole batch

    def frames(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Normalised mel [B, T, F] and its mask [B, T]; padded frames are zero."""
        if "mel" in batch:
            x = batch["mel"]
            mask = batch["mel_mask"] if "mel_mask" in batch else jnp.ones(x.shape[:2], bool)
        else:
            lengths = batch["audio_mask"].sum(1)
            x = self.frontend(batch["audio"], lengths=lengths)
            mask = jnp.arange(x.shape[1]) < (lengths // self.frontend.hop)[:, None]
        return jnp.where(mask[..., None], x, 0.0), mask

    def _apply(self, params: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self.model.apply({"params": params}, *args, method=method, **kwargs)

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters from a batch's shapes; no state, nothing frozen."""
        x, mask = self.frames(batch)
        params = self.model.init(rng, x, jnp.ones(len(x)), mask=mask, cond=_text(batch))["params"]
        return params, {}, {}

    def losses(
        self,
        params: Any,
        state: Any,
        batch: Batch,
        rng: jax.Array,
        step: jax.Array,
        *,
        frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:
        """The loss of the one player, ``main``."""
        del step, frozen, ema
        x, mask = self.frames(batch)
        draws = _Draws.of(noise.per_example(rng, batch["index"]), mask, x.shape[-1], self)
        t = jnp.clip(draws.t, max=1.0 - 1e-5)
        x_t, target = paths.interpolate(self.path, x, draws.noise, t)
        cond = _text(batch, keep=draws.text_keep)
        cond |= {"prompt": x, "prompt_mask": draws.prompt, "latents_keep": draws.code_keep}
        tokens = self._apply(params, "encode", x, mask=mask, train=True)
        v = self._apply(params, "denoise", x_t, t, tokens.latents, mask=mask, cond=cond)
        counted = (mask & ~draws.prompt).astype(jnp.float32)
        flow = (jnp.abs(v - target).mean(-1) * counted).sum() / jnp.maximum(counted.sum(), 1.0)
        loss = flow + tokens.loss
        return {"main": (loss, {"flow": flow, "quantizer": tokens.loss, **tokens.metrics})}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``flow``: the L1 of the velocity per example at 4 fixed times, without prompt and dropout."""
        del state, frozen
        x, mask = self.frames(batch)
        tokens = self._apply(params, "encode", x, mask=mask)
        keys = noise.per_example(rng, batch["index"])
        start = noise.sequence(keys, x.shape[1], x.shape[2])
        counted = mask.astype(jnp.float32)

        def at(t: jax.Array) -> jax.Array:
            t = jnp.broadcast_to(t, len(x))
            x_t, target = paths.interpolate(self.path, x, start, t)
            v = self._apply(params, "denoise", x_t, t, tokens.latents, mask=mask, cond=_text(batch))
            return (jnp.abs(v - target).mean(-1) * counted).sum(1) / jnp.maximum(counted.sum(1), 1.0)

        return {"flow": jax.lax.map(at, times.evenly(jnp.arange(4), 4)).mean(0)}

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``encode`` and ``decode`` (32 steps, guidance 2) of a batch, for ahead-of-time compilation."""

        def encode(params, batch):
            x, mask = self.frames(batch)
            return self._apply(params, "encode", x, mask=mask).codes

        def decode(params, codes, batch, key):
            _, mask = self.frames(batch)
            latents = self.model.apply({"params": params}, codes, method=lambda m, c: m.quantizer.decode(c))
            keys = noise.per_example(key, batch["index"])
            return self.model.apply(
                {"params": params}, latents, mask=mask, cond=_text(batch), rng=keys, sampler=FlowSampler(),
                method="decode",
            )  # fmt: skip

        codes = jax.eval_shape(encode, params, batch)
        key = jax.eval_shape(lambda: jax.random.key(0))
        return {"encode": (encode, (params, batch)), "decode": (decode, (params, codes, batch, key))}


@dataclasses.dataclass(frozen=True)
class _Draws:
    """One training draw per example."""

    t: jax.Array  # [B], 0 = data
    noise: jax.Array  # [B, T, F]
    prompt: jax.Array  # bool [B, T]
    code_keep: jax.Array  # bool [B]
    text_keep: jax.Array  # bool [B]

    @classmethod
    def of(cls, keys: jax.Array, mask: jax.Array, bands: int, task: SpeechFlow) -> "_Draws":
        """All draws from the examples' keys, so that none depends on the batch or its padding."""
        parts = jax.vmap(lambda key: jax.random.split(key, 6))(keys)
        length = prompts.lengths(parts[:, 3], parts[:, 2], mask.sum(1), rate=task.prompt_rate, share=task.prompt_share)
        return cls(
            t=jnp.asarray(times.shift(times.uniform(parts[:, 0]), task.shift)),
            noise=noise.sequence(parts[:, 1], mask.shape[1], bands),
            prompt=jnp.arange(mask.shape[1]) < length[:, None],
            code_keep=times.uniform(parts[:, 4]) >= task.code_drop,
            text_keep=times.uniform(parts[:, 5]) >= task.text_drop,
        )


def _text(batch: Batch, keep: jax.Array | None = None) -> dict[str, jax.Array]:
    """The batch's text as the decoder's condition; ``keep`` bool [B] hides it from some."""
    if "text_ids" not in batch:
        return {}
    mask = batch["text_mask"] if keep is None else batch["text_mask"] & keep[:, None]
    return {"text_ids": batch["text_ids"], "text_mask": mask}
