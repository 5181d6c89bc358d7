"""What `jaxtok compile` counts, and how it refuses."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy_stack

from jaxtok import recipes
from jaxtok.data.abstract import abstract_batch
from jaxtok.train import activations, ahead, collectives, hlo, roofline, settings, sharding, topology
from jaxtok.train.compile import report
from jaxtok.train.program import make_program

RECORDS = sorted((pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks").glob("compile_*.json"))

# As a TPU's compiler prints: no stated trip counts, asynchronous collectives repeated inside fusions, and a
# reduce-scatter written as an all-reduce in a fusion of that name.
TPU = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(256)} parameter(0)
  %y = f32[]{:T(256)} parameter(1)
  ROOT %sum = f32[]{:T(256)} add(%x, %y)
}

%all-reduce-scatter.1 (input: bf16[4,8,128]) -> bf16[1,8,128] {
  %input = bf16[4,8,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.1 = bf16[4,8,128]{2,1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %slice = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.1, %zero, %zero, %zero), dynamic_slice_sizes={1,8,128}
}

%start (p: f32[2,128]) -> (f32[2,128], f32[8,128]) {
  %p = f32[2,128]{1,0:T(2,128)} parameter(0)
  %all-gather.1 = f32[8,128]{1,0:T(8,128)} all-gather(%p), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  ROOT %begun = (f32[2,128]{1,0:T(2,128)}, f32[8,128]{1,0:T(8,128)}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%done (p.1: f32[2,128], q.1: f32[8,128]) -> f32[8,128] {
  %p.1 = f32[2,128]{1,0:T(2,128)} parameter(0)
  %q.1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %all-gather.2 = f32[8,128]{1,0:T(8,128)} all-gather(%p.1), channel_id=2, replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  ROOT %ended = f32[8,128]{1,0:T(8,128)} custom-call(%p.1, %q.1, %all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%inner.condition (s: (s32[], f32[2,128])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %s = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %less = pred[]{:T(512)} compare(%count, %three), direction=LT
}

%inner.body (t: (s32[], f32[2,128])) -> (s32[], f32[2,128]) {
  %t = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%t), index=0
  %v = f32[2,128]{1,0:T(2,128)} get-tuple-element(%t), index=1
  %moved = (f32[2,128]{1,0:T(2,128)}, f32[2,128]{1,0:T(2,128)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%v), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %w = f32[2,128]{1,0:T(2,128)} collective-permute-done(%moved)
  ROOT %next = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) tuple(%i, %w)
}

%outer.condition (s.2: (s32[], f32[2,128])) -> pred[] {
  %five = s32[]{:T(128)} constant(5)
  %s.2 = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) parameter(0)
  %count.2 = s32[]{:T(128)} get-tuple-element(%s.2), index=0
  ROOT %less.2 = pred[]{:T(512)} compare(%count.2, %five), direction=LT
}

%outer.body (t.2: (s32[], f32[2,128])) -> (s32[], f32[2,128]) {
  %t.2 = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) parameter(0)
  %v.2 = f32[2,128]{1,0:T(2,128)} get-tuple-element(%t.2), index=1
  %first = (f32[2,128]{1,0:T(2,128)}, f32[8,128]{1,0:T(8,128)}) fusion(%v.2), kind=kCustom, calls=%start
  %a = f32[2,128]{1,0:T(2,128)} get-tuple-element(%first), index=0
  %b = f32[8,128]{1,0:T(8,128)} get-tuple-element(%first), index=1
  %second = f32[8,128]{1,0:T(8,128)} fusion(%a, %b), kind=kCustom, calls=%done
  %i.2 = s32[]{:T(128)} get-tuple-element(%t.2), index=0
  %from.2 = s32[]{:T(128)} constant(1)
  %begin.2 = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) tuple(%from.2, %v.2)
  ROOT %loop.2 = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) while(%begin.2), condition=%inner.condition, body=%inner.body
}

ENTRY %main (x.0: f32[2,128], g.0: bf16[4,8,128]) -> (f32[2,128], bf16[1,8,128]) {
  %x.0 = f32[2,128]{1,0:T(2,128)} parameter(0)
  %g.0 = bf16[4,8,128]{2,1,0:T(8,128)(2,1)} parameter(1)
  %scattered = bf16[1,8,128]{2,1,0:T(8,128)(2,1)} fusion(%g.0), kind=kCustom, calls=%all-reduce-scatter.1
  %from = s32[]{:T(128)} constant(0)
  %begin = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) tuple(%from, %x.0)
  %loop = (s32[]{:T(128)}, f32[2,128]{1,0:T(2,128)}) while(%begin), condition=%outer.condition, body=%outer.body
  %y = f32[2,128]{1,0:T(2,128)} get-tuple-element(%loop), index=1
  ROOT %out = (f32[2,128]{1,0:T(2,128)}, bf16[1,8,128]{2,1,0:T(8,128)(2,1)}) tuple(%y, %scattered)
}
"""  # noqa: E501


def test_collectives_are_counted_once_and_times_their_loops():
    found = collectives.by_kind(collectives.of_module(hlo.parse(TPU), 8))
    assert found == {
        "all-gather": {"count": 5, "bytes": 5 * 4096, "sent": 5 * 4096 * 3 / 4},
        "reduce-scatter": {"count": 1, "bytes": 8192, "sent": 8192 * 3 / 4},
        "collective-permute": {"count": 5 * 2, "bytes": 10 * 1024, "sent": 10 * 1024},  # the inner loop starts from 1
    }
    top = collectives.largest(collectives.of_module(hlo.parse(TPU), 8), 1)
    assert [(one.kind, one.shape, one.group, one.times) for one in top] == [("all-gather", "f32[8,128]", 4, 5)]
    with pytest.raises(ValueError, match="ENTRY computation, found none"):
        hlo.parse("HloModule nothing")


def test_loops_of_a_compiled_program_are_followed():
    def program(x, weights):
        def layer(x, w):
            return jax.lax.fori_loop(0, 3, lambda _, y: jax.numpy.tanh(y @ w), x), None

        return jax.lax.scan(layer, x, weights)[0]

    text = jax.jit(program).lower(np.zeros((4, 32), np.float32), np.zeros((7, 32, 32), np.float32)).compile().as_text()
    module = hlo.parse(text)
    visits = list(hlo.visits(module))
    assert all(visit.known for visit in visits)
    assert max(visit.times for visit in visits) == 7 * 3
    # Each of the 21 passes reads a 4 KiB matrix; the 28 KiB of all layers are never read at once, 21 times.
    assert 21 * 4096 <= roofline.traffic(module) < 4 * 21 * 4096


def test_roofline_is_the_slowest_resource():
    chip = topology.CHIPS["v5e"]
    least = roofline.time(chip, flops=197e9, traffic=819e6 * 3, sent=200e6 * 2)
    assert (least.compute, least.memory, least.links) == pytest.approx((1e-3, 3e-3, 2e-3))
    assert least.seconds == least.memory and least.bound == "memory"


def test_report_of_a_scanned_network():
    numbers, text = report(toy_stack.config(), topology="cpu:8", mesh="data=2,fsdp=4")
    kernels = 2 * toy_stack.INPUTS * toy_stack.WIDTH + 2 * toy_stack.DEPTH * toy_stack.WIDTH * toy_stack.HIDDEN
    small = 2 * toy_stack.INPUTS * toy_stack.WIDTH  # below the floor: on every device
    assert numbers["parameters"]["count"] == kernels
    assert numbers["parameters"]["bytes_per_device"] == 4 * ((kernels - small) // 4 + small)
    moments = 2 * numbers["parameters"]["bytes_per_device"]
    assert moments <= numbers["optimizer"]["bytes_per_device"] <= moments + 16  # and counters

    train, encode = numbers["programs"]["train"], numbers["programs"]["encode"]
    positions = 16 * toy_stack.LENGTH / 8  # per device
    blocks = kernels - small
    # Forward 2, backward 4, recomputed forward 2 per parameter of a block (the last product of each is not needed);
    # no gradient is taken with respect to the input.
    again = 2 * blocks * positions
    plain = 6 * kernels * positions - 2 * toy_stack.INPUTS * toy_stack.WIDTH * positions
    assert plain + again / 2 <= train["flops"] <= plain + again
    assert encode["flops"] == 2 * kernels * positions
    assert train["loops_known"]
    for program in (train, encode):  # weights are gathered layer by layer; nothing with rows and length travels
        gathered = program["collectives"]["all-gather"]
        assert gathered["count"] % toy_stack.DEPTH == 0
        assert not [one for one in program["largest"] if f",{toy_stack.LENGTH}," in one["shape"]]
    memory = train["memory"]
    assert (
        memory["peak"]
        == memory["arguments"] + memory["outputs"] + memory["temporaries"] + memory["code"] - (memory["aliased"])
    )
    # Params, moments and counters are donated; what the step returns beside them are a few scalars.
    assert memory["aliased"] > 0.99 * 3 * numbers["parameters"]["bytes_per_device"]
    json.dumps(numbers)
    for part in ("stack:toy on cpu:8", "data=2, fsdp=4, tensor=1", "collectives of train", "peak", f"{kernels:,d}"):
        assert part in text
    assert "fits" not in text and "roofline" not in text.lower()  # nothing is claimed of CPUs


def test_rows_that_stay_change_no_value_and_send_less():
    config = settings.resolve(toy_stack.config())
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4}, jax.devices()[:8])
    plain = toy_stack.Task(toy_stack.Stack())
    assert activations.by_rows(activations.by_rows(plain, mesh), mesh) == activations.by_rows(plain, mesh)
    batch = sharding.put_batch(mesh, next(toy_stack.Source(length=512).training(batch_size=16, seed=0)))
    losses, sent = [], []
    for task in (plain, activations.by_rows(plain, mesh)):
        program = make_program(config, task, mesh, batch)
        state, frozen = program.init(batch)
        compiled = program.step.lower(state, frozen, batch, sharding.flags(mesh, 0)).compile()
        sent.append(sum(one.sent for one in collectives.of_module(hlo.parse(compiled.as_text()), mesh.size)))
        losses.append(float(compiled(state, frozen, batch, sharding.flags(mesh, 0))[1]["loss"]))
    assert math.isclose(*losses, rel_tol=1e-6)
    assert sent[1] < sent[0] / 4  # many positions per device: weights are smaller than activations


def test_batch_of_the_paper_needs_no_files():
    found = abstract_batch(recipes.get_config("tadicodec:paper").data.to_dict(), 32)
    assert {name: shape for name, (shape, _) in found.items()} == {
        "audio": (32, 960_000), "audio_mask": (32, 960_000), "text_ids": (32, 512), "text_mask": (32, 512),
        "index": (32,),
    }  # fmt: skip
    assert {name: str(dtype) for name, (_, dtype) in found.items()} == {
        "audio": "float32", "audio_mask": "bool", "text_ids": "int32", "text_mask": "bool", "index": "int32",
    }  # fmt: skip
    with pytest.raises(ValueError, match="data.examples"):
        abstract_batch({"source": "nowhere"}, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (dict(topology="v9:4x4"), "topology 'v9:4x4': expected a chip"),
        (dict(topology="v5e"), "topology 'v5e': expected a chip"),
        (dict(topology="v5e:4x4x4"), "a v5e slice has 2 axes, such as v5e:4x4"),
        (dict(topology="v5p:4x4"), "a v5p slice has 3 axes"),
        (dict(topology="v5e:4x4"), "needs libtpu, which is not installed"),
        (dict(topology="cpu:512"), "--xla_force_host_platform_device_count=512"),
        (dict(topology="cpu:8", mesh="data=2,fsdp=2"), "uses 4 chips, expected the 8 of 'cpu:8'"),
        (dict(topology="cpu:8", mesh="data=16"), "needs 16 devices, found 8"),
        (dict(topology="cpu:8", mesh="data=8,rows=1"), "train.mesh.rows"),
        (dict(topology="cpu:8", mesh="data:8"), "expected axes and sizes such as data=4,fsdp=4"),
        (dict(topology="cpu:8", mesh="data=2,fsdp=4", batch_size=12), "12 must be a multiple"),
        (dict(topology="cpu:8", batch_size=-8), "batch_size -8"),
    ],
)
def test_bad_input_is_one_sentence_before_any_compilation(arguments, sentence, monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(ahead, "compiled", lambda *_: pytest.fail("compiled"))
    with pytest.raises(ValueError) as error:
        report(toy_stack.config(), **arguments)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_refusal_for_want_of_memory_is_read():
    said = "Ran out of memory in memory space hbm. Used 20.54G of 15.75G hbm. Exceeded hbm capacity by 4.79G."
    assert ahead._refused(said) == int(20.54 * 2**30)
    assert ahead._refused("INTERNAL: something else") is None


def test_a_program_that_jaxlib_cannot_read_still_has_its_memory(monkeypatch):
    def refuse(self):
        raise jax.errors.JaxRuntimeError("INTERNAL: unknown instruction")

    monkeypatch.setattr(jax.stages.Compiled, "as_text", refuse)
    square = jax.ShapeDtypeStruct((8, 8), np.float32)
    numbers = ahead.compiled(jax.jit(lambda x: x @ x), (square,), 1, topology.CHIPS["v5e"])
    assert numbers["flops"] == 2 * 8**3 and numbers["memory"]["arguments"] == 256 and numbers["fits"]
    assert "pip install" in numbers["unread"] and "collectives" not in numbers


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (the extra 'tpu') is not installed")
def test_report_for_a_slice_that_is_not_there():
    here = pathlib.Path(__file__).parent
    code = (
        "import json, toy_stack; from jaxtok.train.compile import report;"
        "numbers, text = report(toy_stack.config(), topology='v5e:2x2', mesh='fsdp=4'); print(json.dumps(numbers))"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    environment["PYTHONPATH"] = f"{here.parent.parent}:{here}"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    numbers = json.loads(done.stdout.splitlines()[-1])
    assert numbers["device"] == "TPU v5 lite" and numbers["devices"] == 4
    for program in numbers["programs"].values():
        assert program["fits"] and program["loops_known"] and program["roofline"]["seconds"] > 0
        assert program["collectives"]["all-gather"]["count"] >= toy_stack.DEPTH


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_recorded_table_is_fresh(path):
    slug, records = path.stem.removeprefix("compile_"), json.loads(path.read_text())
    current = ahead.config_hash(settings.resolve(recipes.get_config(f"{slug}:paper")))
    assert len(records) == 2
    for record in records:
        assert record["config_hash"] == current, f"run experiments/benchmarks/compile_slices.py {slug} again"
        assert all(program["fits"] for program in record["programs"].values())


def test_the_flagship_is_recorded():
    records = json.loads(next(path for path in RECORDS if path.stem == "compile_tadicodec").read_text())
    assert {record["topology"] for record in records} == {"v5e:4x4", "v5p:4x4x4"}
    assert {round(record["parameters"]["count"] / 1e4) for record in records} == {49577}
