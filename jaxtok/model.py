"""Trained models as users meet them: raw media in, tokens out, raw media back."""

import json
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from jaxtok import image_model, recipes, speech_model
from jaxtok.files import write_whole
from jaxtok.image_model import ImageModel, ImageTokens
from jaxtok.speech_model import SpeechModel, Tokens

__all__ = ["ImageModel", "ImageTokens", "SpeechModel", "Tokens", "assemble", "load", "save"]

_STATE = "codebook"  # the collection of codebooks that are no parameters


def load(name: str | epath.PathLike, *, step: int = -1) -> Any:
    """A trained model, from the directory of a run (``config.json`` and checkpoints) or of weights (``save``).

    Args:
      name: the run's directory, local or remote.
      step: which checkpoint; -1 for the newest that is whole. The running mean of the parameters is taken where the
        run kept one.

    Returns:
      A ``SpeechModel`` or an ``ImageModel``.

    Raises:
      ValueError: when there is no such run.
    """
    config, workdir = recipes.of_run(name), epath.Path(name)
    weights = workdir / "weights.safetensors"
    if weights.exists():
        try:
            flat = safetensors.numpy.load(weights.read_bytes())
        except safetensors.SafetensorError as error:
            raise ValueError(f"{weights}: damaged, expected weights written by jaxtok ({error})") from error
        flat = {path: jnp.asarray(array) for path, array in flat.items()}  # once, and not at every call
        params = flax.traverse_util.unflatten_dict(flat, sep="/")
        state = {_STATE: params.pop(_STATE)} if _STATE in params else {}
        return assemble(config, params, state)
    from jaxtok.train.checkpoint import load_item, load_params

    return assemble(config, load_params(workdir, step), load_item(workdir, "state", step))


def save(directory: epath.PathLike, config: Any, params: Any, state: Any = None) -> None:
    """Writes a model that ``load`` reads: ``weights.safetensors`` and ``config.json``, the latter last.

    Args:
      directory: local or remote; made if missing.
      config: of the run.
      params: nested dict of arrays.
      state: of the task; of it the collection "codebook" is kept.

    Raises:
      ValueError: when the directory already holds a model or a run.
    """
    target = epath.Path(directory)
    if (target / "config.json").exists():
        raise ValueError(f"directory {str(directory)!r} already holds a model; choose another")
    tree = dict(params) | {name: value for name, value in (state or {}).items() if name == _STATE}
    flat = {name: np.asarray(leaf, order="C") for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}
    write_whole(target / "weights.safetensors", safetensors.numpy.save(flat))
    write_whole(target / "config.json", json.dumps(config, indent=1, default=list))


def assemble(config: Any, params: Any, state: Any = None) -> SpeechModel | ImageModel:
    """The model of a config around given parameters (trained, converted, or random): speech if it has a ``frontend``.

    Args:
      config: of a run.
      params: nested dict of arrays.
      state: of the task, where the quantizer's codebook is no parameter.
    """
    if "frontend" in config:
        return speech_model.assemble(config, params)
    return image_model.assemble(config, params, state)
