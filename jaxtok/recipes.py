"""Finds and reads config files: ``get_config("tadicodec:mini,steps=100")``.

The configs live in ``configs/`` of a checkout and ride inside the package when it is installed from a wheel.
"""

import ast
import contextlib
import difflib
import importlib.util
import json
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ml_collections
from etils import epath

_PRETRAINED = pathlib.Path(__file__).parent / "pretrained"


def directory() -> pathlib.Path:
    """The folder of config files: inside the package (wheel) or beside it (checkout)."""
    package = pathlib.Path(__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "tadicodec.py").is_file():
            return folder
    raise FileNotFoundError(f"no configs/ folder in {package} or {package.parent}: install jaxtok again")


def slugs() -> list[str]:
    """The names of all systems that have a config, sorted."""
    return sorted(path.stem for path in directory().glob("*.py") if not path.stem.startswith("_"))


def module(slug: str) -> ModuleType:
    """The config file of one system as a Python module, with ``PAPER`` and ``get_config``.

    Raises:
      ValueError: when there is no such system; the nearest names are given.
    """
    path = directory() / f"{slug}.py"
    if not path.is_file():
        near = difflib.get_close_matches(slug, slugs(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(slugs())}"
        raise ValueError(f"no system named {slug!r}{hint}")
    return load_file(path)


def load_file(path: str | pathlib.Path) -> ModuleType:
    """Imports a config file by path.

    Raises:
      ValueError: when the file is missing or defines no ``get_config``.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"config file {str(path)!r} does not exist")
    spec = importlib.util.spec_from_file_location(f"jaxtok_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"config file {str(path)!r} is not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    if not hasattr(loaded, "get_config"):
        raise ValueError(f"config file {str(path)!r} defines no get_config(arg)")
    return loaded


def get_config(name: str) -> ml_collections.ConfigDict:
    """The config of ``"slug"``, ``"slug:variant"`` or ``"slug:variant,key=value,outer.inner=value"``.

    Raises:
      ValueError: for an unknown system, variant or key, or a value of another type.
    """
    slug, _, arg = name.partition(":")
    variant, *overrides = arg.split(",") if arg else [""]
    config = module(slug).get_config(variant) if variant else module(slug).get_config()
    override(config, dict(item.partition("=")[::2] for item in overrides))
    return config


def index() -> str:
    """The table of all systems in Markdown, from their configs' ``PAPER``; the README holds it."""
    papers = [(slug, module(slug).PAPER) for slug in slugs()]
    rows = [
        f"| [{paper['title']}]({paper['url']}) | `{slug}` "
        f"| {paper['modality']} | {paper['family']} | {paper['status']} |"
        for slug, paper in sorted(papers, key=lambda item: item[1]["numbers"])
    ]
    return "\n".join(["| paper | config | modality | family | status |", "|---|---|---|---|---|", *rows])


def locate(name: str) -> str:
    """The config file that ``FILE:VARIANT`` or ``SLUG:VARIANT`` means, with the variant after it.

    ``configs/SLUG.py`` is looked for where the package keeps its configs when there is no such file here.

    Raises:
      ValueError: when there is neither such a file nor such a system, or it has no such variant.
    """
    path, colon, arg = name.partition(":")
    if not pathlib.Path(path).is_file():
        given = pathlib.Path(path)
        if given.suffix == ".py" and given.parent.name != "configs":
            raise ValueError(f"config file {path!r} does not exist")
        module(given.stem)
        path = str(directory() / f"{given.stem}.py")
    load_file(path).get_config(*([arg] if arg else []))  # a wrong variant is refused here, in the config's own words
    return path + colon + arg


def override(config: ml_collections.ConfigDict, values: Mapping[str, Any]) -> None:
    """Sets dotted keys in place; strings are read as Python literals where they are one.

    Raises:
      ValueError: for a key that the config does not have, or a value of another type.
    """
    for key, value in values.items():
        if isinstance(value, str):
            with contextlib.suppress(SyntaxError, ValueError):
                value = ast.literal_eval(value)
        *path, last = key.split(".")
        inner = config
        for part in path:
            inner = inner.get(part) if isinstance(inner, ml_collections.ConfigDict) else None
        if not isinstance(inner, ml_collections.ConfigDict) or last not in inner:
            raise ValueError(f"config key {key!r} does not exist; {_near(config, key)}")
        if isinstance(inner[last], float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        try:
            inner[last] = value
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"config key {key!r}: expected {type(inner[last]).__name__}, found {type(value).__name__} {value!r}"
            ) from error


def _near(config: ml_collections.ConfigDict, key: str) -> str:
    known = list(_flatten(config))
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    return f"did you mean {near[0]!r}?" if near else f"its top-level keys are {', '.join(config)}"


def _flatten(config: ml_collections.ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items():
        keys.append(prefix + key)
        if isinstance(value, ml_collections.ConfigDict):
            keys += _flatten(value, f"{prefix}{key}.")
    return keys


def shipped() -> list[str]:
    """The names of the weights that the package ships; each has a model card, ``README.md``."""
    return sorted(path.parent.name for path in _PRETRAINED.glob("*/config.json"))


def place(name: epath.PathLike) -> epath.Path:
    """The directory of a model: ``name`` itself, or that of the shipped weights of this name."""
    if str(name) in shipped() and not (epath.Path(name) / "config.json").exists():
        return epath.Path(_PRETRAINED / str(name))
    return epath.Path(name)


def of_run(directory: epath.PathLike) -> dict[str, Any]:
    """The config that a run's directory (or one of converted weights) keeps.

    Raises:
      ValueError: when there is no run.
    """
    file = epath.Path(directory) / "config.json"
    if not file.exists():
        raise ValueError(
            f"model {str(directory)!r}: no run there (expected the directory of `jaxtok train` with config.json, "
            f"or one of {', '.join(shipped())})"
        )
    return from_json(file.read_text())


def from_json(text: str) -> dict[str, Any]:
    """A config that was saved as JSON, with tuples where JSON has lists, so that modules built from it hash."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tuples(item) for key, item in value.items()}
        return tuple(tuples(item) for item in value) if isinstance(value, list) else value

    return tuples(json.loads(text))
