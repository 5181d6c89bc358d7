"""Quantizers in jaxtok against vector-quantize-pytorch: forward and backward in training mode, time and memory.

    pip install -e '.[parity]'
    JAX_PLATFORMS=cpu python experiments/benchmarks/quantizers_torch.py [--pairs=5] [--threads=1] [--only=FSQ]

Both sides get the same vectors, cotangents and tables, and are compared before they are timed (``pairs.py``: processes
of their own that take turns). Memory is the most that a fresh process had resident during one step (compiled, where
there is a cache), above what it had after a first small product. A side that needs more than ``--cap`` GB ends there.

Writes quantizers_torch.json and quantizers_torch.md beside this file (``--out`` for another place).
"""

import argparse
import dataclasses
import json
import pathlib
import resource
import subprocess
import tempfile

import numpy as np
import pairs

HERE = pathlib.Path(__file__).resolve().parent
SIDES = ("torch", "jaxtok")


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: a kind, its sizes, and what is asked of the ratio of times and of memory."""

    kind: str
    width: int
    size: int = 0
    layers: int = 1
    rotation: bool = False
    vectors: int = 4096
    times: int = 1
    faster: float = 1.0
    smaller: float = 0.0


LEVELS = (8, 8, 8, 6, 5)
CASES = {
    "VQ 8192 x 256, by gradient": Case("vq", 256, 8192, faster=1.5),
    "VQ 8192 x 256, moving averages": Case("ema", 256, 8192, faster=1.5),
    "VQ 8192 x 256, moving averages, rotation": Case("ema", 256, 8192, rotation=True, faster=1.5),
    "Residual VQ 8 x 1024 x 256, moving averages": Case("ema", 256, 1024, layers=8, faster=1.5),
    "Residual VQ 8 x 1024 x 256, by gradient": Case("vq", 256, 1024, layers=8, faster=1.5),
    "SimVQ 8192 x 256": Case("simvq", 256, 8192),
    "SimVQ 8192 x 256, rotation": Case("simvq", 256, 8192, rotation=True),
    "LFQ 2^14": Case("lfq", 14, faster=20, smaller=10),
    "LFQ 2^18": Case("lfq", 18, faster=20, smaller=10),
    "LFQ 2^18, 512 vectors": Case("lfq", 18, vectors=512, faster=20, smaller=10),
    "BSQ 2^14": Case("bsq", 14, faster=20, smaller=10),
    "BSQ 2^18": Case("bsq", 18, faster=20, smaller=10),
    "BSQ 2^18, 512 vectors": Case("bsq", 18, vectors=512, faster=20, smaller=10),
    "FSQ 8, 8, 8, 6, 5": Case("fsq", len(LEVELS), times=100),
}


def arrays(case: Case) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Vectors and cotangents [8, N/8, D], and a table for each layer."""
    rng = np.random.default_rng(0)
    z, weight = (rng.standard_normal((8, case.vectors // 8, case.width), np.float32) for _ in range(2))
    scale = case.width**-0.5 if case.kind == "simvq" else 1.0
    tables = [
        rng.standard_normal((case.size, case.width), np.float32) * np.float32(scale * 2.0**-i)
        for i in range(case.layers if case.size else 0)
    ]
    return z, weight, tables


# ---- PyTorch ----


def torch_step(case: Case):
    """A function that does one step and returns its results."""
    import torch
    import vector_quantize_pytorch as vqp

    z, weight, tables = arrays(case)
    options = dict(dim=case.width, codebook_size=case.size, rotation_trick=case.rotation)
    if case.kind == "vq":
        options |= dict(learnable_codebook=True, ema_update=False)
    if case.kind in ("vq", "ema"):
        module = (
            vqp.ResidualVQ(num_quantizers=case.layers, **options) if case.layers > 1 else vqp.VectorQuantize(**options)
        )
        layers = module.layers if case.layers > 1 else [module]
        books = [layer._codebook.embed for layer in layers]
        for layer, table in zip(layers, tables):
            layer._codebook.embed.data.copy_(torch.tensor(table)[None])
            layer._codebook.embed_avg.data.copy_(torch.tensor(table)[None])
    elif case.kind == "simvq":
        module = vqp.SimVQ(**options)
        module.frozen_codebook.copy_(torch.tensor(tables[0]))
        module.code_transform.weight.data.copy_(torch.tensor(mixing(case)).T)
        books = [module.code_transform.weight]
    else:
        books = []
        module = vqp.FSQ(list(LEVELS)) if case.kind == "fsq" else vqp.LFQ(dim=case.width, spherical=case.kind == "bsq")
    module.train()
    x, weight = torch.tensor(z, requires_grad=True), torch.tensor(weight)

    def step():
        module.zero_grad(set_to_none=True)
        x.grad = None
        latents, codes, *losses = module(x)
        loss = sum(part.sum() for part in losses)
        ((latents * weight).sum() + loss).backward()
        learned = [b.detach() if case.kind == "ema" else b.grad for b in books]
        return dict(
            latents=latents.detach().numpy(), codes=codes.numpy(), loss=float(torch.as_tensor(loss).detach()),
            by_z=x.grad.numpy(), learned=[(b.T if case.kind == "simvq" else b[0]).numpy() for b in learned],
        )  # fmt: skip

    return step


def mixing(case: Case) -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (case.width, case.width)).astype(np.float32) * case.width**-0.5


# ---- jaxtok ----


def jaxtok_step(case: Case):
    import jax
    import jax.numpy as jnp

    import jaxtok.quantizers as jq
    from jaxtok.quantizers import estimators

    z, weight, tables = arrays(case)
    estimator = estimators.rotation if case.rotation else estimators.straight_through
    params, state = {}, {}
    if case.kind in ("vq", "ema"):
        made, held = [], []
        for table in tables:
            fields = dict(size=case.size, width=case.width, commitment=1.0, estimator=estimator)
            if case.kind == "vq":
                made.append(jq.VQ(**fields))
                held.append({"embedding": table})
            else:
                made.append(jq.EMAVQ(decay=0.8, **fields))
                held.append(
                    {
                        "embedding": table,
                        "sums": table.copy(),
                        "counts": np.ones(case.size, np.float32),
                        "started": True,
                    }
                )
        q = jq.ResidualVQ(layers=tuple(made)) if case.layers > 1 else made[0]
        held = {f"layers_{i}": one for i, one in enumerate(held)} if case.layers > 1 else held[0]
        params, state = (held, {}) if case.kind == "vq" else ({}, {"codebook": held})
    elif case.kind == "simvq":
        q = jq.SimVQ(size=case.size, width=case.width, bias=False, estimator=estimator)
        params, state = {"map": {"kernel": mixing(case)}}, {"codebook": {"embedding": tables[0]}}
    elif case.kind == "lfq":
        q = jq.LFQ(bits=case.width)
    elif case.kind == "bsq":
        q = jq.BSQ(bits=case.width, temperature=100.0, entropy=10.0, group=0, gradient="identity")
    else:
        q = jq.FSQ(levels=LEVELS)

    def step(state, params, z, weight):
        def f(params, z):
            y, moved = q.apply({"params": params, **state}, z, train=True, mutable=["codebook"])
            return (y.latents * weight).sum() + y.loss, (y.latents, y.codes, y.loss, {**state, **moved})

        return jax.grad(f, (0, 1), has_aux=True)(params, z)

    state, params, z, weight = jax.tree.map(jnp.asarray, (state, params, z, weight))
    compiled = jax.jit(step, donate_argnums=0).lower(state, params, z, weight).compile()

    def run():
        nonlocal state
        (by_params, by_z), (latents, codes, loss, state) = jax.block_until_ready(compiled(state, params, z, weight))
        source = state.get("codebook", {}) if case.kind == "ema" else by_params
        layers = [source[f"layers_{i}"] for i in range(case.layers)] if case.layers > 1 else [source]
        learned = [layer["map"]["kernel"] if "map" in layer else layer["embedding"] for layer in layers if layer]
        return dict(latents=latents, codes=codes, loss=loss, by_z=by_z, learned=learned)

    return run


# ---- processes ----


def work(settings: argparse.Namespace) -> None:
    """A worker: serves all cases, or does one step of one case and prints how much memory it took."""
    side, _, one = settings.work.partition("/")
    pairs.pin(settings.threads)
    resource.setrlimit(resource.RLIMIT_AS, (int(settings.cap * 2**30),) * 2)
    make = torch_step if side == "torch" else jaxtok_step
    if one:
        warm(side, settings.threads)
        floor = pairs.peak_mb()
        make(CASES[one])()
        return print(json.dumps({"memory_mb": pairs.peak_mb() - floor}))
    warm(side, settings.threads)
    steps = {}

    def ready(name: str):
        name = name.replace("_", " ")
        if name not in steps:
            steps.clear()  # one case in memory at a time
            steps[name] = make(CASES[name])
        return lambda: flat(steps[name]())

    pairs.serve(ready, settings.folder, {})


def flat(out: dict) -> dict:
    """Lists as entries of their own."""
    learned = {f"learned_{i}": value for i, value in enumerate(out["learned"])}
    return {name: value for name, value in out.items() if name != "learned"} | learned


def warm(side: str, threads: int) -> None:
    """Loads what each library loads once, by a small product and its gradient."""
    if side == "torch":
        import torch
        import vector_quantize_pytorch  # noqa: F401

        torch.set_num_threads(threads)
        x = torch.ones(64, 64, requires_grad=True)
        (x @ x).softmax(-1).sum().backward()
    else:
        import jax
        import jax.numpy as jnp

        import jaxtok.quantizers  # noqa: F401

        jax.block_until_ready(jax.jit(jax.grad(lambda x: jax.nn.softmax(x @ x).sum()))(jnp.ones((64, 64))))


def memory(side: str, name: str, folder: pathlib.Path, settings: argparse.Namespace) -> int | None:
    """Megabytes of one step in a fresh process (the second of jaxtok's, compiled); None when it ran out of them."""
    words = (f"--work={side}/{name}", f"--folder={folder}")
    for _ in range(1 if side == "torch" else 2):
        done = subprocess.run(
            pairs.command(words),
            env=pairs.environment(folder, settings.threads, pairs.TIGHT),
            text=True,
            capture_output=True,
        )
    if done.returncode and "can't allocate memory" in done.stderr:
        return None
    if done.returncode:
        raise RuntimeError(f"{side}, {name}: {done.stderr}")
    return json.loads(done.stdout)["memory_mb"]


def verify(name: str, folder: pathlib.Path, workers: dict[str, pairs.Worker]) -> dict:
    """Runs both sides once on the same input; refuses to time what does not agree, but for rare ties of codes."""
    case, outputs = CASES[name], []
    for side, worker in workers.items():
        worker.run(name.replace(" ", "_"), f"{side}.npz")
        with np.load(folder / f"{side}.npz") as file:
            outputs.append(dict(file))
    a, b = outputs
    _, weight, _ = arrays(case)
    if case.layers > 1:  # they multiply the output's gradient by the number of layers
        a["by_z"] = a["by_z"] - (case.layers - 1) * weight
    if case.kind == "vq":  # their one term stands for both
        a["loss"] = 2 * a["loss"]
    same = float(np.mean(a["codes"].reshape(b["codes"].shape) == b["codes"]))
    found = {"equal_codes": round(same, 6)}
    for key in sorted(set(b) - {"codes"}):
        error = np.abs(a[key] - b[key]).max() / max(np.abs(a[key]).max(), 1e-30)
        key = key.split("_")[0] if key.startswith("learned") else key
        found[key] = max(float(f"{error:.2g}"), found.get(key, 0.0))
    worst = max(value for key, value in found.items() if key not in ("equal_codes", "loss"))
    if same < 0.999 or found["loss"] > 1e-2 or (worst > 2e-3 and same == 1):
        raise SystemExit(f"{name}: outputs differ: {found}")
    return found


def adam_megabytes() -> dict:
    """Arguments and temporaries of a train step (Adam) of VQ 262144 x 64 with 8192 vectors, compiled."""
    import jax
    import optax

    import jaxtok.quantizers as jq

    q, adam = jq.VQ(size=262144, width=64), optax.adam(1e-3)

    def step(params, moments, z):
        def loss(params, z):
            y = q.apply({"params": params}, z, train=True)
            return y.loss + (y.latents**2).sum()

        slope, by_z = jax.grad(loss, (0, 1))(params, z)
        update, moments = adam.update(slope, moments)
        return optax.apply_updates(params, update), moments, by_z

    z = jax.ShapeDtypeStruct((8192, 64), "float32")
    params = jax.eval_shape(q.init, jax.random.key(0), z)["params"]
    moments = jax.eval_shape(adam.init, params)
    found = jax.jit(step, donate_argnums=(0, 1)).lower(params, moments, z).compile().memory_analysis()
    sizes = {"arguments": found.argument_size_in_bytes, "temporaries": found.temp_size_in_bytes}
    return {name: round(size / 1e6, 1) for name, size in sizes.items()}


# ---- the record ----


def row(name: str, run: dict, settings: argparse.Namespace) -> str:
    """A line of the table; targets that are missed are marked."""
    case, used = CASES[name], run["memory_mb"]
    cap = f"> {settings.cap * 1024:.0f}"
    times = run.get("times")
    if times:
        ratios = ", ".join(f"{r:.2f}" if r < 10 else f"{r:.0f}" for r in times["ratios"])
        missed = " (missed)" * (times["ratio_of_medians"] < case.faster)
        medians = [float(np.median(times[f"{side}_s"])) * 1e3 for side in SIDES]
        speed = f"{medians[0]:.4g} | {medians[1]:.4g} | **{times['ratio_of_medians']:.3g}**{missed} | {ratios}"
    else:
        speed = f"out of memory | {run['alone_s'] * 1e3:.4g} | |"
    torch_mb = cap if used["torch"] is None else str(used["torch"])
    share = (settings.cap * 1024 if used["torch"] is None else used["torch"]) / max(used["jaxtok"], 1)
    least = ">" * (used["torch"] is None)
    missed = " (missed)" * (share < case.smaller)
    asked = f"{case.faster:g}" + f", {case.smaller:g}" * bool(case.smaller)
    return f"| {name} | {speed} | {torch_mb} | {used['jaxtok']} | {least}{share:.3g}{missed} | {asked} |"


def report(settings: argparse.Namespace, runs: dict, adam: dict) -> None:
    """Writes the numbers as JSON and as a page."""
    result = pairs.setting("quantizers_torch.py", ("jax", "jaxlib", "flax", "torch", "vector-quantize-pytorch"))
    result |= dict(cap_gb=settings.cap, adam_mb=adam, runs=runs)
    settings.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    agreed = [run["agreement"] for run in runs.values() if "agreement" in run]
    equal, error = min(a["equal_codes"] for a in agreed), max(a["loss"] for a in agreed)
    tables = [run["agreement"]["loss"] for name, run in runs.items() if CASES[name].size and "agreement" in run]
    other = max(tables, default=0.0)
    lines = [
        "# Quantizers: jaxtok against vector-quantize-pytorch",
        "",
        f"    {result['command']}",
        "",
        "Forward and backward in training mode, 4096 vectors unless stated, moving averages included, medians; "
        + pairs.described(result, settings.threads),
        "",
        "Memory: the most that a fresh process had resident during one step, above what it had before; the last column "
        "holds the least ratios of time and of memory that are asked for. Where PyTorch runs out of memory, jaxtok's "
        "time is the least of its runs.",
        "",
        "| | PyTorch ms | jaxtok ms | ratio | ratio of each pair | PyTorch MB | jaxtok MB | ratio | asked |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *[row(name, run, settings) for name, run in runs.items()],
        "",
        f"Checked before timing: at least {equal:.3%} of the codes of a case are equal (others are ties within "
        f"rounding), and the loss differs by at most {error:.1e} of itself (entropies: their logarithm is cut at 1e-5, "
        f"ours is not; else {other:.1e}); gradients, latents and updated tables are in the JSON. What differs on "
        "purpose: `jaxtok/quantizers/PARITY.md`.",
        "",
        f"A train step (Adam) of VQ 262144 x 64 with 8192 vectors: {adam['arguments']:.0f} MB of arguments and "
        f"{adam['temporaries']:.0f} MB of temporaries; asked for: less than 1500 together.",
        "",
    ]
    settings.out.with_suffix(".md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="interleaved runs of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cap", type=float, default=14.0, help="GB of address space of each process")
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "quantizers_torch")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.work:
        return work(settings)
    runs = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        workers = {
            side: pairs.Worker((f"--work={side}", f"--folder={folder}"), folder, settings.threads) for side in SIDES
        }
        for name, case in CASES.items():
            if not name.startswith(settings.only):
                continue
            run = runs[name] = {"memory_mb": {side: memory(side, name, folder, settings) for side in SIDES}}
            if run["memory_mb"]["torch"] is None:
                word = name.replace(" ", "_")
                run["alone_s"] = min(workers["jaxtok"].run(word)["cpu_seconds"] for _ in range(settings.pairs + 1))
            else:
                run["agreement"] = verify(name, folder, workers)
                times = pairs.alternate(workers, {name.replace(" ", "_"): case.times}, settings.pairs, settings.threads)
                run["times"] = pairs.compared(*times.values())
            print(name, run, flush=True)
        for worker in workers.values():
            worker.close()
    report(settings, runs, adam_megabytes())


if __name__ == "__main__":
    main()
