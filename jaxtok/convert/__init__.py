"""From released (PyTorch) weights to parameters: every key accounted for, or an error that names it.

For "encodec" and "dac" there is no config; their modules' docstrings have one: :mod:`jaxtok.convert.seanet` and
:mod:`jaxtok.convert.dac`. Mimi (arXiv 2410.00037) is no family: its SEANet has identity shortcuts and last kernels of
3, unlike :mod:`jaxtok.nn.seanet`, and transformers and a resampling stand between it and the codes.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtok.build import build

FAMILIES = {
    "dac": "jaxtok.convert.dac",
    "encodec": "jaxtok.convert.seanet",
    "ezaudio": "jaxtok.convert.ezaudio",
    "oobleck": "jaxtok.convert.oobleck",
    "sq_codec": "jaxtok.convert.sq_codec",
    "tadicodec": "jaxtok.convert.tadicodec",
    "tadicodec_mgm": "jaxtok.convert.tadicodec_mgm",
    "vocos": "jaxtok.convert.vocos",
    "wavtokenizer": "jaxtok.convert.wavtokenizer",
}


def from_reference(family: str, state_dict: Mapping[str, Any], model_config: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for ``build(model_config)`` from a released state dict (arrays by PyTorch name).

    Codebooks that are no parameters (of "encodec", "wavtokenizer") are read, too, but only
    :func:`variables_from_reference` gives them.

    Args:
      family: one of the known layouts, such as "tadicodec".
      state_dict: numpy arrays (or anything ``np.asarray`` takes) by name.
      model_config: the description of the module.

    Raises:
      ValueError: for an unknown family, or a missing, unknown or misshapen key, by name.
    """
    return variables_from_reference(family, state_dict, model_config)["params"]


def variables_from_reference(
    family: str, state_dict: Mapping[str, Any], model_config: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """As :func:`from_reference`: ``params``, and ``codebook`` where a codebook is no parameter."""
    if family not in FAMILIES:
        raise ValueError(f"no converter named {family!r}; known: {', '.join(sorted(FAMILIES))}")
    arrays = {name: np.asarray(value, np.float32) for name, value in state_dict.items()}
    converter, module = importlib.import_module(FAMILIES[family]), build(model_config)
    if hasattr(converter, "variables_from"):
        return converter.variables_from(arrays, module)
    return {"params": converter.params_from(arrays, module)}


def from_file(family: str, path: str, model_config: Mapping[str, Any]) -> dict[str, Any]:
    """As :func:`from_reference`, from a ``.safetensors`` file.

    Raises:
      ValueError: when the file is missing or not a safetensors file.
    """
    return from_reference(family, read(path), model_config)


def read(path: str) -> dict[str, np.ndarray]:
    """The arrays of a ``.safetensors`` file by name.

    Raises:
      ValueError: when the file is missing or not a safetensors file.
    """
    from etils import epath
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = epath.Path(path)
    if not file.is_file():
        raise ValueError(f"weights file {str(path)!r} does not exist")
    try:
        return load(file.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"weights file {str(path)!r} is not a safetensors file: {error}") from error
