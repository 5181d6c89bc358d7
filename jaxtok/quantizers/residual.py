"""Quantizers made of quantizers: residual (SoundStream, arXiv 2107.03312) and grouped ones."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers import codes as codes_lib
from jaxtok.quantizers import estimators
from jaxtok.quantizers.l2_vq import Projected
from jaxtok.quantizers.quantized import Quantized, distortion, vectors

DROPOUT = ("", "batch", "sample")
GRADIENTS = ("outer", "layers")


class ResidualVQ(nn.Module):
    """q = sum_i q_i with q_i = Q_i(r_i), r_0 = z, r_{i+1} = r_i - q_i; loss is the sum of the layers'.

    gradient = "outer" (default): residuals and code vectors are constants, and one estimator carries the output's
    gradient to z unscaled; each layer's commitment pulls its own r_i, and through it z. "layers" (DAC, Amphion): each
    layer carries its own gradient, r_{i+1} = r_i - (straight-through q_i); needed where layers have projections.
    (Detached residuals with an estimator in every layer, as elsewhere, would multiply z's gradient by the number of
    layers.)

    Quantizer dropout in training, "batch": the first n layers are active, n uniform in [at_least, Q] and rounded up to
    a ``multiple`` (EnCodec); "sample": as DAC, the first ``share`` of the batch (rounded up) draws n in [at_least, Q]
    for each sample, the others use all. Dropped codes are -1, and a sample's loss counts its active layers only.

    >>> import jax, jaxtok.quantizers as jq
    >>> q = jq.ResidualVQ(layers=tuple(jq.VQ(size=64, width=8) for _ in range(4)))
    >>> y, _ = q.init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 8)))
    >>> y.codes.shape
    (2, 5, 4)

    Attributes:
      layers: quantizers with one code each, all of one ``codebook_size``.
      gradient: "outer" or "layers".
      estimator: of "outer"; with DiVeQ the residuals are not detached.
      dropout: "", "batch" or "sample".
      at_least: the least number of active layers.
      multiple: n is rounded up to a multiple of it.
      share: of the samples that "sample" drops layers of.
    """

    layers: Sequence[Any]
    gradient: str = "outer"
    estimator: estimators.Estimator = estimators.straight_through
    dropout: str = ""
    at_least: int = 1
    multiple: int = 1
    share: float = 0.5

    def __post_init__(self):
        if not self.layers or any(layer.num_codebooks != 1 for layer in self.layers):
            found = [layer.num_codebooks for layer in self.layers]
            raise ValueError(f"ResidualVQ: expected at least one layer, each with one code, found {found}")
        _check_sizes("ResidualVQ", self.layers)
        if self.gradient == "outer" and any(isinstance(layer, Projected) for layer in self.layers):
            raise ValueError("ResidualVQ: layers with projections need gradient='layers', found 'outer'")
        if not 0 < self.share <= 1:
            raise ValueError(f"ResidualVQ: share must lie in (0, 1], found {self.share}")
        if self.dropout not in DROPOUT or self.gradient not in GRADIENTS:
            raise ValueError(
                f"ResidualVQ: dropout must be one of {DROPOUT} and gradient one of {GRADIENTS}, "
                f"found {self.dropout!r} and {self.gradient!r}"
            )
        if not 1 <= self.at_least <= len(self.layers) or self.multiple < 1:
            raise ValueError(
                f"ResidualVQ: expected at_least in [1, {len(self.layers)}] and multiple >= 1, "
                f"found {self.at_least} and {self.multiple}"
            )
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        """Of one layer."""
        return self.layers[0].codebook_size

    @property
    def num_codebooks(self) -> int:
        """Layers."""
        return sum(layer.num_codebooks for layer in self.layers)

    @property
    def accumulable(self) -> bool:
        """Whether all layers' losses are."""
        return all(layer.accumulable for layer in self.layers)

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [B, ..., D]; codes are int32 [B, ..., Q]. Dropout needs ``rng`` in training."""
        z = vectors(z, z.shape[-1], "ResidualVQ")
        count = len(self.layers) + 2
        keys = [None] * count if rng is None else list(jax.random.split(rng, count))
        active = self._active(len(z), keys[-2]) if train and self.dropout else None
        residual, total, loss, codes, metrics = z, jnp.zeros_like(z), jnp.zeros(()), [], {}
        for i, layer in enumerate(self.layers):
            on = None if active is None else (i < active).reshape(-1, *[1] * (z.ndim - 2))  # [B, 1...]
            y = layer(residual, mask=_both(mask, on, z.shape[:-1]), rng=keys[i], train=train)
            q = self._value(layer, y)
            q = q if on is None else jnp.where(on[..., None], q, 0.0)
            residual = residual - q
            total = total + q
            loss = loss + (y.loss if on is None else y.loss * _share(on, mask, z.shape[:-1]))
            codes.append(y.codes if on is None else jnp.where(on[..., None], y.codes, -1))
            metrics |= {f"{name}_{i}": value for name, value in y.metrics.items() if name in ("perplexity", "error")}
        if self.gradient == "outer":
            total = self.estimator(z, total, keys[-1] if train else None)
        metrics |= distortion(z, total, mask)
        return Quantized(total, jnp.concatenate(codes, -1), loss, metrics)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., D], of all layers."""
        residual, codes = vectors(z, z.shape[-1], "ResidualVQ"), []
        for layer in self.layers:
            codes.append(layer.encode(residual))
            residual = residual - layer.decode(codes[-1])
        return jnp.concatenate(codes, -1)

    def decode(self, codes: jax.Array) -> jax.Array:
        """The sum of the code vectors, float32 [..., D], of codes int32 [..., q] of the first q <= Q layers.

        A code of -1 stands for a dropped layer and adds nothing.
        """
        if not 1 <= codes.shape[-1] <= len(self.layers):
            raise ValueError(f"ResidualVQ: expected 1 to {len(self.layers)} codebooks, found shape {codes.shape}")
        codes_lib.check(codes, self.codebook_size, codes.shape[-1], "ResidualVQ", least=-1)
        total = jnp.zeros(())
        for layer, code in zip(self.layers, jnp.split(codes, codes.shape[-1], axis=-1)):
            total = total + jnp.where(code >= 0, layer.decode(jnp.maximum(code, 0)), 0.0)
        return total

    def _value(self, layer: Any, y: Quantized) -> jax.Array:
        """What a layer adds, with the gradient that ``gradient`` asks for."""
        if self.gradient == "layers":
            return y.latents
        if getattr(self.estimator, "func", self.estimator) is estimators.diveq:
            return layer.decode(y.codes)
        return jax.lax.stop_gradient(y.latents)

    def _active(self, batch: int, rng: jax.Array | None) -> jax.Array:
        """Active layers of each sample, int32 [B]."""
        if rng is None:
            raise ValueError("ResidualVQ: training with dropout needs rng (a jax.random.key), found None")
        count = len(self.layers)
        shape = (batch,) if self.dropout == "sample" else ()
        drawn = jax.random.randint(rng, shape, self.at_least, count + 1)
        drawn = jnp.minimum(-(-drawn // self.multiple) * self.multiple, count)
        if self.dropout == "sample":
            drawn = jnp.where(np.arange(batch) < np.ceil(self.share * batch), drawn, count)
        return jnp.broadcast_to(drawn, (batch,))


def _check_sizes(name: str, parts: Sequence[Any]) -> None:
    sizes = [part.codebook_size for part in parts]
    if len(set(sizes)) > 1:
        raise ValueError(f"{name}: expected quantizers of one codebook_size, found {sizes}")


def _both(mask: jax.Array | None, on: jax.Array | None, shape: tuple[int, ...]) -> jax.Array | None:
    if on is None:
        return mask
    on = jnp.broadcast_to(on, shape)
    return on if mask is None else mask & on


def _share(on: jax.Array, mask: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """The share of the positions that count at which a layer is active."""
    on = jnp.broadcast_to(on, shape).astype(jnp.float32)
    if mask is None:
        return on.mean()
    return (on * mask).sum() / jnp.maximum(mask.sum(), 1)


class GroupedVQ(nn.Module):
    """Channels in equal groups, each with a quantizer of its own (HiFi-Codec's groups, arXiv 2305.02765).

    Codes are those of the groups side by side; loss is the sum of the groups'.

    >>> import jax, jaxtok.quantizers as jq
    >>> q = jq.GroupedVQ(groups=(jq.VQ(size=64, width=4), jq.VQ(size=64, width=4)))
    >>> y, _ = q.init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 8)))
    >>> y.latents.shape, y.codes.shape
    ((2, 5, 8), (2, 5, 2))

    Attributes:
      groups: quantizers of one ``codebook_size``; residual ones make grouped residual quantization.
    """

    groups: Sequence[Any]

    def __post_init__(self):
        if not self.groups or not all(group.num_codebooks for group in self.groups):
            found = [group.num_codebooks for group in self.groups]
            raise ValueError(f"GroupedVQ: expected at least one group, each with codes, found {found}")
        _check_sizes("GroupedVQ", self.groups)
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        """Of one code."""
        return self.groups[0].codebook_size

    @property
    def num_codebooks(self) -> int:
        """Codes of all groups together."""
        return sum(group.num_codebooks for group in self.groups)

    @property
    def accumulable(self) -> bool:
        """Whether all groups' losses are."""
        return all(group.accumulable for group in self.groups)

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., D] with D a multiple of the number of groups."""
        keys = [None] * len(self.groups) if rng is None else list(jax.random.split(rng, len(self.groups)))
        parts = [
            group(part, mask=mask, rng=key, train=train) for group, part, key in zip(self.groups, self._split(z), keys)
        ]
        metrics = {f"{name}_group{i}": value for i, y in enumerate(parts) for name, value in y.metrics.items()}
        return Quantized(
            jnp.concatenate([y.latents for y in parts], -1), jnp.concatenate([y.codes for y in parts], -1),
            jnp.sum(jnp.stack([y.loss for y in parts])), metrics,
        )  # fmt: skip

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., D]."""
        return jnp.concatenate([group.encode(part) for group, part in zip(self.groups, self._split(z))], -1)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Vectors float32 [..., D] of codes int32 [..., Q]."""
        ends = np.cumsum([group.num_codebooks for group in self.groups])
        if codes.shape[-1] != ends[-1]:
            raise ValueError(f"GroupedVQ: expected codes that end in {ends[-1]} codebooks, found shape {codes.shape}")
        parts = jnp.split(codes, ends[:-1].tolist(), axis=-1)
        return jnp.concatenate([group.decode(part) for group, part in zip(self.groups, parts)], -1)

    def _split(self, z: jax.Array) -> list[jax.Array]:
        if z.shape[-1] % len(self.groups):
            raise ValueError(f"GroupedVQ: {len(self.groups)} groups must divide the channels, found shape {z.shape}")
        return jnp.split(z, len(self.groups), axis=-1)
