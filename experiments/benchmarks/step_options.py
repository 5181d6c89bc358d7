"""Training steps on this CPU with and without the compiler options of ``jaxtok.train.compiler``.

    JAX_PLATFORMS=cpu python experiments/benchmarks/step_options.py lightningdit:mini fvq:mini tadicodec:mini

Both programs of a config live in one process and take turns, five times each. Writes step_options.json and .md beside
this file.
"""

import json
import pathlib
import statistics
import sys
import time

import jax
import numpy as np
import pairs

import jaxtok
from jaxtok.data import pipeline
from jaxtok.train import compiler, settings, sharding
from jaxtok.train.program import make_program, make_task

HERE = pathlib.Path(__file__).resolve().parent
TURNS = 5


def seconds(name: str) -> dict[str, list[float]]:
    """Of steps of a config, without and with the options."""
    config = settings.resolve(jaxtok.get_config(name).copy_and_resolve_references().to_dict())
    mesh = sharding.make_mesh(config["train"]["mesh"])
    batch = next(pipeline.training(config["data"], batch_size=config["train"]["batch_size"], seed=0))
    program = make_program(config, make_task(config, mesh), mesh, batch)
    batch, stop = sharding.put_batch(mesh, batch), np.int32(0)
    step, found, runs = program.step.__wrapped__, {}, {}
    for side, options in (("without", {}), ("with", compiler.options(mesh))):
        state, frozen = program.init(batch)
        jitted = jax.jit(step, donate_argnums=0, compiler_options=options)
        runs[side], found[side] = [jitted.lower(state, frozen, batch, stop).compile(), state, frozen], []
    for _ in range(1 + TURNS):
        for side, (compiled, state, frozen) in runs.items():
            begin = time.perf_counter()
            runs[side][1], _ = compiled(state, frozen, batch, stop)
            jax.block_until_ready(runs[side][1])
            found[side].append(time.perf_counter() - begin)
    return {side: values[1:] for side, values in found.items()}


def main() -> None:
    found = {name: seconds(name) for name in sys.argv[1:]}
    result = pairs.setting("step_options.py", ("jax", "jaxlib")) | {"options": compiler.CPU, "seconds": found}
    (HERE / "step_options.json").write_text(json.dumps(result, indent=1) + "\n")
    rows = []
    for name, sides in found.items():
        plain, better = (statistics.median(sides[side]) for side in ("without", "with"))
        each = ", ".join(f"{a / b:.2f}" for a, b in zip(sides["without"], sides["with"]))
        rows.append(f"| {name} | {plain:.3f} | {better:.3f} | {each} | **{plain / better:.2f}** |")
    page = [
        "# Training steps with the CPU's compiler options", "", f"    {result['command']}", "",
        f"{compiler.CPU}, {result['machine']}, jaxlib {result['versions']['jaxlib']}. Seconds are medians of {TURNS} "
        "turns; above 1, the options are faster.", "",
        "| config | without, s | with, s | of each turn | ratio of medians |", "| --- | --- | --- | --- | --- |",
        *rows, "",
    ]  # fmt: skip
    (HERE / "step_options.md").write_text("\n".join(page))


if __name__ == "__main__":
    main()
