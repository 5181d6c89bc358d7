"""Trained generators of images as users meet them: classes or texts in, images out.

images = model.sample([0, 1, 2], rng=jax.random.key(0), steps=50, guidance=2.0)  # uint8 [3, H, W, C]
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok import fingerprint
from jaxtok.build import build
from jaxtok.data import picture, tokens
from jaxtok.model import load
from jaxtok.models.image import ImageModel, by_parts
from jaxtok.tasks.on_the_fly import OnTheFly


@flax.struct.dataclass
class GeneratorModel:
    """A generator; a pytree whose leaves are its parameters and, where it makes tokens, its tokenizer's.

    Attributes:
      params: of the task's model.
      decoder: the tokenizer whose codes or latents are generated; None for a generator of pixels.
      statistics: mean and deviation [D] by which latents were normalised, or empty.
      task: with ``sample``, such as :class:`jaxtok.tasks.diffuse.Diffuse`.
      shape: of one sample: [H, W, C] of pixels, [h, w, D] of latents or [h, w, Q] of codes.
      sampling: the settings where none are given.
      reader: of texts, such as :meth:`jaxtok.data.images.Images.read`; None where there is no text.
    """

    params: Any
    decoder: ImageModel | None
    statistics: Mapping[str, jax.Array]
    task: Any = flax.struct.field(pytree_node=False)
    shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
    sampling: Any = flax.struct.field(pytree_node=False)
    reader: Any = flax.struct.field(pytree_node=False, default=None)

    @property
    def classes(self) -> int:
        """Labels run from 0 to classes - 1; 0 where there are none."""
        return self.task.classes

    @property
    def frozen(self) -> dict[str, Any]:
        """The arrays that a run on tokens made on the fly does not change."""
        return {} if self.decoder is None else {"tokenizer": self.decoder.variables}

    @property
    def calls(self) -> int:
        """Of the network for one sample; a guided one counts twice."""
        each = math.prod(self.shape) if getattr(self.sampling, "by_code", False) else 1
        return each * self.sampling.calls

    def sample(self, asked: Any, *, rng: Any = 0, **settings: Any) -> np.ndarray:
        """Images uint8 [B, H, W, C]; each depends on the key, its place in ``asked`` and what is asked there alone.

        Args:
          asked: labels int [B], or B texts; for a generator that is told nothing, how many images.
          rng: a key, or the seed of one.
          **settings: fields of ``sampling`` that shall be others, such as ``steps=20``.

        Raises:
          ValueError: for a label out of range, a text that is too long, or a setting that this generator does not have.
        """
        return picture.to_uint8(self.sample_pixels(asked, rng=rng, **settings))

    def sample_pixels(self, asked: Any, *, rng: Any = 0, **settings: Any) -> jax.Array:
        """As ``sample``, up to the rounding: float32 [B, H, W, C], about [-1, 1]."""
        drawn = self.sample_tokens(asked, rng=rng, **settings)
        if self.decoder is None:
            return drawn
        if jnp.issubdtype(drawn.dtype, jnp.integer):
            return self.decoder.decode_pixels(self.decoder.tokens(drawn))
        if self.statistics:
            drawn = drawn * self.statistics["deviation"] + self.statistics["mean"]
        return self.decoder.decode_pixels(self.decoder.latents(drawn))

    def sample_tokens(self, asked: Any, *, rng: Any = 0, **settings: Any) -> jax.Array:
        """What the task generates [B, *shape]: pixels, normalised latents, or codes."""
        condition, count = self._condition(asked)
        sampling = self._settings(settings)
        if isinstance(rng, (int, np.integer)):
            rng = jax.random.key(int(rng))
        keys = jax.vmap(functools.partial(jax.random.fold_in, rng))(jnp.arange(count))
        inputs = {"keys": jax.random.key_data(keys)}
        if condition is not None:
            inputs["condition"] = condition
        return by_parts(functools.partial(_sample, self.task, self.shape, sampling, self.params), inputs)

    def _condition(self, asked: Any) -> tuple[Any, int]:
        if self.reader:
            if isinstance(asked, str) or not len(asked) or not all(isinstance(text, str) for text in asked):
                raise ValueError(f"texts: expected a list of texts, found {asked!r}")
            read = [self.reader(text) for text in asked]
            return {name: jnp.stack([text[f"text_{name}"] for text in read]) for name in ("ids", "mask")}, len(read)
        labels = asked
        array = np.asarray(labels)
        if not self.classes:
            if array.ndim or not np.issubdtype(array.dtype, np.integer) or array < 1:
                raise ValueError(f"labels: this generator has no classes, expected how many images, found {labels!r}")
            return None, int(array)
        if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"labels: expected integers [images], found {array.dtype} of shape {array.shape}")
        if array.min() < 0 or array.max() >= self.classes:
            raise ValueError(f"labels: expected 0 to {self.classes - 1}, found {array.min()} to {array.max()}")
        return jnp.asarray(array, jnp.int32), array.size

    def _settings(self, settings: Mapping[str, Any]) -> Any:
        known = [field.name for field in dataclasses.fields(self.sampling)]
        for name in settings:
            if name not in known:
                raise ValueError(f"{name}: this generator has no such setting; it has {', '.join(known)}")
        sampling = dataclasses.replace(self.sampling, **settings)
        if getattr(sampling, "guidance", 1.0) != 1.0 and not ((self.classes or self.reader) and self.task.label_drop):
            raise ValueError(
                f"guidance {sampling.guidance}: this generator knows no null condition (it has {self.classes} classes "
                f"and was trained with label_drop={getattr(self.task, 'label_drop', 0.0)}), expected 1"
            )
        return sampling


def assemble(config: Mapping[str, Any], params: Any, state: Any = None) -> GeneratorModel:
    """The generator of a config around given parameters.

    Args:
      config: with ``model``, ``task``, ``shape`` and ``sampling``; ``tokenizer`` is the directory of the tokenizer's
        run where tokens are generated, else "".
      params: of the model.
      state: not used: generators keep none.

    Raises:
      ValueError: when there is no tokenizer at that place.
    """
    del state
    task = build(config["task"], model=build(config["model"]))
    decoder, statistics, source = None, {}, config["data"]["source"]
    if isinstance(task, OnTheFly):
        task, source = task.generator, task.statistics
    if place := config.get("tokenizer", ""):
        decoder = load(place)
        if not isinstance(decoder, ImageModel):
            raise ValueError(f"tokenizer {place!r}: expected a tokenizer of images, found a {type(decoder).__name__}")
        statistics = _statistics(source, place)
    told = getattr(task, "condition", None)
    reader = build(config["data"]["examples"]).read if told and told.kind == "text" else None
    return GeneratorModel(params, decoder, statistics, task, tuple(config["shape"]), build(config["sampling"]), reader)


def _statistics(source: str, place: str) -> dict[str, jax.Array]:
    """By which the latents of a set of tokens were normalised; empty for codes, and where no stored set was learned.

    Raises:
      ValueError: when the set was made by another tokenizer than the one at ``place``.
    """
    if not source.startswith("tokens:"):
        return {}
    manifest = tokens.describe(source)
    tokens.check(manifest, fingerprint.of_run(place))
    if manifest["codebook"]:
        return {}
    mean, deviation = tokens.statistics(manifest)
    return {"mean": jnp.asarray(mean), "deviation": jnp.asarray(deviation)}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(task: Any, shape: tuple[int, ...], sampling: Any, params: Any, inputs: Mapping[str, Any]) -> jax.Array:
    keys = jax.random.wrap_key_data(inputs["keys"])
    return task.sample(params, inputs.get("condition"), keys, shape, sampling)
