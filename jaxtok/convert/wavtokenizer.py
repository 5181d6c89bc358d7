"""WavTokenizer's released layout: what stands under "state_dict" in its checkpoints.

The unused SEANet decoder, the discriminators and the buffers of the losses are left out by name
(:mod:`jaxtok.convert.seanet`); every other key is accounted for.
"""

from typing import Any

import numpy as np

from jaxtok.convert import seanet, vocos
from jaxtok.convert.weight_norm import ConvReader
from jaxtok.papers.wavtokenizer import Decoder
from jaxtok.quantizers import ResidualVQ

_BACKBONE = "backbone"
# Our names of the layers of "backbone.pos_net" by their numbers.
_CONTEXT = {"res0": 0, "res1": 1, "attention": 2, "res2": 3, "res3": 4, "context_norm": 5}


def variables_from(state_dict: dict[str, np.ndarray], module: Any) -> dict[str, dict[str, Any]]:
    """``params`` and ``codebook`` of a ``WaveformTokenizer`` of SEANet's encoder, one EMAVQ and WavTokenizer's decoder.

    Raises:
      ValueError: for a missing, unknown or misshapen key, by name.
    """
    one = ResidualVQ(layers=(module.quantizer,))
    encoder, codebook, left = seanet.wavtokenizer(state_dict, module.encoder, one)
    return {
        "params": {"encoder": encoder, "decoder": _decoder(left, module.decoder)},
        "codebook": {"quantizer": codebook["layers_0"]},
    }


def _decoder(state_dict: dict[str, np.ndarray], module: Decoder) -> dict[str, Any]:
    keys, width, ids = ConvReader(state_dict), module.width, module.bandwidths
    vocos.check_window(keys, state_dict, module.n_fft)
    params = {"embed": vocos.embed(keys, width, module.dimension)}
    for ours, number in _CONTEXT.items():
        name = f"{_BACKBONE}.pos_net.{number}"
        if ours == "context_norm":
            params[ours] = vocos.norm(keys, name, width)
        else:
            params[ours] = _attention(keys, name, width) if ours == "attention" else _res_block(keys, name, width)
    params["norm"] = vocos.norm(keys, f"{_BACKBONE}.norm", width, ids)
    for i in range(module.depth):
        params[f"blocks_{i}"] = vocos.block(keys, f"{_BACKBONE}.convnext.{i}", width, module.hidden, ids)
    params["final_norm"] = vocos.norm(keys, f"{_BACKBONE}.final_layer_norm", width)
    params["head"] = keys.linear("head.out", width, module.n_fft + 2)
    keys.finish()
    return params


def _res_block(keys: ConvReader, name: str, width: int) -> dict[str, Any]:
    norms = {f"norm{i}": vocos.norm(keys, f"{name}.norm{i}", width) for i in (1, 2)}
    return norms | {f"conv{i}": keys.conv(f"{name}.conv{i}", width, width, 3) for i in (1, 2)}


def _attention(keys: ConvReader, name: str, width: int) -> dict[str, Any]:
    layers = {"query": "q", "key": "k", "value": "v", "out": "proj_out"}
    params = {"norm": vocos.norm(keys, f"{name}.norm", width)}
    for ours, theirs in layers.items():
        conv = keys.conv(f"{name}.{theirs}", width, width, 1)
        params[ours] = conv | {"kernel": conv["kernel"][0]}
    return params
