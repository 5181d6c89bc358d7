"""The released layout of Vocos generators: TaDiCodec's vocoder (Amphion's names), and vocos-mel-24khz."""

from typing import Any

import numpy as np

from jaxtok.convert.keys import StrictReader
from jaxtok.nn.vocos import Vocos
from jaxtok.signal.log_mel import htk_filters
from jaxtok.signal.stft import hann

WINDOW = "head.istft.window"
_HEARD, _FILTERS = "feature_extractor.mel_spec.spectrogram.window", "feature_extractor.mel_spec.mel_scale.fb"
_RATE = 24000


def params_from(state_dict: dict[str, np.ndarray], module: Vocos) -> dict[str, Any]:
    """Parameters of a `Vocos` from the reference's names.

    The windows and the mel filters are recomputed; where the file has them, they must be those that are meant: periodic
    Hann windows, and the triangles of :class:`jaxtok.signal.log_mel.LogMel` at 24 kHz.

    Raises:
      ValueError: for a missing, unknown or misshapen key, or another window or filter, by name.
    """
    keys = StrictReader(state_dict)
    check_window(keys, state_dict, module.n_fft)
    check_window(keys, state_dict, module.n_fft, _HEARD)
    if _FILTERS in state_dict:
        meant = htk_filters(module.n_fft, _RATE, module.bands, 0.0, _RATE / 2)
        if not np.allclose(keys.take(_FILTERS, meant.shape), meant, atol=1e-4):
            raise ValueError(f"weights: key {_FILTERS!r} does not hold HTK's mel filters at {_RATE} Hz")
    width, backbone = module.width, "backbone"
    params = {
        "embed": embed(keys, width, module.bands),
        "norm": norm(keys, f"{backbone}.norm", width),
        **{f"blocks_{i}": block(keys, f"{backbone}.convnext.{i}", width, module.hidden) for i in range(module.depth)},
        "final_norm": norm(keys, f"{backbone}.final_layer_norm", width),
        "head": keys.linear("head.out", width, module.n_fft + 2),
    }
    keys.finish()
    return params


def check_window(keys: StrictReader, state_dict: dict[str, np.ndarray], n_fft: int, name: str = WINDOW) -> None:
    """Takes the window where the file has it; ValueError for another one than is meant."""
    if name in state_dict and not np.allclose(keys.take(name, (n_fft,)), hann(n_fft), atol=1e-5):
        raise ValueError(f"weights: key {name!r} is not the periodic Hann window of {n_fft} samples")


def embed(keys: StrictReader, width: int, inputs: int) -> dict[str, np.ndarray]:
    """The first convolution of a backbone."""
    kernel = keys.take("backbone.embed.weight", (width, inputs, 7)).transpose(2, 1, 0)
    return {"kernel": kernel, "bias": keys.take("backbone.embed.bias", (width,))}


def block(keys: StrictReader, name: str, width: int, hidden: int, conditions: int = 0) -> dict[str, Any]:
    """A ConvNeXt block."""
    return {
        "depthwise": {
            "kernel": keys.take(f"{name}.dwconv.weight", (width, 1, 7))[:, 0].T,
            "bias": keys.take(f"{name}.dwconv.bias", (width,)),
        },
        "norm": norm(keys, f"{name}.norm", width, conditions),
        "expand": keys.linear(f"{name}.pwconv1", width, hidden),
        "contract": keys.linear(f"{name}.pwconv2", hidden, width),
        "scale": keys.take(f"{name}.gamma", (width,)),
    }


def norm(keys: StrictReader, name: str, width: int, conditions: int = 0) -> dict[str, np.ndarray]:
    """A normalisation's scale and bias, or the tables of one that depends on a condition."""
    if not conditions:
        return {"scale": keys.take(f"{name}.weight", (width,)), "bias": keys.take(f"{name}.bias", (width,))}
    tables = {"scale": "scale", "bias": "shift"}
    return {ours: keys.take(f"{name}.{theirs}.weight", (conditions, width)) for ours, theirs in tables.items()}
