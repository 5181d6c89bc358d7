"""Players: named optimizers over parts of the parameters, each with its own time.

Config of one: ``dict(pattern=".*", start=0, stop=0, period=1, clip=0.5, optimizer=dict(target=..., schedule=...))``.
It moves at steps ``start``, ``start + period``, ... below ``stop`` (0: without end); at all other steps neither its
parameters nor its moments change by a bit, and its schedule does not advance. Until the last player has begun, a task
with ``without(players)`` is trained as the task that this returns for those still waiting, so that their losses cost
nothing: a second program, compiled when the first is done.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxtok.build import build
from jaxtok.train.schedules import Schedule
from jaxtok.train.state import Tree, flatten, unflatten

FIELDS = ("pattern", "start", "stop", "period", "clip", "optimizer")


@dataclasses.dataclass(frozen=True)
class Player:
    """An optimizer over a set of parameter paths."""

    name: str
    pattern: str
    transform: optax.GradientTransformation
    schedule: Schedule
    start: int = 0
    stop: int = 0
    period: int = 1
    paths: tuple[str, ...] = ()

    def active(self, step: jax.Array) -> jax.Array:
        """Boolean scalar: does it move at this step."""
        on = (step >= self.start) & ((step - self.start) % self.period == 0)
        return on & (step < self.stop) if self.stop else on

    def moves(self, step: jax.Array) -> jax.Array:
        """int32 scalar: how often it has moved before this step, which is its schedule's time."""
        end = jnp.minimum(step, self.stop) if self.stop else step
        return (jnp.maximum(end - self.start, 0) + self.period - 1) // self.period

    def rate(self, step: jax.Array) -> jax.Array:
        """float32 scalar: the learning rate of this step."""
        return jnp.asarray(self.schedule(self.moves(step)), jnp.float32)

    def take(self, tree: Tree) -> Tree:
        """Its part of a tree shaped like the parameters, as nested dicts."""
        leaves = flatten(tree)
        return unflatten({path: leaves[path] for path in self.paths})


def from_config(config: Mapping[str, Any]) -> tuple[Player, ...]:
    """Builds ``config.train.players``; paths are assigned later, by ``assign``.

    Raises:
      ValueError: for a field that does not exist or has no sense, in one sentence.
    """
    if not config:
        raise ValueError("config key 'train.players' is empty: expected at least one player")
    return tuple(_player(name, config[name]) for name in config)


def _player(name: str, spec: Mapping[str, Any]) -> Player:
    key = f"train.players.{name}"
    unknown = [field for field in spec if field not in FIELDS]
    if unknown:
        raise ValueError(f"config key '{key}.{unknown[0]}' does not exist: a player has {', '.join(FIELDS)}")
    if "optimizer" not in spec or "target" not in spec["optimizer"] or "schedule" not in spec["optimizer"]:
        raise ValueError(f"config key '{key}.optimizer' must be a dict(target=..., schedule=dict(target=...), ...)")
    pattern = spec.get("pattern", ".*")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"config key '{key}.pattern': {pattern!r} is no regular expression ({error})") from error
    start, stop, period = int(spec.get("start", 0)), int(spec.get("stop", 0)), int(spec.get("period", 1))
    if start < 0 or period < 1 or (stop and stop <= start):
        raise ValueError(
            f"config key '{key}': expected start >= 0, period >= 1 and stop 0 or above start, "
            f"found start={start}, period={period}, stop={stop}"
        )
    clip = float(spec.get("clip", 0.0))
    if not clip >= 0:
        raise ValueError(f"config key '{key}.clip' must be a norm, or 0 for none, found {clip}")
    schedule = build(spec["optimizer"]["schedule"])
    transform = build(spec["optimizer"], schedule=schedule)
    if clip:
        transform = optax.chain(optax.clip_by_global_norm(clip), transform)
    return Player(name, pattern, transform, schedule, start, stop, period)


def assign(players: Sequence[Player], params: Tree, frozen: Sequence[str] = ()) -> tuple[Player, ...]:
    """Gives each player the paths that its pattern fullmatches.

    Args:
      players: as from ``from_config``.
      params: the parameters (arrays or shapes).
      frozen: patterns of parameters that nobody moves.

    Raises:
      ValueError: when a parameter belongs to two players, to none, or a player to no parameter.
    """
    owner: dict[str, str] = {}
    for path in flatten(params):
        names = [player.name for player in players if re.fullmatch(player.pattern, path)]
        if any(re.fullmatch(pattern, path) for pattern in frozen):
            names.append("frozen")
        if len(names) != 1:
            said = f"belongs to {' and '.join(names)}" if names else "belongs to no player and is not in train.frozen"
            raise ValueError(f"parameter {path!r} {said}: each parameter needs exactly one entry of train.players")
        owner[path] = names[0]
    assigned = []
    for player in players:
        paths = tuple(path for path, name in owner.items() if name == player.name)
        if not paths:
            raise ValueError(
                f"config key 'train.players.{player.name}.pattern': {player.pattern!r} matches no parameter; "
                f"one is {next(iter(owner), 'missing: there are none')!r}"
            )
        assigned.append(dataclasses.replace(player, paths=paths))
    return tuple(assigned)


def init(players: Sequence[Player], params: Tree) -> dict[str, Tree]:
    """Optimizer state by player."""
    return {player.name: player.transform.init(player.take(params)) for player in players}


def update(
    players: Sequence[Player], params: Tree, opt: Mapping[str, Tree], grads: Tree, step: jax.Array, ok: jax.Array
) -> tuple[Tree, dict[str, Tree]]:
    """Moves every active player at once; where ``ok`` is false nothing moves.

    The choice is ``where`` and not ``cond``: it fuses into the element-wise update and keeps the sharding.
    """
    leaves, moved = flatten(params), dict(opt)
    for player in players:
        mine = player.take(params)
        updates, after = player.transform.update(player.take(grads), opt[player.name], mine)
        go = ok & player.active(step)
        leaves |= flatten(select(go, optax.apply_updates(mine, updates), mine))
        moved[player.name] = select(go, after, opt[player.name])
    return jax.tree.unflatten(jax.tree.structure(params), list(leaves.values())), moved


def select(go: jax.Array, new: Tree, old: Tree) -> Tree:
    """``new`` where the scalar ``go`` holds, else ``old``."""
    return jax.tree.map(lambda a, b: jnp.where(go, a, b), new, old)
