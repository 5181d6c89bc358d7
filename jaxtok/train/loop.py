"""The training loop: one, for every system; what is trained is the config's business.

``train(config, workdir)`` starts a run or resumes it, and returns the state for notebooks.
"""

import contextlib
import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from jaxtok.files import write_whole
from jaxtok.train import evaluate as evaluating
from jaxtok.train import interrupt, manifest, processes, settings, sharding
from jaxtok.train import players as playing
from jaxtok.train.checkpoint import Checkpoints, newest, restore
from jaxtok.train.errors import TrainingError
from jaxtok.train.lock import Lock
from jaxtok.train.profile import Window
from jaxtok.train.program import Program, make_program, make_task
from jaxtok.train.progress import Progress, Signal
from jaxtok.train.source import source_of
from jaxtok.train.state import TrainState, Tree, count, fingerprint
from jaxtok.train.step import keys
from jaxtok.train.writer import Writer

log = logging.getLogger("jaxtok")
STOPPED = {1: "SIGTERM", 2: "another process took the workdir over", 3: "a checkpoint could not be written"}
Callback = Callable[[int, TrainState, Mapping[str, jax.Array], Writer], None]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a call of ``train`` leaves.

    Attributes:
      state: on the mesh; ``state.ema or state.params`` are the parameters to use.
      frozen: the task's frozen arrays.
      step: steps done.
      metrics: the last line of metrics of this call; empty when no step was run.
      evaluation: the last means on the validation split; empty when there were none.
      reason: "done", "stop_after" or "SIGTERM".
    """

    state: TrainState
    frozen: Tree
    step: int
    metrics: Mapping[str, float]
    evaluation: Mapping[str, float]
    reason: str


def train(config: Any, workdir: epath.PathLike, *, stop_after: int = 0, callbacks: Sequence[Callback] = ()) -> Result:
    """Trains, or resumes where the last checkpoint in ``workdir`` ends.

    Args:
      config: with ``model``, ``task``, ``data``, ``train`` and ``seed``; a ConfigDict or nested dicts.
      workdir: local or ``gs://``; made if missing.
      stop_after: leave (with a checkpoint) after so many steps of this call; 0 goes on to ``train.steps``.
      callbacks: called after each step with (step, state, metrics on device, writer); the state's arrays are given
        to the next step, so copy what you keep.

    Raises:
      ValueError: for a bad config or data, in one sentence, before anything is compiled.
      TrainingError: when the loss is not finite, the workdir is in use or cannot be written, or no checkpoint is whole.
    """
    # ---- Build what the config names: most mistakes show here, before a second is spent compiling.
    config = settings.resolve(config)
    plan, workdir = config["train"], epath.Path(workdir)
    mesh = sharding.make_mesh(plan["mesh"])
    settings.check_rows(plan, mesh.shape["data"] * mesh.shape["fsdp"], jax.process_count())
    playing.from_config(plan["players"])
    task = make_task(config, mesh)
    source = source_of(config["data"])

    with contextlib.ExitStack() as cleanup:
        # ---- Claim the workdir: one writer, one config, nothing half-written.
        lock = _claim(workdir, config, cleanup)
        asked = cleanup.enter_context(interrupt.sigterm())

        # ---- Data and state. The first batch shapes the model; it is also the first to be trained on, unless we
        # resume. State and batches lie on the mesh from the start: one that moved there later would compile twice.
        stream = source.training(batch_size=plan["batch_size"], seed=config["seed"], **_share())
        batch = sharding.put_batch(mesh, _next(stream, 0))
        program = make_program(config, task, mesh, batch)
        begin, state, frozen, marks = _begin(workdir, program, mesh, stream, batch)
        batch = batch if begin == 0 else None
        evaluate_fn = evaluating.make_evaluate(task, mesh, keys(config["seed"]).evaluate)
        log.info("%d parameters on %s, from step %d", count(state.params), dict(mesh.shape), begin)

        # ---- What watches.
        writer = Writer(workdir, step=begin, active=processes.is_first())
        cleanup.callback(writer.close)
        checkpoints = Checkpoints(workdir, keep_last=plan["keep_last"], keep_best=plan["keep_best"])
        cleanup.callback(checkpoints.join)
        progress = Progress(
            writer, plan, step=begin, mesh=mesh, show=processes.is_first(), warnings=getattr(task, "warnings", None)
        )
        cleanup.callback(progress.close)
        trace = Window(plan["profile"], workdir)
        cleanup.callback(trace.close)
        codes = {code: sharding.flags(mesh, code) for code in (0, *STOPPED)}

        # ---- Loop: batch, step, callbacks, evaluate, checkpoint; this order is part of what a checkpoint means.
        end = min(plan["steps"], begin + stop_after) if stop_after else plan["steps"]
        step, saved, reason, evaluation, step_fn = begin, begin, "", {}, program.at(begin)
        while step < end and not reason:
            if batch is None:
                batch = sharding.put_batch(mesh, _next(stream, step))
            code = asked.code or (2 if lock.lost else 0) or (3 if checkpoints.failure else 0)
            trace.before(step)
            if step_fn is not program.at(step):
                step_fn = program.at(step)
                _check(progress.drain(), checkpoints)  # so that its compilation is not timed
            cost = progress.cost(step_fn, state, frozen, batch, codes[0])
            with jax.transfer_guard("disallow"):  # whatever moves between host and device here is a mistake
                state, out = step_fn(state, frozen, batch, codes[code])
            step, batch = step + 1, None
            signal = progress.push(step, out, cost)
            for callback in callbacks:
                callback(step, state, out, writer)

            # Every process reads the same signal of the same step, so all of them stop here or none does.
            _check(signal, checkpoints)
            reason = STOPPED.get(signal.stop, "")
            save = _due(plan["checkpoint_every"], step) or step == end or reason == STOPPED[1]
            weigh = _due(plan["evaluate_every"], step) or (plan["evaluate_every"] > 0 and step == plan["steps"])
            weigh = not reason and (weigh or (save and plan["keep_best"] != ""))
            if weigh:
                _check(progress.drain(), checkpoints)
                evaluation = evaluating.run(evaluate_fn, mesh, state, frozen, _held_out(source, plan))
                settings.check_best(plan, evaluation)
                writer.write(step, {f"evaluate/{name}": value for name, value in evaluation.items()})
            if save:
                _check(progress.drain(), checkpoints)  # a bad state is never written
                about = {"config": json.loads(settings.to_json(config)), "frozen": marks}
                position = {"states": processes.everyone(stream.get_state())}
                checkpoints.save(step, state, data=position, meta=about, metrics=evaluation if weigh else {})
                writer.flush()
                saved = step

        # ---- Leave: everything written, everything named.
        checkpoints.wait()
        processes.barrier("the end of training")
        if reason and reason != STOPPED[1]:
            raise TrainingError(f"training stopped at step {step}: {reason}")
        if reason:
            log.warning("SIGTERM: saved step %d and stopped", saved)
        reason = reason or ("done" if step >= plan["steps"] else "stop_after")
        return Result(state, frozen, step, progress.metrics, evaluation, reason)


def _begin(
    workdir: epath.Path, program: Program, mesh: Mesh, stream: Any, batch: Mapping[str, jax.Array]
) -> tuple[int, TrainState, Tree, dict[str, int]]:
    """Restores the newest whole checkpoint, or makes the state; gives (steps done, state, frozen, fingerprints)."""
    begin = processes.first(lambda: newest(workdir))
    if begin < 0:
        state, frozen = program.init(batch)
        return 0, state, frozen, fingerprint(frozen)
    state, position, meta = restore(workdir, begin, program.like[0])
    state = dataclasses.replace(
        state, step=sharding.place(mesh, np.int32(begin)), bad=sharding.place(mesh, np.int32(-1))
    )
    frozen = program.frozen(batch) if jax.tree.leaves(program.like[1]) else {}
    marks = fingerprint(frozen)
    for path in sorted(meta["frozen"].keys() | marks.keys()):
        if meta["frozen"].get(path) != marks.get(path):
            raise ValueError(f"the frozen weights {path!r} are not those that the run in {workdir} began with")
    _set_position(stream, position["states"])
    return begin, state, frozen, marks


def _set_position(stream: Any, states: Sequence[Any]) -> None:
    """Brings the data to a saved position: each process's own, or the one that all had."""
    same = all(state == states[0] for state in states)
    if not same and len(states) != jax.process_count():
        raise ValueError(f"the checkpoint holds the data of {len(states)} processes, found {jax.process_count()}")
    stream.set_state(states[0] if same else states[jax.process_index()])


def _share() -> dict[str, int]:
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def _claim(workdir: epath.Path, config: Mapping[str, Any], cleanup: contextlib.ExitStack) -> Any:
    """Makes and locks the workdir, refuses another run's, saves the config, clears what a killed process left."""
    held: list[Lock] = []

    def claim():
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            held.append(Lock(workdir))
            cleanup.callback(held[0].release)
            path, text = workdir / "config.json", settings.to_json(config)
            if manifest.steps(workdir) and path.exists():
                settings.check_same(json.loads(path.read_text()), json.loads(text), str(workdir))
            write_whole(path, text)
            manifest.clean(workdir)
        except OSError as error:
            raise TrainingError(f"workdir {workdir} cannot be written ({error})") from error

    processes.first(claim)
    return held[0] if held else _Follower()


class _Follower:
    """The lock of a process that is not the first: the first holds it for all."""

    lost = False


def _next(stream: Any, step: int) -> Mapping[str, np.ndarray]:
    try:
        return next(stream)
    except StopIteration:
        raise ValueError(f"the training data ended at step {step}: it must repeat without end") from None


def _held_out(source: Any, plan: Mapping[str, Any]) -> Iterable[Mapping[str, np.ndarray]]:
    size, batches = plan["batch_size"] // plan["accumulate"], plan["evaluate_batches"]
    found = source.evaluation(split="validation", batch_size=size, limit=size * batches, **_share())
    return itertools.islice(found, batches) if batches else found


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _check(signal: Signal, checkpoints: Checkpoints) -> None:
    """Stops at a loss that is not finite.

    Raises:
      TrainingError: naming the step and the last good checkpoint.
    """
    if signal.bad < 0:
        return
    checkpoints.join()  # the one that is being written is from before
    workdir = checkpoints.workdir
    good = max(manifest.steps(workdir), default=-1)
    safe = f"the last good checkpoint is step {good} in {workdir}" if good >= 0 else f"{workdir} has no checkpoint yet"
    raise TrainingError(f"the loss or its gradient is not finite at step {signal.bad + 1}: {safe}")
