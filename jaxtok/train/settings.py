"""The ``train`` part of a config: its defaults, its checks, and what may differ when a run is resumed."""

import json
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

DEFAULTS: dict[str, Any] = {
    "steps": 0,
    "batch_size": 0,
    "accumulate": 1,
    "ema": 0.0,
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
    "sharding": (),
    "players": {},
    "frozen": (),
    "log_every": 10,
    "evaluate_every": 0,
    "evaluate_batches": 4,
    "checkpoint_every": 0,
    "keep_last": 2,
    "keep_best": "",
    "profile": (0, 0),
}

# What changes neither the state's shape nor the meaning of a step may differ between a run and its resumption.
FREE = re.compile(
    r"train\.(steps|log_every|evaluate_every|evaluate_batches|checkpoint_every|keep_last|keep_best|profile)"
    r"|train\.(mesh|sharding)(\..*)?|(after|sampling|vocoder|slug|variant)(\..*)?"
)


def resolve(config: Any) -> dict[str, Any]:
    """The config as plain dicts, references resolved and the defaults of ``train`` filled in.

    Raises:
      ValueError: for a missing section, an unknown key of ``train``, or a value without sense.
    """
    if isinstance(config, ml_collections.ConfigDict):
        config = config.copy_and_resolve_references().to_dict()
    plain = dict(config)
    for section in ("model", "task", "data", "train"):
        if section not in plain:
            raise ValueError(f"config key {section!r} is missing")
    train = dict(plain["train"])
    unknown = [key for key in train if key not in DEFAULTS]
    if unknown:
        raise ValueError(f"config key 'train.{unknown[0]}' does not exist: train has {', '.join(DEFAULTS)}")
    plain["train"] = DEFAULTS | train
    plain.setdefault("seed", 0)
    _check(plain["train"])
    return plain


def _check(train: Mapping[str, Any]) -> None:
    for key in ("steps", "batch_size", "accumulate", "log_every", "keep_last"):
        if not _whole(train[key]) or train[key] < 1:
            raise ValueError(f"config key 'train.{key}' must be a whole number of at least 1, found {train[key]!r}")
    for key in ("evaluate_every", "evaluate_batches", "checkpoint_every"):
        if not _whole(train[key]) or train[key] < 0:
            raise ValueError(f"config key 'train.{key}' must be a whole number, 0 for never, found {train[key]!r}")
    if train["batch_size"] % train["accumulate"]:
        raise ValueError(
            f"config key 'train.accumulate': batch_size={train['batch_size']} does not divide by {train['accumulate']}"
        )
    if not 0 <= train["ema"] < 1:
        raise ValueError(f"config key 'train.ema' must be in [0, 1), 0 for none, found {train['ema']!r}")
    profile = tuple(train["profile"])
    if len(profile) != 2 or not 0 <= profile[0] <= profile[1]:
        raise ValueError(f"config key 'train.profile' must be (first step, last step), found {train['profile']!r}")
    for rule in train["sharding"]:
        if len(rule) != 2 or not isinstance(rule[0], str) or isinstance(rule[1], str):
            raise ValueError(f"config key 'train.sharding': expected (pattern, (axis, ...)), found {rule!r}")


def check_rows(train: Mapping[str, Any], parts: int, processes: int) -> None:
    """Refuses a batch that does not divide over the mesh and the processes.

    Args:
      train: the resolved section.
      parts: devices over which rows are divided, data * fsdp.
      processes: of the run.

    Raises:
      ValueError: naming the batch size and what it must be a multiple of.
    """
    size, accumulate = train["batch_size"], train["accumulate"]
    if size % (accumulate * parts) or size % processes:
        raise ValueError(
            f"config key 'train.batch_size': {size} must be a multiple of accumulate * data * fsdp = "
            f"{accumulate} * {parts} and of the {processes} processes"
        )
    if train["keep_best"] and not train["evaluate_every"]:
        raise ValueError(f"config key 'train.keep_best': {train['keep_best']!r} needs train.evaluate_every above 0")


def check_best(train: Mapping[str, Any], evaluation: Mapping[str, float]) -> None:
    """Refuses a ``keep_best`` that the evaluation does not give.

    Raises:
      ValueError: naming what it gives.
    """
    if train["keep_best"] and train["keep_best"] not in evaluation:
        found = ", ".join(evaluation)
        raise ValueError(f"config key 'train.keep_best': {train['keep_best']!r} is not evaluated; there is {found}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def to_json(config: Mapping[str, Any]) -> str:
    """The resolved config as text.

    Raises:
      ValueError: for a value that JSON does not have; the key is named.
    """
    for key, value in leaves(config).items():
        if not isinstance(value, (str, int, float, bool)) and value != [] and value != {}:
            raise ValueError(
                f"config key {key!r}: {type(value).__name__} cannot be saved, expected text, numbers, tuples"
            )
    return json.dumps(config, indent=1, default=list)


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Values by dotted key; tuples and lists are alike, as JSON has them."""
    if isinstance(config, Mapping):
        pairs = [(str(key), value) for key, value in config.items()]
    elif isinstance(config, (tuple, list)):
        pairs = [(str(i), value) for i, value in enumerate(config)]
    else:
        return {prefix: config}
    if not pairs:
        return {prefix: [] if isinstance(config, (tuple, list)) else {}}
    found: dict[str, Any] = {}
    for key, value in pairs:
        found |= leaves(value, f"{prefix}.{key}" if prefix else key)
    return found


def check_same(saved: Mapping[str, Any], config: Mapping[str, Any], where: str) -> None:
    """Refuses to resume a run under another config, unless only free keys differ.

    Raises:
      ValueError: naming the first key that differs.
    """
    old, new = leaves(saved), leaves(config)
    for key in sorted(old.keys() | new.keys()):
        if FREE.fullmatch(key) or old.get(key) == new.get(key):
            continue
        was, now = (repr(d[key]) if key in d else "absent" for d in (old, new))
        raise ValueError(
            f"{where} holds a run with another config: {key} was {was} and is now {now}; "
            "take another workdir, or the old value to resume"
        )
