"""Trained classifiers as users meet them: images in, classes and features out."""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.build import build
from jaxtok.models.image import by_parts, pixels


@flax.struct.dataclass
class ClassifierModel:
    """A classifier of images; a pytree whose leaves are its parameters.

    Attributes:
      params: of the module.
      module: a :class:`jaxtok.nn.classifier.Classifier`.
    """

    params: Any
    module: nn.Module = flax.struct.field(pytree_node=False)

    @property
    def classes(self) -> int:
        """How many."""
        return self.module.classes

    def logits(self, images: Any) -> np.ndarray:
        """float32 [B, classes] of images [B, H, W, C], uint8 from 0 to 255 or floats in [-1, 1].

        Raises:
          ValueError: for another shape or type, or values outside the range.
        """
        return self._run(images, None)

    def predict(self, images: Any) -> np.ndarray:
        """The likeliest class of each image, int [B]; images as in ``logits``."""
        return self.logits(images).argmax(-1)

    def features(self, images: Any) -> np.ndarray:
        """What the last linear map sees, float32 [B, D]; images as in ``logits``."""
        return self._run(images, "features")

    def _run(self, images: Any, method: str | None) -> np.ndarray:
        x, _ = pixels(images, unit=self.module.encoder.factor, channels=self.module.encoder.image_channels)
        return np.asarray(by_parts(functools.partial(_apply, self.module, method, self.params), x))


def assemble(config: Any, params: Any, state: Any = None) -> ClassifierModel:
    """The classifier of a config around given parameters; it has no moving state."""
    del state
    return ClassifierModel(params, build(config["model"]))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _apply(module: nn.Module, method: str | None, params: Any, x: jax.Array) -> jax.Array:
    return jnp.asarray(module.apply({"params": params}, x, method=method))
