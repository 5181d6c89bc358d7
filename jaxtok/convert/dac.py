"""DAC's layout in transformers (``DacModel``), with weight normalisation or without.

Source: Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN" (arXiv 2306.06546). The networks are those
of :mod:`jaxtok.nn.oobleck`. A snake of the file has one alpha for frequency and height, ours the logarithms of both: an
alpha must be positive. The config at 44.1 kHz, 86 frames a second of 9 codes, to be saved as ``dac.py``::

    import ml_collections

    def get_config(arg=""):
        sizes = dict(multipliers=(2, 4, 8, 16), strides=(2, 4, 8, 8))
        layer = dict(
            target="jaxtok.quantizers:FactorizedVQ", size=1024, width=1024, inner_width=8, weight_norm=False
        )
        return ml_collections.ConfigDict(dict(
            rate=44100,
            interface=dict(ref="jaxtok.models.audio:assemble"),
            window=dict(seconds=30.0, context=1.0),
            model=dict(
                target="jaxtok.tokenizers.waveform:WaveformTokenizer",
                encoder=dict(target="jaxtok.nn.oobleck:Encoder", channels=64, latent=512, **sizes),
                quantizer=dict(target="jaxtok.quantizers:ResidualVQ", layers=(layer,) * 9, gradient="layers"),
                decoder=dict(
                    target="jaxtok.nn.oobleck:Decoder", channels=96, latent=1024, bias=True, tanh=True, **sizes
                ),
            ),
        ))

    jaxtok convert --family dac --config dac.py --weights model.safetensors --output weights/dac

The encoder's ``latent`` is half of the quantizer's width, as it gives twice as many channels; ``channels`` are
``encoder_hidden_size``, and ``decoder_hidden_size`` over the last multiplier.
"""

from typing import Any

import numpy as np

from jaxtok.convert import oobleck
from jaxtok.convert.weight_norm import ConvReader
from jaxtok.quantizers import Projected, ResidualVQ

_BIAS = "decoder.conv2.bias"  # which Oobleck's own files lack


def params_from(state_dict: dict[str, np.ndarray], module: Any) -> dict[str, Any]:
    """Parameters of a tokenizer of Oobleck's networks and a ResidualVQ of FactorizedVQ without weight normalisation.

    Raises:
      ValueError: for another quantizer or decoder, an alpha that is not positive, or a missing, unknown or misshapen
        key, by name.
    """
    if not (module.decoder.bias and module.decoder.tanh):
        found = f"{module.decoder.bias} and {module.decoder.tanh}"
        raise ValueError(f"decoder: expected bias and tanh to be True, found {found}")
    own = {name: value for name, value in state_dict.items() if name == _BIAS or name.startswith("quantizer.")}
    keys = ConvReader(own)
    bias, quantizer = keys.take(_BIAS, (module.decoder.audio_channels,)), _quantizer(keys, module.quantizer)
    keys.finish()
    params = oobleck.params_from(_with_logarithms({k: v for k, v in state_dict.items() if k not in own}), module)
    params["decoder"]["conv_out"]["bias"] = bias
    return params | {"quantizer": quantizer}


def _with_logarithms(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each snake's log alpha under the two names that diffusers' layout has."""
    ConvReader({name: value for name, value in state_dict.items() if name.endswith(".beta")}).finish()
    found = dict(state_dict)
    for name, alpha in state_dict.items():
        if name.endswith(".alpha"):
            if not (alpha > 0).all():
                raise ValueError(f"weights: key {name!r} must be positive throughout, found {alpha.min():g}")
            found[name] = found[f"{name.removesuffix('alpha')}beta"] = np.log(alpha)
    return found


def _quantizer(keys: ConvReader, quantizer: Any) -> dict[str, Any]:
    layers = quantizer.layers if isinstance(quantizer, ResidualVQ) else ()
    if not layers or not all(getattr(getattr(layer, "inner", None), "normalize", "") == "search" for layer in layers):
        kinds = ", ".join(type(part).__name__ for part in (quantizer, *layers))
        raise ValueError(f"quantizer: expected ResidualVQ of FactorizedVQ, found {kinds}")
    if any(layer.weight_norm for layer in layers):
        raise ValueError("quantizer: expected weight_norm=False, as the file's is folded, found True")
    return {f"layers_{i}": _layer(keys, f"quantizer.quantizers.{i}", layer) for i, layer in enumerate(layers)}


def _layer(keys: ConvReader, name: str, layer: Projected) -> dict[str, Any]:
    outer, inner = layer.width, layer.inner_width
    return {
        "project_in": _linear(keys, f"{name}.in_proj", outer, inner),
        "project_out": _linear(keys, f"{name}.out_proj", inner, outer),
        "inner": {"embedding": keys.take(f"{name}.codebook.weight", (layer.inner.size, inner))},
    }


def _linear(keys: ConvReader, name: str, inputs: int, outputs: int) -> dict[str, np.ndarray]:
    conv = keys.conv(name, inputs, outputs, 1)
    return conv | {"kernel": conv["kernel"][0]}
