"""EnCodec's released layouts: transformers', and the original one, which WavTokenizer's files contain.

The config of transformers' file at 24 kHz, 75 frames a second of 32 codes, to be saved as ``encodec.py``::

    import ml_collections

    def get_config(arg=""):
        sizes = dict(dimension=128, width=32, strides=(2, 4, 5, 8))
        layer = dict(target="jaxtok.quantizers:EMAVQ", size=1024, width=128)
        return ml_collections.ConfigDict(dict(
            rate=24000,
            interface=dict(ref="jaxtok.models.audio:assemble"),
            model=dict(
                target="jaxtok.tokenizers.waveform:WaveformTokenizer",
                encoder=dict(target="jaxtok.nn.seanet:Encoder", **sizes),
                quantizer=dict(target="jaxtok.quantizers:ResidualVQ", layers=(layer,) * 32),
                decoder=dict(target="jaxtok.nn.seanet:Decoder", **sizes),
            ),
        ))

    jaxtok convert --family encodec --config encodec.py --weights model.safetensors --output weights/encodec

The first q codes of a frame are those of q layers, 0.75 kbit/s each, and ``quantizer.decode`` takes them. The file at
48 kHz is read into a :class:`jaxtok.tokenizers.feedforward.FeedForwardTokenizer` of two channels, whose fields
:mod:`jaxtok.nn.seanet` has; the loudness of its seconds and their overlap are the caller's.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxtok.convert.weight_norm import ConvReader
from jaxtok.nn.seanet import Decoder, Encoder
from jaxtok.quantizers import EMAVQ, ResidualVQ


class Names(NamedTuple):
    """What stands in a key: between "encoder." and a layer's number, and behind the number; and a codebook's."""

    layers: str
    conv: str
    conv_norm: str
    transposed: str
    transposed_norm: str
    codebook: str


TRANSFORMERS = Names("layers", "conv", "norm", "conv", "norm", "quantizer.layers.{}.codebook")
ORIGINAL = Names("model", "conv.conv", "conv.norm", "convtr.convtr", "convtr.norm", "quantizer.vq.layers.{}._codebook")

# What WavTokenizer's files hold beside the encoder and the codebook: other networks, and what only training uses.
_WAVTOKENIZER = "feature_extractor.encodec."
_NETWORKS = ("backbone.", "head.")
_TRAINING = (
    f"{_WAVTOKENIZER}decoder.", "multiperioddisc.", "multiresddisc.", "dac.", "dacdiscriminator.", "melspec_loss.",
)  # fmt: skip


def variables_from(
    state_dict: dict[str, np.ndarray], module: Any, names: Names = TRANSFORMERS
) -> dict[str, dict[str, Any]]:
    """``params`` and ``codebook`` of a tokenizer of SEANet's networks and a ResidualVQ of EMAVQ.

    Raises:
      ValueError: for another quantizer, or a missing, unknown or misshapen key, by name.
    """
    return {
        "params": params_from(state_dict, module, names),
        "codebook": codebook_from(state_dict, module, names),
    }


def params_from(state_dict: dict[str, np.ndarray], module: Any, names: Names = TRANSFORMERS) -> dict[str, Any]:
    """Parameters of a tokenizer of SEANet's ``encoder`` and ``decoder``; :func:`codebook_from` reads its codebooks.

    Raises:
      ValueError: for a missing, unknown or misshapen key, by name; "quantizer." keys are not looked at.
    """
    keys = ConvReader(state_dict, ignore=lambda name: name.startswith("quantizer."))
    params = {
        "encoder": _encoder(keys, f"encoder.{names.layers}", module.encoder, names),
        "decoder": _decoder(keys, f"decoder.{names.layers}", module.decoder, names),
    }
    keys.finish()
    return params


def codebook_from(state_dict: dict[str, np.ndarray], module: Any, names: Names = TRANSFORMERS) -> dict[str, Any]:
    """The collection "codebook" of a tokenizer whose ``quantizer`` is a ResidualVQ of EMAVQ.

    Raises:
      ValueError: for another quantizer, or a missing, unknown or misshapen "quantizer." key, by name; other keys are
        not looked at.
    """
    keys = ConvReader(state_dict, ignore=lambda name: not name.startswith("quantizer."))
    found = _codebooks(keys, module.quantizer, names)
    keys.finish()
    return {"quantizer": found}


def wavtokenizer(
    state_dict: dict[str, np.ndarray], encoder: Encoder, quantizer: Any
) -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """WavTokenizer's file: the encoder's parameters, the quantizer's collection "codebook", and what is left.

    Args:
      state_dict: the file's "state_dict".
      encoder: of ``dimension=512, causal=False`` and the release's strides.
      quantizer: a ResidualVQ of one EMAVQ of 4096 vectors of 512 numbers.

    Returns:
      What is left are the keys of the decoder's networks, "backbone." and "head.", as they came. The unused SEANet
      decoder, discriminators and losses are left out.

    Raises:
      ValueError: for a missing, unknown or misshapen key, by name.
    """
    left = {name: value for name, value in state_dict.items() if name.startswith(_NETWORKS)}
    keys = ConvReader(state_dict, ignore=lambda name: name.startswith(_NETWORKS + _TRAINING))
    params = _encoder(keys, f"{_WAVTOKENIZER}encoder.{ORIGINAL.layers}", encoder, ORIGINAL)
    codebook = _codebooks(keys, quantizer, ORIGINAL._replace(codebook=_WAVTOKENIZER + ORIGINAL.codebook))
    keys.finish()
    return params, codebook, left


class _Layers:
    """The layers of one network by their numbers, which count ELUs, too."""

    def __init__(self, keys: ConvReader, prefix: str, module: Encoder | Decoder, names: Names):
        self.keys, self.names, self.normed = keys, names, module.norm is not None
        self._numbers: Iterator[str] = (f"{prefix}.{i}" for i in range(1000))
        self.params: dict[str, Any] = {}

    def elu(self) -> None:
        next(self._numbers)

    def conv(self, ours: str, inputs: int, outputs: int, size: int) -> None:
        self._conv(self.params, ours, next(self._numbers), inputs, outputs, size)

    def transposed(self, ours: str, inputs: int, outputs: int, size: int) -> None:
        name = next(self._numbers)
        self.params[ours] = self.keys.transposed(f"{name}.{self.names.transposed}", inputs, outputs, size)
        self._norm(self.params, ours, f"{name}.{self.names.transposed_norm}", outputs)

    def unit(self, ours: str, width: int) -> None:
        name, params = next(self._numbers), {}
        self._conv(params, "conv1", f"{name}.block.1", width, width // 2, 3)
        self._conv(params, "conv2", f"{name}.block.3", width // 2, width, 1)
        self._conv(params, "shortcut", f"{name}.shortcut", width, width, 1)
        self.params[ours] = params

    def lstm(self, width: int, layers: int) -> None:
        if layers:
            name = f"{next(self._numbers)}.lstm"
            self.params["lstm"] = {f"layers_{i}": self._recurrence(name, i, width) for i in range(layers)}

    def _recurrence(self, name: str, layer: int, width: int) -> dict[str, np.ndarray]:
        matrix, vector = (4 * width, width), (4 * width,)
        return {
            "kernel": self.keys.take(f"{name}.weight_ih_l{layer}", matrix).T,
            "recurrent_kernel": self.keys.take(f"{name}.weight_hh_l{layer}", matrix).T,
            "bias": self.keys.take(f"{name}.bias_ih_l{layer}", vector)
            + self.keys.take(f"{name}.bias_hh_l{layer}", vector),
        }

    def _conv(self, params: dict[str, Any], ours: str, name: str, inputs: int, outputs: int, size: int) -> None:
        params[ours] = self.keys.conv(f"{name}.{self.names.conv}", inputs, outputs, size)
        self._norm(params, ours, f"{name}.{self.names.conv_norm}", outputs)

    def _norm(self, params: dict[str, Any], ours: str, name: str, width: int) -> None:
        if self.normed:
            scale, bias = (self.keys.take(f"{name}.{end}", (width,)) for end in ("weight", "bias"))
            params[f"{ours}_norm"] = {"scale": scale, "bias": bias}


def _encoder(keys: ConvReader, prefix: str, module: Encoder, names: Names) -> dict[str, Any]:
    layers, width = _Layers(keys, prefix, module, names), module.width
    layers.conv("conv_in", module.audio_channels, width, 7)
    for i, stride in enumerate(module.strides):
        for j in range(module.units):
            layers.unit(f"stage{i}_unit{j}", width)
        layers.elu()
        layers.conv(f"stage{i}_down", width, 2 * width, 2 * stride)
        width *= 2
    layers.lstm(width, module.lstm_layers)
    layers.elu()
    layers.conv("conv_out", width, module.dimension, 7)
    return layers.params


def _decoder(keys: ConvReader, prefix: str, module: Decoder, names: Names) -> dict[str, Any]:
    layers, width = _Layers(keys, prefix, module, names), module.width * 2 ** len(module.strides)
    layers.conv("conv_in", module.dimension, width, 7)
    layers.lstm(width, module.lstm_layers)
    for i, stride in reversed(list(enumerate(module.strides))):
        layers.elu()
        layers.transposed(f"stage{i}_up", width, width // 2, 2 * stride)
        width //= 2
        for j in range(module.units):
            layers.unit(f"stage{i}_unit{j}", width)
    layers.elu()
    layers.conv("conv_out", width, module.audio_channels, 7)
    return layers.params


def _codebooks(keys: ConvReader, quantizer: Any, names: Names) -> dict[str, Any]:
    layers = quantizer.layers if isinstance(quantizer, ResidualVQ) else ()
    if not layers or not all(isinstance(layer, EMAVQ) for layer in layers):
        kinds = ", ".join(type(part).__name__ for part in (quantizer, *layers))
        raise ValueError(f"quantizer: expected ResidualVQ of EMAVQ, found {kinds}")
    found = {}
    for i, layer in enumerate(layers):
        name, shape = names.codebook.format(i), (layer.size, layer.width)
        found[f"layers_{i}"] = {
            "embedding": keys.take(f"{name}.embed", shape),
            "sums": keys.take(f"{name}.embed_avg", shape),
            "counts": keys.take(f"{name}.cluster_size", (layer.size,)),
            "started": keys.take(f"{name}.inited", (1,))[0] != 0,
        }
    return found
