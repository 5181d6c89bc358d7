"""Oobleck's released layouts: diffusers' ``AutoencoderOobleck``, and stable-audio-tools', which EzAudio's VAE has."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxtok.convert.weight_norm import ConvReader
from jaxtok.nn.oobleck import DILATIONS


class Names(NamedTuple):
    """A layout.

    Attributes:
      layers: ``layers(part, stages)``, the keys' beginnings by our layers' names; ``part`` is "encoder" or "decoder".
      snake: ``snake(C)``, the shape of a snake's parameters.
    """

    layers: Callable[[str, int], dict[str, str]]
    snake: Callable[[int], tuple[int, ...]]


def _diffusers(part: str, stages: int) -> dict[str, str]:
    names = {"conv_in": "conv1", "snake_out": "snake1", "conv_out": "conv2"}
    for i in range(stages):
        block = f"block.{i if part == 'encoder' else stages - 1 - i}"
        names |= {f"stage{i}_snake": f"{block}.snake1", f"stage{i}_down": f"{block}.conv1"}
        names[f"stage{i}_up"] = f"{block}.conv_t1"
        for j in range(len(DILATIONS)):
            unit = f"{block}.res_unit{j + 1}"
            names |= {
                f"stage{i}_unit{j}/{layer}": f"{unit}.{layer}" for layer in ("snake1", "conv1", "snake2", "conv2")
            }
    return {ours: f"{part}.{theirs}" for ours, theirs in names.items()}


def _stable_audio(part: str, stages: int) -> dict[str, str]:
    names = {"conv_in": "0", "snake_out": f"{stages + 1}", "conv_out": f"{stages + 2}"}
    for i in range(stages):
        block, last = (i + 1, 3) if part == "encoder" else (stages - i, 0)
        names |= {f"stage{i}_snake": f"{block}.layers.{last}", f"stage{i}_down": f"{block}.layers.4"}
        names[f"stage{i}_up"] = f"{block}.layers.1"
        for j in range(len(DILATIONS)):
            unit = f"{block}.layers.{j if part == 'encoder' else j + 2}.layers"
            for number, layer in enumerate(("snake1", "conv1", "snake2", "conv2")):
                names[f"stage{i}_unit{j}/{layer}"] = f"{unit}.{number}"
    return {ours: f"{part}.layers.{theirs}" for ours, theirs in names.items()}


DIFFUSERS = Names(_diffusers, lambda width: (1, width, 1))
STABLE_AUDIO = Names(_stable_audio, lambda width: (width,))


def params_from(
    state_dict: dict[str, np.ndarray], module: Any, names: Names = DIFFUSERS, prefix: str = ""
) -> dict[str, Any]:
    """Parameters of a tokenizer of Oobleck's ``encoder`` and ``decoder``.

    Args:
      state_dict: arrays by name.
      module: the tokenizer.
      names: ``DIFFUSERS`` or ``STABLE_AUDIO``.
      prefix: before all keys; "autoencoder." in EzAudio's file.

    Raises:
      ValueError: for a missing, unknown or misshapen key, by name.
    """
    keys = ConvReader(state_dict)
    params = {
        "encoder": _Part(keys, module.encoder, names, prefix, "encoder").encoder(),
        "decoder": _Part(keys, module.decoder, names, prefix, "decoder").decoder(),
    }
    keys.finish()
    return params


class _Part:
    """One network: its layers by our names, with the widths of the stages."""

    def __init__(self, keys: ConvReader, module: Any, names: Names, prefix: str, part: str):
        self._keys, self._module, self._shape = keys, module, names.snake
        self._names = {ours: prefix + theirs for ours, theirs in names.layers(part, len(module.strides)).items()}
        self._widths = [module.channels * multiplier for multiplier in (1, *module.multipliers)]

    def encoder(self) -> dict[str, Any]:
        module, widths = self._module, self._widths
        params = {"conv_in": self._conv("conv_in", module.audio_channels, widths[0], 7)}
        for i, stride in enumerate(module.strides):
            params |= self._units(i, widths[i])
            params[f"stage{i}_snake"] = self._snake(f"stage{i}_snake", widths[i])
            params[f"stage{i}_down"] = self._conv(f"stage{i}_down", widths[i], widths[i + 1], 2 * stride)
        params["snake_out"] = self._snake("snake_out", widths[-1])
        return params | {"conv_out": self._conv("conv_out", widths[-1], 2 * module.latent, 3)}

    def decoder(self) -> dict[str, Any]:
        module, widths = self._module, self._widths
        params = {"conv_in": self._conv("conv_in", module.latent, widths[-1], 7)}
        for i, stride in enumerate(module.strides):
            params[f"stage{i}_snake"] = self._snake(f"stage{i}_snake", widths[i + 1])
            name = self._names[f"stage{i}_up"]
            params[f"stage{i}_up"] = self._keys.transposed(name, widths[i + 1], widths[i], 2 * stride)
            params |= self._units(i, widths[i])
        params["snake_out"] = self._snake("snake_out", widths[0])
        return params | {"conv_out": self._conv("conv_out", widths[0], module.audio_channels, 7, bias=False)}

    def _conv(self, ours: str, inputs: int, outputs: int, size: int, **fields: Any) -> dict[str, np.ndarray]:
        return self._keys.conv(self._names[ours], inputs, outputs, size, **fields)

    def _snake(self, ours: str, width: int) -> dict[str, np.ndarray]:
        name = self._names[ours]
        return {
            leaf: self._keys.take(f"{name}.{leaf}", self._shape(width)).reshape(width) for leaf in ("alpha", "beta")
        }

    def _units(self, stage: int, width: int) -> dict[str, Any]:
        params = {}
        for j in range(len(DILATIONS)):
            name = f"stage{stage}_unit{j}"
            params[name] = {layer: self._snake(f"{name}/{layer}", width) for layer in ("snake1", "snake2")}
            params[name] |= {
                layer: self._conv(f"{name}/{layer}", width, width, size) for layer, size in (("conv1", 7), ("conv2", 1))
            }
        return params
