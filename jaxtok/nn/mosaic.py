"""An encoder and a decoder without parameters: the mean colour of each patch, and patches of one colour."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class MosaicEncoder(nn.Module):
    """The mean of each patch: images [B, H, W, C] to [B, H / patch, W / patch, C].

    Attributes:
      patch: side in pixels.
      image_channels: C.
    """

    patch: int = 4
    image_channels: int = 3

    @property
    def factor(self) -> int:
        """Pixels per token, in height and in width."""
        return self.patch

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> tuple[jax.Array, None]:
        """The means, and no mask; ``mask`` is not used."""
        del mask
        batch, height, width, channels = x.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"MosaicEncoder: patch {self.patch} must divide height and width, found shape {x.shape}")
        patches = x.reshape(batch, height // self.patch, self.patch, width // self.patch, self.patch, channels)
        return patches.astype(jnp.float32).mean((2, 4)), None


class MosaicDecoder(nn.Module):
    """Every vector fills its patch: [B, h, w, C] to [B, h patch, w patch, C].

    Attributes:
      patch: side in pixels.
    """

    patch: int = 4

    def __call__(self, z: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """The images; ``mask`` is not used."""
        del mask
        return jnp.repeat(jnp.repeat(z, self.patch, axis=1), self.patch, axis=2)
