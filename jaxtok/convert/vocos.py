"""The released layout of TaDiCodec's vocoder (Vocos generator, Amphion's names)."""

from typing import Any

import numpy as np

from jaxtok.convert.keys import StrictReader
from jaxtok.nn.vocos import Vocos
from jaxtok.signal.stft import hann

WINDOW = "head.istft.window"


def params_from(state_dict: dict[str, np.ndarray], module: Vocos) -> dict[str, Any]:
    """Parameters of a `Vocos` from the reference's names.

    The buffer ``head.istft.window`` is recomputed; where the file has it, it must be the window that is meant.

    Raises:
      ValueError: for a missing, unknown or misshapen key, or another window, by name.
    """
    keys = StrictReader(state_dict)
    if WINDOW in state_dict:
        window = keys.take(WINDOW, (module.n_fft,))
        if not np.allclose(window, hann(module.n_fft), atol=1e-5):
            raise ValueError(f"weights: key {WINDOW!r} is not the periodic Hann window of {module.n_fft} samples")
    width, backbone = module.width, "backbone"
    params = {
        "embed": {
            "kernel": keys.take(f"{backbone}.embed.weight", (width, module.bands, 7)).transpose(2, 1, 0),
            "bias": keys.take(f"{backbone}.embed.bias", (width,)),
        },
        "norm": _norm(keys, f"{backbone}.norm", width),
        **{f"blocks_{i}": _block(keys, f"{backbone}.convnext.{i}", module) for i in range(module.depth)},
        "final_norm": _norm(keys, f"{backbone}.final_layer_norm", width),
        "head": keys.linear("head.out", width, module.n_fft + 2),
    }
    keys.finish()
    return params


def _block(keys: StrictReader, name: str, module: Vocos) -> dict[str, Any]:
    width = module.width
    return {
        "depthwise": {
            "kernel": keys.take(f"{name}.dwconv.weight", (width, 1, 7))[:, 0].T,
            "bias": keys.take(f"{name}.dwconv.bias", (width,)),
        },
        "norm": _norm(keys, f"{name}.norm", width),
        "expand": keys.linear(f"{name}.pwconv1", width, module.hidden),
        "contract": keys.linear(f"{name}.pwconv2", module.hidden, width),
        "scale": keys.take(f"{name}.gamma", (width,)),
    }


def _norm(keys: StrictReader, name: str, width: int) -> dict[str, np.ndarray]:
    return {"scale": keys.take(f"{name}.weight", (width,)), "bias": keys.take(f"{name}.bias", (width,))}
