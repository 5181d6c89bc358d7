"""Trained models as users meet them: raw media in, tokens out, raw media back."""

import json
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from jaxtok import recipes
from jaxtok.build import build
from jaxtok.files import write_whole

_STATE = "codebook"  # the collection of codebooks that are no parameters


def load(name: str | epath.PathLike, *, step: int = -1) -> Any:
    """A trained model, from the directory of a run (``config.json`` and checkpoints) or of weights (``save``).

    Args:
      name: the run's directory, local or remote; or the name of shipped weights, such as "emoji-judge".
      step: which checkpoint; -1 for the newest that is whole. The running mean of the parameters is taken where the
        run kept one.

    Returns:
      What the config's ``interface`` makes: a ``SpeechModel``, ``ImageModel``, ``GeneratorModel`` ...

    Raises:
      ValueError: when there is no such run.
    """
    workdir = recipes.place(name)
    config = recipes.of_run(workdir)
    weights = workdir / "weights.safetensors"
    if weights.exists():
        try:
            flat = safetensors.numpy.load(weights.read_bytes())
        except safetensors.SafetensorError as error:
            raise ValueError(f"{weights}: damaged, expected weights written by jaxtok ({error})") from error
        flat = {tuple(_part(part) for part in name.split("/")): _held(array) for name, array in flat.items()}
        params = flax.traverse_util.unflatten_dict(flat)
        state = {_STATE: params.pop(_STATE)} if _STATE in params else {}
        return assemble(config, params, state)
    from jaxtok.train.checkpoint import load_item, load_marks, load_params

    model = assemble(config, load_params(workdir, step), load_item(workdir, "state", step))
    if frozen := getattr(model, "frozen", {}):
        _check_frozen(workdir, frozen, load_marks(workdir, step))
    return model


def _check_frozen(workdir: epath.Path, frozen: Mapping[str, Any], marks: Mapping[str, int]) -> None:
    """ValueError where the arrays that the run did not change, such as its tokenizer's, are others now."""
    from jaxtok.train.state import fingerprint

    found = fingerprint(frozen) if marks else {}
    for path in sorted(marks.keys() & found.keys()):
        if marks[path] != found[path]:
            raise ValueError(f"model {str(workdir)!r}: the frozen weights {path!r} are not those that it learned with")


def save(
    directory: epath.PathLike, config: Any, params: Any, state: Any = None, *, half: bool = False
) -> None:  # fmt: skip
    """Writes a model that ``load`` reads: ``weights.safetensors`` and ``config.json``, the latter last.

    Args:
      directory: local or remote; made if missing.
      config: of the run.
      params: nested dict of arrays.
      state: of the task; of it the collection "codebook" is kept.
      half: whether float32 is stored as float16, which takes half the space; ``load`` makes it float32 again.

    Raises:
      ValueError: when the directory already holds a model or a run, or a number is too large for float16.
    """
    target = epath.Path(directory)
    if (target / "config.json").exists():
        raise ValueError(f"directory {str(directory)!r} already holds a model; choose another")
    tree = dict(params) | {name: value for name, value in (state or {}).items() if name == _STATE}
    paths = flax.traverse_util.flatten_dict(tree)
    flat = {"/".join(map(_escaped, path)): np.asarray(leaf, order="C") for path, leaf in paths.items()}
    if half:
        flat = {name: _halved(name, array) for name, array in flat.items()}
    write_whole(target / "weights.safetensors", safetensors.numpy.save(flat))
    write_whole(target / "config.json", json.dumps(config, indent=1, default=list))


def _escaped(part: str) -> str:
    """A name of a path for the file; Flax's weight normalization has names with a slash."""
    return part.replace("%", "%25").replace("/", "%2F")


def _part(escaped: str) -> str:
    return escaped.replace("%2F", "/").replace("%25", "%")


def export(run: epath.PathLike, directory: epath.PathLike, *, step: int = -1, half: bool = False) -> None:
    """Writes what a run's model is made of and nothing that training alone needs, as ``save`` does.

    Args:
      run: the run's directory. Of its parameters the running mean is taken where it kept one, and of two players'
        those of the generator.
      directory, half: see ``save``.
      step: which checkpoint; -1 for the newest that is whole.

    Raises:
      ValueError: when there is no such run, or as ``save`` says.
    """
    from jaxtok.train.checkpoint import load_item, load_params

    workdir = recipes.place(run)
    config, params = recipes.of_run(workdir), load_params(workdir, step)
    save(directory, config, params.get("generator", params), load_item(workdir, "state", step), half=half)


def assemble(config: Any, params: Any, state: Any = None) -> Any:
    """The model of a config around given parameters (trained, converted, or random), as its ``interface`` says.

    Args:
      config: of a run.
      params: nested dict of arrays.
      state: of the task, where the quantizer's codebook is no parameter.

    Raises:
      ValueError: when the config has no ``interface``.
    """
    if "interface" not in config:
        raise ValueError(f"config of {config.get('slug', 'a model')}: has no 'interface', so it cannot be loaded")
    return build(config["interface"])(config, params, state)


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32:
        return array
    if array.size and np.abs(array).max() > np.finfo(np.float16).max:
        raise ValueError(f"params: {name} holds {np.abs(array).max():g}, which float16 does not")
    return array.astype(np.float16)


def _held(array: np.ndarray) -> jax.Array:
    """On the device, once and not at every call; float16 is how float32 is stored."""
    return jnp.asarray(array, np.float32 if array.dtype == np.float16 else None)
