"""Trained image tokenizers as users meet them: images in, tokens out, images back.

tokens = model.encode(images)  # tokens.codes int32 [B, h, w, Q]
again = model.decode(tokens)  # uint8 [B, H, W, 3]
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.build import build
from jaxtok.data import picture

_IMAGES = 32  # encoded or decoded at once: bounds the memory


@flax.struct.dataclass
class ImageTokens:
    """What ``encode`` gives: one row per image.

    Attributes:
      codes: int32 [B, h, w, Q], or None for continuous tokens.
      latents: float32 [B, h, w, D], what the decoder gets.
      single: True when one image was encoded rather than a batch.
    """

    codes: jax.Array | None
    latents: jax.Array
    single: bool = flax.struct.field(pytree_node=False, default=False)


@flax.struct.dataclass
class ImageModel:
    """An image tokenizer; a pytree whose leaves are its parameters and moving state.

    Attributes:
      variables: what ``module.apply`` takes: ``params``, and ``codebook`` where the quantizer has one that moves.
      module: the tokenizer, images [B, H, W, C] in [-1, 1] to the same.
    """

    variables: Any
    module: nn.Module = flax.struct.field(pytree_node=False)

    @property
    def factor(self) -> int:
        """Pixels per token, in height and in width."""
        return self.module.encoder.factor

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.module.encoder.image_channels

    def bits(self, height: int, width: int) -> float:
        """Bits that the codes of an image of this size hold; 0 where there are no codes."""
        quantizer = self.module.quantizer
        if not quantizer.num_codebooks:
            return 0.0
        tokens = (height // self.factor) * (width // self.factor)
        return tokens * quantizer.num_codebooks * float(np.log2(quantizer.codebook_size))

    def encode(self, images: Any) -> ImageTokens:
        """Tokens of images.

        Args:
          images: [B, H, W, C], or one [H, W, C]; uint8 from 0 to 255, or floats in [-1, 1]. Height and width in
            multiples of ``factor``.

        Raises:
          ValueError: for another shape or type, or values outside the range.
        """
        x, single = pixels(images, unit=self.factor, channels=self.channels)
        found = by_parts(functools.partial(_encode, self.module, self.variables), x)
        codes, latents = found if isinstance(found, tuple) else (None, found)
        return ImageTokens(codes, latents, single)

    def tokenize(self, variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """A training batch with ``codes`` or ``latents`` in place of ``image``, as ``encode`` makes them; traceable."""
        with jax.default_matmul_precision("highest"):  # as in _encode
            found: Any = self.module.apply(variables, batch["image"], method="encode")
        rest = {name: value for name, value in batch.items() if name != "image"}
        if found.codes is not None:
            return rest | {"codes": found.codes}
        return rest | {"latents": jax.lax.stop_gradient(found.latents)}

    def tokens(self, codes: Any) -> ImageTokens:
        """Tokens from stored codes int [B, h, w, Q], or [h, w, Q] of one image.

        Raises:
          ValueError: for another shape, or codes that the codebook does not have.
        """
        quantizer = self.module.quantizer
        if not quantizer.num_codebooks:
            raise ValueError("codes: this model's tokens are continuous, expected a model with codes")
        array = np.asarray(codes)
        single = array.ndim == 3
        array = array[None] if single else array
        if array.ndim != 4 or not array.size or array.shape[-1] != quantizer.num_codebooks:
            raise ValueError(f"codes: expected [images, h, w, {quantizer.num_codebooks}], found shape {array.shape}")
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"codes: expected integers, found {array.dtype}")
        if int(array.min()) < 0 or int(array.max()) >= quantizer.codebook_size:
            raise ValueError(
                f"codes: expected values from 0 to {quantizer.codebook_size - 1}, found {array.min()} to {array.max()}"
            )
        array = jnp.asarray(array.astype(np.int32))
        return ImageTokens(array, _dequantize(self.module, self.variables, array), single)

    def latents(self, latents: Any) -> ImageTokens:
        """Tokens from latents float [B, h, w, D], such as a generator makes; they are not quantized.

        Raises:
          ValueError: for another rank.
        """
        array = jnp.asarray(latents, jnp.float32)
        if array.ndim != 4:
            raise ValueError(f"latents: expected [images, h, w, width], found shape {array.shape}")
        return ImageTokens(None, array)

    def decode(self, tokens: ImageTokens) -> np.ndarray:
        """Images uint8 [B, H, W, C] of tokens, or [H, W, C] where one image was encoded."""
        images = picture.to_uint8(self.decode_pixels(tokens))
        return images[0] if tokens.single else images

    def decode_pixels(self, tokens: ImageTokens) -> jax.Array:
        """As ``decode``, up to the rounding: float32 [B, H, W, C], about [-1, 1]."""
        return by_parts(functools.partial(_decode, self.module, self.variables), tokens.latents)


def pixels(images: Any, *, unit: int, channels: int) -> tuple[np.ndarray, bool]:
    """float32 [B, H, W, C] in [-1, 1] of what users give as images, and whether it was one image.

    Args:
      images: [B, H, W, C], or one [H, W, C]; uint8 from 0 to 255, or floats in [-1, 1].
      unit: height and width are multiples of it.
      channels: C.

    Raises:
      ValueError: for another shape or type, or values outside the range.
    """
    array = np.asarray(images)
    single = array.ndim == 3
    array = array[None] if single else array
    if array.ndim != 4 or not array.size or array.shape[-1] != channels:
        raise ValueError(f"images: expected [images, height, width, {channels}], found shape {np.shape(images)}")
    if array.shape[1] % unit or array.shape[2] % unit:
        raise ValueError(f"images: height and width must be multiples of {unit}, found shape {np.shape(images)}")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 127.5 - 1.0, single
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"images: expected uint8, or floats in [-1, 1], found {array.dtype}")
    array = array.astype(np.float32)
    if not np.abs(array).max() <= 1.0:  # NaN too
        raise ValueError(f"images: expected floats in [-1, 1], found {array.min()} to {array.max()}")
    return array, single


def assemble(config: Any, params: Any, state: Any = None) -> ImageModel:
    """The model of a config around given parameters (trained, converted, or random).

    Args:
      config: with ``model``.
      params: of the model.
      state: of the task, where the quantizer's codebook moves; else ``{}`` will do.

    Raises:
      ValueError: when the model has a moving codebook and ``state`` none.
    """
    module = build(config["model"])
    state = state or {}
    unit, channels = module.encoder.factor, module.encoder.image_channels
    blank = jax.ShapeDtypeStruct((1, unit, unit, channels), jnp.float32)
    kept = jax.eval_shape(module.init, jax.random.key(0), blank)
    if "codebook" in kept and "codebook" not in state:
        raise ValueError(f"state: the model keeps a codebook in the run's state, found {', '.join(state) or 'none'}")
    return ImageModel({"params": params} | {name: state[name] for name in kept if name == "codebook"}, module)


def by_parts(run: Any, x: Any) -> Any:
    """The results of ``run`` over at most 32 rows at a time, joined; few batch sizes, so few compilations.

    Args:
      run: of a tree like x; each row of its results depends on that row alone.
      x: an array or a tree of arrays [B, ...].
    """
    count, parts = len(jax.tree.leaves(x)[0]), []
    for first in range(0, count, _IMAGES):
        size = min(_IMAGES, count - first)
        rows = 1 << (size - 1).bit_length()
        padded = jax.tree.map(functools.partial(_rows, first, size, rows), x)
        parts.append(jax.tree.map(functools.partial(_head, size), run(padded)))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _rows(first: int, size: int, rows: int, leaf: Any) -> jax.Array:
    """``size`` rows of a leaf from ``first`` on, filled up to ``rows`` with zeros."""
    part = jnp.asarray(leaf[first : first + size])
    return jnp.pad(part, ((0, rows - size),) + ((0, 0),) * (part.ndim - 1))


def _head(rows: int, leaf: jax.Array) -> jax.Array:
    return leaf[:rows]


@functools.partial(jax.jit, static_argnums=0)
def _encode(module: Any, variables: Any, x: jax.Array) -> Any:
    with jax.default_matmul_precision("highest"):  # on TPUs float32 products are else rounded to bfloat16
        tokens = module.apply(variables, x, method="encode")
    return tokens.latents if tokens.codes is None else (tokens.codes, tokens.latents)


@functools.partial(jax.jit, static_argnums=0)
def _decode(module: Any, variables: Any, latents: jax.Array) -> jax.Array:
    return module.apply(variables, latents, method="decode")


@functools.partial(jax.jit, static_argnums=0)
def _dequantize(module: Any, variables: Any, codes: jax.Array) -> jax.Array:
    with jax.default_matmul_precision("highest"):  # as in _encode
        return module.apply(variables, codes, method=lambda m, codes: m.quantizer.decode(codes))
