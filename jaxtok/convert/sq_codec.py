"""SQ-Codec's released layout."""

from typing import Any

import numpy as np

from jaxtok.convert.weight_norm import ConvReader
from jaxtok.nn.sq_codec import DILATIONS, Decoder, Encoder


def params_from(state_dict: dict[str, np.ndarray], module: Any) -> dict[str, Any]:
    """Parameters of a tokenizer of SQ-Codec's ``encoder`` and ``decoder`` from the reference's names.

    In the reference the slope behind the strided convolutions is one number under a name for each stage.

    Raises:
      ValueError: for a missing, unknown or misshapen key, or different slopes of that kind, by name.
    """
    keys = ConvReader(state_dict)
    params = {"encoder": _encoder(keys, module.encoder), "decoder": _decoder(keys, module.decoder)}
    keys.finish()
    return params


def _encoder(keys: ConvReader, module: Encoder) -> dict[str, Any]:
    width, size, first = module.width, module.kernel_size, 1
    params: dict[str, Any] = {"conv_in": keys.conv("encoder.0", module.audio_channels, width, size)}
    if module.pool > 1:
        params |= _pool(keys, "encoder.1", width, size)
        first = 2
    slopes = {}
    for i, stride in enumerate(module.strides):
        name = f"encoder.{first + i}"
        params |= _units(keys, name, i, width, size)
        params[f"stage{i}_down"] = keys.conv(f"{name}.down_conv.layer", width, 2 * width, 2 * stride)
        slopes[f"{name}.down_conv.activation.weight"] = _slope(keys, f"{name}.down_conv.activation")
        width *= 2
    if len({float(slope) for slope in slopes.values()}) > 1:
        raise ValueError(f"weights: expected one slope under all of {', '.join(map(repr, slopes))}, found several")
    params["down_slope"] = next(iter(slopes.values()))
    params["conv_out"] = keys.conv(f"encoder.{first + len(module.strides)}", width, module.latent, size)
    return params


def _decoder(keys: ConvReader, module: Decoder) -> dict[str, Any]:
    stages, size = len(module.strides), module.kernel_size
    width = module.width * 2**stages
    params: dict[str, Any] = {"conv_in": keys.conv("decoder.0", module.latent, width, 2 * module.look_ahead + 1)}
    for i, stride in reversed(list(enumerate(module.strides))):
        name = f"decoder.{stages - i}"
        params[f"stage{i}_up"] = keys.transposed(f"{name}.up_conv.layer", width, width // 2, 2 * stride)
        width //= 2
        params |= _units(keys, name, i, width, size)
    last = stages + 1
    if module.pool > 1:
        params |= _pool(keys, f"decoder.{last}", width, size)
        last += 1
    params["conv_out"] = keys.conv(f"decoder.{last}", width, module.audio_channels, size)
    return params


def _units(keys: ConvReader, name: str, stage: int, width: int, size: int) -> dict[str, Any]:
    return {
        f"stage{stage}_unit{j}": {
            "conv1": keys.conv(f"{name}.convs.{j}.conv1", width, width, size),
            "conv2": keys.conv(f"{name}.convs.{j}.conv2", width, width, 1),
            "slope1": _slope(keys, f"{name}.convs.{j}.activation1"),
            "slope2": _slope(keys, f"{name}.convs.{j}.activation2"),
        }
        for j in range(len(DILATIONS))
    }


def _pool(keys: ConvReader, name: str, width: int, size: int) -> dict[str, Any]:
    conv = keys.conv(f"{name}.conv", width, width, size)
    return {"pool_conv": conv, "pool_slope": _slope(keys, f"{name}.activation")}


def _slope(keys: ConvReader, name: str) -> np.ndarray:
    return keys.take(f"{name}.weight", (1,))[0]
