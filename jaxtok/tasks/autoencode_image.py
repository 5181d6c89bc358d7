"""Training an image tokenizer with a feed-forward decoder by the error of its pixels (and the quantizer's loss)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.metrics import image as metrics
from jaxtok.tasks import codebooks
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer

Batch = Mapping[str, jax.Array]
PIXEL = ("l1", "l2")


@dataclasses.dataclass(frozen=True)
class ImageAutoencode:
    """Images through encoder, quantizer and decoder; any quantizer, also one whose codebook moves by itself.

    loss = weight * mean |y - x| (l1) or mean (y - x)^2 (l2) over all pixels and channels of the global batch, in
    [-1, 1], + the quantizer's loss. The task's state holds the collection "codebook" of the model, where it has one,
    and decayed hit counts of every code, from which a collapsing codebook is told.

    Attributes:
      model: the tokenizer.
      pixel: "l1" or "l2".
      weight: of the pixels' term.
      decay: of the hit counts per (micro-)batch; they remember about 1 / (1 - decay) steps.
      floor: a warning is given when fewer codes are in use than this share of what uniform codes would show ...
      patience: ... later than so many steps.
    """

    model: FeedForwardTokenizer
    pixel: str = "l2"
    weight: float = 1.0
    decay: float = 0.99
    floor: float = 0.25
    patience: int = 200

    def __post_init__(self):
        if self.pixel not in PIXEL:
            raise ValueError(f"ImageAutoencode: pixel must be one of {PIXEL}, found {self.pixel!r}")
        if not 0.0 < self.decay < 1.0:
            raise ValueError(f"ImageAutoencode: decay must lie between 0 and 1, found {self.decay}")

    def _apply(self, params: Any, state: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        moving = {name: state[name] for name in state if name == "codebook"}
        return self.model.apply({"params": params} | moving, *args, **kwargs)

    @property
    def accumulable(self) -> bool:
        """Whether the quantizer's loss is a mean over examples, so that micro-batches add up; it must say so."""
        return getattr(self.model.quantizer, "accumulable", False)

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters and state from a batch's shapes; nothing frozen."""
        variables = self.model.init(rng, batch["image"])
        return variables["params"], codebooks.start(variables, self.model.quantizer), {}

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
        """The loss of the one player, ``main``, and the state after the step."""
        del step, frozen, ema
        x, rng = batch["image"], jax.random.fold_in(rng, batch["index"][0])  # micro-batches draw differently
        tokens, moved = self._apply(params, state, x, rng=rng, train=True, method="encode", mutable=["codebook"])
        state = dict(state) | dict(moved)
        y = self._apply(params, state, tokens.latents, method="decode")
        pixel = (jnp.abs(y - x) if self.pixel == "l1" else jnp.square(y - x)).mean()
        state, watched = codebooks.count(state, tokens.codes, decay=self.decay)
        # A quantizer's own numbers are of one batch, those of the counts of many.
        numbers = {"pixel": pixel, "quantizer": tokens.loss, **tokens.metrics, **watched}
        return {"main": (self.weight * pixel + tokens.loss, numbers)}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``mse``, ``l1`` (on the scale of [-1, 1]) and ``psnr`` (dB) of each reconstruction."""
        del rng, frozen
        y, _ = self.reconstruct(params, state, batch["image"])
        pair = batch["image"], y
        return {"mse": metrics.squared_error(*pair), "l1": metrics.absolute_error(*pair), "psnr": metrics.psnr(*pair)}

    def reconstruct(self, params: Any, state: Any, image: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Reconstructions [B, H, W, C] of images and their codes [B, h, w, Q], without training."""
        tokens = self._apply(params, state, image, method="encode")
        return self._apply(params, state, tokens.latents, method="decode"), tokens.codes

    def warnings(self, step: int, metrics: Mapping[str, float]) -> dict[str, str]:
        """What the person who watches training should know, one sentence per codebook in trouble.

        Args:
          step: steps done.
          metrics: the step's, as they are logged.
        """
        return codebooks.warnings(
            self.model.quantizer, step, metrics, player="main", floor=self.floor, patience=self.patience
        )

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``encode`` to codes (or latents) and ``decode`` of a batch, for ahead-of-time compilation."""
        state = jax.eval_shape(lambda b: self.init(jax.random.key(0), b)[1], dict(batch))

        coded = self.model.quantizer.num_codebooks > 0

        def encode(params, state, image):
            tokens = self._apply(params, state, image, method="encode")
            return tokens.codes if coded else tokens.latents

        def decode(params, state, tokens):
            if coded:
                tokens = self._apply(params, state, tokens, method=lambda m, codes: m.quantizer.decode(codes))
            return self._apply(params, state, tokens, method="decode")

        codes = jax.eval_shape(encode, params, state, batch["image"])
        return {
            "encode": (encode, (params, state, batch["image"])),
            "decode": (decode, (params, state, codes)),
        }
