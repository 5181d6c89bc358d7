"""The programs of a run and where their arrays lie, from shapes alone.

The loop runs them; a compiler report lowers them for machines that are not there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from jaxtok.build import build
from jaxtok.train import activations, compiler, sharding
from jaxtok.train import players as playing
from jaxtok.train.players import Player
from jaxtok.train.state import TrainState, Tree
from jaxtok.train.step import keys, make_init, make_step


@dataclasses.dataclass(frozen=True)
class Program:
    """Jitted functions of one run on one mesh.

    Attributes:
      players: with their paths.
      init: ``batch -> (state, frozen)``.
      frozen: ``batch -> frozen`` alone, for a run that is resumed.
      steps: ``(state, frozen, batch, stop) -> (state, out)``, which consume their state, each with the number of the
        step from which it is the one to call, ascending: before the last of them, losses of late players are left out.
      like: shapes, dtypes and shardings of (state, frozen).
      stop: the shape, dtype and sharding of ``stop``.
    """

    players: tuple[Player, ...]
    init: Callable[..., tuple[TrainState, Tree]]
    frozen: Callable[..., Tree]
    steps: tuple[tuple[int, Any], ...]
    like: tuple[TrainState, Tree]
    stop: jax.ShapeDtypeStruct

    @property
    def step(self) -> Any:
        """The step function from when all players have begun."""
        return self.steps[-1][1]

    def at(self, step: int) -> Any:
        """The step function of step number ``step``."""
        return next(fn for begin, fn in reversed(self.steps) if begin <= step)


def make_task(config: Mapping[str, Any], mesh: Mesh) -> Any:
    """The config's task, with activations that stay where their rows are; what is run is also what is reported on."""
    return activations.by_rows(build(config["task"], model=build(config["model"])), mesh)


def make_program(config: Mapping[str, Any], task: Any, mesh: Mesh, batch: Mapping[str, Any]) -> Program:
    """Traces ``task.init`` for its shapes, gives parameters to players, and decides where each array lies.

    Args:
      config: resolved (``settings.resolve``).
      task: as built from the config.
      mesh: of present or described devices.
      batch: global arrays or ``jax.ShapeDtypeStruct``.

    Raises:
      ValueError: when a parameter has no player, two, or a sharding rule does not fit.
    """
    plan, seed = config["train"], config["seed"]
    if plan["accumulate"] > 1 and not getattr(task, "accumulable", True):
        raise ValueError(
            f"config key 'train.accumulate': this task's batch statistics need 1, found {plan['accumulate']}"
        )
    shapes = jax.eval_shape(lambda b: task.init(keys(seed).init, b), dict(batch))
    players = playing.assign(playing.from_config(plan["players"]), shapes[0], plan["frozen"])
    init = make_init(task, players, seed=seed, ema=plan["ema"])
    abstract = jax.eval_shape(init, dict(batch))
    places = (
        sharding.state_shardings(mesh, abstract[0], plan["sharding"]),
        sharding.tree_shardings(mesh, abstract[1]),
    )

    def step(task: Any) -> Any:
        fn = make_step(
            task, players, seed=seed, accumulate=plan["accumulate"], ema=plan["ema"],
            micro=sharding.rows(mesh, before=1),
        )  # fmt: skip
        return jax.jit(
            fn,
            donate_argnums=0,
            out_shardings=(places[0], sharding.replicated(mesh)),
            compiler_options=compiler.options(mesh),
        )

    # Players that start late cost nothing before, where the task can leave them out.
    without = getattr(task, "without", None)
    begins = sorted({0, *(player.start for player in players)}) if without else [0]
    waiting = [frozenset(player.name for player in players if player.start > begin) for begin in begins]
    steps = [step(without(late) if without and late else task) for late in waiting]
    return Program(
        players=players,
        init=jax.jit(init, out_shardings=places),
        frozen=jax.jit(lambda b: init(b)[1], out_shardings=places[1]),
        steps=tuple(zip(begins, steps)),
        like=jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, places),
        stop=sharding.flags_like(mesh),
    )
