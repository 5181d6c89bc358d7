"""The loop on the toy game: semantics, equality, resumption, refusals."""

import json

import jax
import numpy as np
import pytest
import toy_game

from jaxtok.build import build
from jaxtok.train import flops, manifest, settings, sharding
from jaxtok.train.checkpoint import best, load_item, load_params
from jaxtok.train.errors import TrainingError
from jaxtok.train.loop import train
from jaxtok.train.program import make_program
from jaxtok.train.state import flatten
from jaxtok.train.writer import read_lines


def losses(workdir):
    return np.array([line["loss"] for line in read_lines(workdir / "metrics.jsonl") if "loss" in line])


def copies():
    """A callback that keeps each step's state, and the dict that it fills."""
    kept = {}

    def keep(step, state, *_):
        kept[step] = jax.tree.map(np.array, {"params": state.params, "opt": state.opt, "ema": state.ema})

    return keep, kept


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_players_move_at_their_time_and_only_then(tmp_path):
    keep, kept = copies()
    toy_game.TRACES.clear()
    result = train(toy_game.config(steps=9, checkpoint_every=0), tmp_path, callbacks=[keep])
    assert result.reason == "done" and result.step == int(result.state.step) == 9
    assert len(toy_game.TRACES) == 1  # traced once: for the FLOPs, the compilation and all steps

    for step in range(2, 10):
        before, after = kept[step - 1], kept[step]
        moves = step - 1 in (3, 5, 7)  # start=3, period=2; step s leads from s - 1 to s
        for item in ("params", "opt"):
            assert same(before[item]["discriminator"], after[item]["discriminator"]) != moves
            assert not same(before[item]["generator"], after[item]["generator"])
    # Three moves, so that its Adam counted to three, while the generator's counted nine.
    counts = {name: max(int(x) for x in jax.tree.leaves(opt) if x.ndim == 0) for name, opt in kept[9]["opt"].items()}
    assert counts == {"generator": 9, "discriminator": 3}

    expected = (
        0.9 * kept[8]["ema"]["generator"]["down"]["kernel"] + 0.1 * kept[9]["params"]["generator"]["down"]["kernel"]
    )
    np.testing.assert_allclose(kept[9]["ema"]["generator"]["down"]["kernel"], expected, rtol=1e-5)
    assert int(result.state.state["count"]) == 9
    assert losses(tmp_path).shape == (9,)


def test_staged_freezing_and_frozen_parameters(tmp_path):
    players = dict(
        first=toy_game.player("generator/up/.*", stop=3), second=toy_game.player("generator/down/.*", start=3)
    )
    keep, kept = copies()
    plan = dict(players=players, frozen=("discriminator/.*",), steps=6, checkpoint_every=0)
    train(toy_game.config(**plan), tmp_path, callbacks=[keep])
    moved = [
        {part for part in ("up", "down") if not same(a["params"]["generator"][part], b["params"]["generator"][part])}
        for a, b in ((kept[step], kept[step + 1]) for step in range(1, 6))
    ]
    assert moved == [{"up"}, {"up"}, {"down"}, {"down"}, {"down"}]
    assert same(kept[1]["params"]["discriminator"], kept[6]["params"]["discriminator"])


def test_losses_are_equal_on_one_two_and_eight_devices(tmp_path):
    train(toy_game.config(steps=6, checkpoint_every=0), tmp_path / "one")
    up, down = (r".*/up/kernel", ("", "tensor")), (r".*/down/kernel", ("tensor",))
    meshes = {
        "two": (dict(data=2, fsdp=1, tensor=1), ()),
        "data": (dict(data=-1, fsdp=1, tensor=1), ()),
        "fsdp": (dict(data=2, fsdp=4, tensor=1), ((r".*/kernel", ("fsdp", "")),)),
        "tensor": (dict(data=2, fsdp=2, tensor=2), (up, down)),
    }
    for name, (mesh, rules) in meshes.items():
        result = train(toy_game.config(steps=6, checkpoint_every=0, mesh=mesh, sharding=rules), tmp_path / name)
        np.testing.assert_allclose(losses(tmp_path / name), losses(tmp_path / "one"), atol=1e-5)
        kernel = result.state.params["generator"]["up"]["kernel"]
        divided = {"fsdp": (2, 8), "tensor": (8, 4)}.get(name, (8, 8))
        assert kernel.sharding.shard_shape(kernel.shape) == divided
        moments = [x for path, x in flatten(result.state.opt).items() if path.endswith("generator/up/kernel")]
        assert [x.sharding.shard_shape(x.shape) for x in moments] == [divided] * 2


def test_a_checkpoint_restores_onto_another_mesh(tmp_path):
    train(toy_game.config(steps=8), tmp_path / "whole")
    train(toy_game.config(steps=4), tmp_path / "moved")
    train(
        toy_game.config(steps=6, mesh=dict(data=2, fsdp=4), sharding=((r".*/kernel", ("fsdp", "")),)),
        tmp_path / "moved",
    )
    train(toy_game.config(steps=8, mesh=dict(data=4, fsdp=1)), tmp_path / "moved")
    np.testing.assert_allclose(losses(tmp_path / "moved"), losses(tmp_path / "whole"), atol=1e-5)


def test_accumulation_equals_the_big_batch(tmp_path):
    task = dict(running=False)  # a running mean that is updated four times a step is another one
    train(toy_game.config(task, steps=5, checkpoint_every=0), tmp_path / "big")
    train(toy_game.config(task, steps=5, checkpoint_every=0, accumulate=4), tmp_path / "small")
    np.testing.assert_allclose(losses(tmp_path / "small"), losses(tmp_path / "big"), atol=1e-6)
    mesh = dict(data=4, fsdp=1)
    train(toy_game.config(task, steps=5, checkpoint_every=0, accumulate=4, mesh=mesh), tmp_path / "both")
    np.testing.assert_allclose(losses(tmp_path / "both"), losses(tmp_path / "big"), atol=1e-5)


def test_resuming_is_bit_equal_and_the_metrics_have_each_step_once(tmp_path):
    train(toy_game.config(steps=11), tmp_path / "whole")
    first = train(toy_game.config(steps=11), tmp_path / "parts", stop_after=5)
    assert (first.step, first.reason) == (5, "stop_after")
    with open(tmp_path / "parts" / "metrics.jsonl", "a") as file:  # steps that a killed process logged but never saved
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')
    second = train(toy_game.config(steps=11), tmp_path / "parts")
    assert np.array_equal(losses(tmp_path / "parts"), losses(tmp_path / "whole"))
    assert [line["step"] for line in read_lines(tmp_path / "parts" / "metrics.jsonl")] == list(range(1, 12))
    for item in ("params", "ema", "opt", "state"):
        assert same(*(jax.tree.map(np.asarray, load_item(tmp_path / name, item)) for name in ("whole", "parts")))

    again = train(toy_game.config(steps=11), tmp_path / "parts")  # nothing left to do
    assert (again.step, again.reason) == (11, "done")
    assert same(jax.tree.map(np.asarray, again.state.params), jax.tree.map(np.asarray, second.state.params))
    assert same(jax.tree.map(np.asarray, load_params(tmp_path / "parts")), jax.tree.map(np.asarray, second.state.ema))


def test_muon_resumes_and_learns(tmp_path):
    schedule = dict(target="jaxtok.train.schedules:constant", value=0.02)
    players = {"all": dict(optimizer=dict(target="jaxtok.train.optimizers:muon", schedule=schedule))}
    task = dict(adversarial=0.0)
    train(toy_game.config(task, steps=20, players=players), tmp_path / "whole")
    train(toy_game.config(task, steps=20, players=players), tmp_path / "parts", stop_after=9)
    train(toy_game.config(task, steps=20, players=players), tmp_path / "parts")
    curve = losses(tmp_path / "whole")
    assert np.array_equal(curve, losses(tmp_path / "parts")) and curve[-1] < 0.8 * curve[0]


def test_the_programs_compile_from_shapes_alone():
    """As for a machine that is not there: nothing is put on a device."""
    config = settings.resolve(toy_game.config(mesh=dict(data=2, fsdp=4), sharding=((r".*/kernel", ("fsdp",)),)))
    mesh = sharding.make_mesh(config["train"]["mesh"])
    rows = sharding.rows(mesh)
    batch = {
        "x": jax.ShapeDtypeStruct((16, 8), np.float32, sharding=rows),
        "index": jax.ShapeDtypeStruct((16,), np.int32, sharding=rows),
    }
    task = build(config["task"], model=build(config["model"]))
    program = make_program(config, task, mesh, batch)
    compiled = program.step.lower(*program.like, batch, program.stop).compile()
    assert compiled.memory_analysis().argument_size_in_bytes > 0
    assert "reduce-scatter" in compiled.as_text() or "all-reduce" in compiled.as_text()
    # Forward and twice backward (once into the parameters, once into the input where it matters), exactly counted.
    assert flops.of(program.step, *program.like, batch, program.stop) > 2 * 3 * 16 * (8 * 8 + 8 * 8)


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(tmp_path):
    keep, kept = copies()
    with pytest.raises(TrainingError, match=r"not finite at step 7: the last good checkpoint is step 4 in "):
        train(toy_game.config(dict(nan_at=6), steps=20), tmp_path, callbacks=[keep])
    assert manifest.steps(tmp_path) == [4]
    assert same(kept[6]["params"], kept[max(kept)]["params"]) and max(kept) > 6  # later steps moved nothing
    with pytest.raises(TrainingError, match="has no checkpoint yet"):
        train(toy_game.config(dict(nan_at=3), steps=4), tmp_path / "early")
    assert manifest.steps(tmp_path / "early") == []


def test_evaluation_keeps_the_best(tmp_path):
    plan = dict(steps=16, checkpoint_every=2, evaluate_every=2, keep_best="error", keep_last=1, evaluate_batches=2)
    result = train(toy_game.config(**plan), tmp_path)
    errors = {x["step"]: x["evaluate/error"] for x in read_lines(tmp_path / "metrics.jsonl") if "evaluate/error" in x}
    assert sorted(errors) == list(range(2, 17, 2))
    winner = min(errors, key=errors.get)
    assert best(tmp_path, "error") == winner and manifest.steps(tmp_path) == sorted({winner, 16})
    # The mean over 20 held-out rows: the 12 rows of padding in the second batch do not count.
    data, task = toy_game.Numbers(), toy_game.Game(toy_game.Net())
    x = np.stack([data._row(i, 2)["x"] for i in range(20)])
    mean = np.mean(task.evaluate(result.state.ema, {}, {"x": x}, None, frozen=result.frozen)["error"])
    np.testing.assert_allclose(result.evaluation["error"], mean, rtol=1e-5)

    with pytest.raises(ValueError, match="'nothing' is not evaluated; there is error"):
        train(toy_game.config(steps=2, evaluate_every=2, keep_best="nothing"), tmp_path / "other")


def test_the_workdir_holds_what_was_run(tmp_path):
    result = train(toy_game.config(steps=3, profile=(1, 2)), tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["train"]["players"]["discriminator"]["period"] == 2 and saved["train"]["accumulate"] == 1
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert {"loss", "generator/rebuild", "discriminator/grad_norm", "examples_per_second"} <= result.metrics.keys()
    assert "mfu" not in result.metrics  # of a CPU the peak is not known
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


BAD = {
    "zero steps": (dict(steps=0), "'train.steps' must be a whole number of at least 1, found 0"),
    "unknown key": (dict(stepps=3), "'train.stepps' does not exist"),
    "no players": (dict(players={}), "'train.players' is empty"),
    "uneven batch": (dict(batch_size=6, mesh=dict(data=4)), "'train.batch_size': 6 must be a multiple"),
    "uneven parts": (dict(accumulate=3), "batch_size=16 does not divide by 3"),
    "too many devices": (dict(mesh=dict(data=16)), "needs 16 devices, found 8"),
    "unknown axis": (dict(mesh=dict(model=2)), "'train.mesh.model' does not exist"),
    "rule for nothing": (dict(sharding=(("nope", ("fsdp",)),)), "pattern 'nope' matches no parameter"),
    "rule too fine": (
        dict(mesh=dict(data=1, fsdp=3), batch_size=3, sharding=((".*/kernel", ("fsdp",)),)),
        "8 is no multiple of 3",
    ),
    "ema of one": (dict(ema=1.0), "'train.ema' must be in"),
    "best of nothing": (dict(keep_best="error", evaluate_every=0), "needs train.evaluate_every"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_config_is_one_sentence(case, tmp_path):
    fields, message = BAD[case]
    with pytest.raises(ValueError) as found:
        train(toy_game.config(**fields), tmp_path)
    assert message in str(found.value) and "\n" not in str(found.value)


def test_another_config_does_not_resume(tmp_path):
    train(toy_game.config(steps=2), tmp_path)
    other = toy_game.config(steps=3, log_every=2, keep_last=1) | {"sampling": {"steps": 7}}  # these are free
    assert train(other, tmp_path).step == 3 and "sampling" in (tmp_path / "config.json").read_text()
    players = toy_game.config()["train"]["players"]
    players["generator"]["optimizer"]["schedule"]["value"] = 0.5
    with pytest.raises(ValueError, match=r"train.players.generator.optimizer.schedule.value was 0.01 and is now 0.5"):
        train(toy_game.config(steps=4, players=players), tmp_path)
    with pytest.raises(ValueError, match=r"data.width was absent and is now 4"):
        train(toy_game.config(data=dict(width=4)), tmp_path)


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"workdir .*file/run cannot be written \(.*Not a directory"):
        train(toy_game.config(), tmp_path / "file" / "run")


def test_a_run_of_the_same_process_is_refused(tmp_path):
    def second(step, *_):
        train(toy_game.config(), tmp_path)

    with pytest.raises(TrainingError, match="in use by another training run of this process"):
        train(toy_game.config(), tmp_path, callbacks=[second])
    assert train(toy_game.config(steps=2), tmp_path).step == 2  # the lock was let go
