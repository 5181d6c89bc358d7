"""DiT-S/2 in jaxtok against diffusers' DiTTransformer2DModel in PyTorch: forward, train step, sampling with guidance.

    pip install -e '.[parity]'
    JAX_PLATFORMS=cpu python experiments/benchmarks/dit_torch.py [--pairs=5] [--threads=2] [--batch=8] [--steps=50]

Latents of 32 x 32 x 4 (256 tokens), the same random weights, inputs, float32 and number of threads on both sides. A
train step is forward, backward and AdamW on the mean squared error; sampling is DDIM on DiT's table with guidance 4,
two passes a step: one of twice the batch in PyTorch, as diffusers' pipeline does it. Each side lives in a process of
its own, is checked against the other, and then takes turns (``pairs.py``); both keep freed memory. Compilation is not
in the times.

Writes dit_torch.json and dit_torch.md beside this file (``--out`` for another place).
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pairs

HERE = pathlib.Path(__file__).resolve().parent
DEPTH, WIDTH, HEADS, PATCH, SIDE, CHANNELS, CLASSES, GUIDANCE = 12, 384, 6, 2, 32, 4, 1000, 4.0
WORK = {"forward": 3, "train step": 3, "sample": 1}
BETAS = np.linspace(1e-4, 0.02, 1000)


def prepare(folder: pathlib.Path, settings: argparse.Namespace) -> None:
    """Random weights N(0, 0.02) in jaxtok's layout, and the inputs."""
    import flax.traverse_util
    import jax
    import jax.numpy as jnp

    module, rng = network(), np.random.default_rng(0)
    blank = jnp.zeros((1, SIDE, SIDE, CHANNELS)), jnp.zeros(1), jnp.zeros(1, int)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *blank)["params"]
    flat = flax.traverse_util.flatten_dict(shapes, sep="/")
    np.savez(folder / "weights.npz", **{k: 0.02 * rng.standard_normal(v.shape, np.float32) for k, v in flat.items()})
    shape = (settings.batch, SIDE, SIDE, CHANNELS)
    np.savez(
        folder / "inputs.npz",
        x=rng.standard_normal(shape, np.float32), target=rng.standard_normal(shape, np.float32),
        t=rng.integers(0, 1000, settings.batch), label=rng.integers(0, CLASSES, settings.batch),
    )  # fmt: skip


def network():
    """Unrolled, as configs for CPUs have it: a scan copies the blocks' weights and gradients in every step."""
    from jaxtok.nn.dit import DiT

    return DiT(depth=DEPTH, width=WIDTH, heads=HEADS, patch=PATCH, classes=CLASSES, scan=False)


def grid(steps: int) -> np.ndarray:
    """Trailing indices of the table, and -1 for data."""
    return np.append(np.round(1000 - np.arange(steps) * 1000 / steps).astype(np.int64) - 1, -1)


# ---- jaxtok ----


def jaxtok_sides(folder: pathlib.Path, settings: argparse.Namespace):
    """The three pieces of work as jaxtok compiles them."""
    import flax.traverse_util
    import jax
    import jax.numpy as jnp
    import optax

    from jaxtok.diffusion import guidance, paths, predictions, samplers
    from jaxtok.train import compiler

    module, file = network(), np.load(folder / "weights.npz")
    params = flax.traverse_util.unflatten_dict({k: jnp.asarray(file[k]) for k in file.files}, sep="/")
    inputs = {name: jnp.asarray(array) for name, array in np.load(folder / "inputs.npz").items()}
    optimizer, path = optax.adamw(1e-4, weight_decay=0.0), paths.Discrete(tuple(BETAS.tolist()))

    def forward(params, x, t, label):
        return module.apply({"params": params}, x, t.astype(jnp.float32), label)

    def step(params, moments, x, t, label, target):
        loss, grads = jax.value_and_grad(lambda p: jnp.square(forward(p, x, t, label) - target).mean())(params)
        updates, moments = optimizer.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    def sample(params, x, label):
        def denoise(label):
            return lambda x, k: forward(params, x, jnp.broadcast_to(k, len(x)), label)

        guided = guidance.guided(denoise(label), denoise(jnp.full_like(label, CLASSES)), GUIDANCE)
        return samplers.ddim(predictions.estimator(guided, "noise", path), x, grid(settings.steps), path)

    moments = optimizer.init(params)
    x, t, label, target = (inputs[name] for name in ("x", "t", "label", "target"))
    arrays = {
        "forward": (params, x, t, label), "sample": (params, x, label),
        "train step": (params, moments, x, t, label, target),
    }  # fmt: skip
    donated = {"forward": (), "sample": (), "train step": (0, 1)}
    options = {"train step": compiler.known(tuple(compiler.CPU.items()))}  # as the loop compiles it
    functions, notes, compiled = {"forward": forward, "sample": sample, "train step": step}, {}, {}
    for name, function in functions.items():
        begin = time.perf_counter()
        jitted = jax.jit(function, donate_argnums=donated[name], compiler_options=options.get(name))
        compiled[name] = jitted.lower(*arrays[name]).compile()
        notes[f"compile {name}"] = round(time.perf_counter() - begin, 2)
    trained = list(jax.tree.map(jnp.copy, (params, moments)))

    def train_step():
        *trained[:], loss = compiled["train step"](*trained, x, t, label, target)
        return np.asarray(loss)

    return {
        "forward": lambda: np.asarray(compiled["forward"](*arrays["forward"])),
        "sample": lambda: np.asarray(compiled["sample"](*arrays["sample"])),
        "train step": train_step,
    }, notes


# ---- PyTorch ----


def torch_model(folder: pathlib.Path):
    """DiTTransformer2DModel with the weights; it embeds time and class in every block, by the same weights."""
    import torch
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, in_channels=CHANNELS, num_layers=DEPTH,
        attention_bias=True, sample_size=SIDE, patch_size=PATCH, num_embeds_ada_norm=CLASSES, norm_eps=1e-6,
    )  # fmt: skip
    weights, state = np.load(folder / "weights.npz"), {}

    def linear(name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = kernel.T, bias

    def copy(name: str, path: str) -> None:
        linear(name, weights[f"{path}/kernel"], weights[f"{path}/bias"])

    patch = weights["patch_linear/kernel"].reshape(PATCH, PATCH, CHANNELS, WIDTH)
    state["pos_embed.proj.weight"] = patch.transpose(3, 2, 0, 1)
    state["pos_embed.proj.bias"] = weights["patch_linear/bias"]
    for i in range(DEPTH):
        block, mine = f"transformer_blocks.{i}", f"blocks_{i}"
        embedder = f"{block}.norm1.emb"
        copy(f"{embedder}.timestep_embedder.linear_1", "time/hidden_linear")
        copy(f"{embedder}.timestep_embedder.linear_2", "time/out_linear")
        state[f"{embedder}.class_embedder.embedding_table.weight"] = weights["label/embedding"]
        copy(f"{block}.norm1.linear", f"{mine}/modulation")
        kernels = np.split(weights[f"{mine}/attention/qkv/kernel"], 3, axis=1)
        biases = np.split(weights[f"{mine}/attention/qkv/bias"], 3)
        for letter, kernel, bias in zip("qkv", kernels, biases):
            linear(f"{block}.attn1.to_{letter}", kernel, bias)
        copy(f"{block}.attn1.to_out.0", f"{mine}/attention/out")
        copy(f"{block}.ff.net.0.proj", f"{mine}/mlp/hidden_linear")
        copy(f"{block}.ff.net.2", f"{mine}/mlp/out_linear")
    copy("proj_out_1", "last_modulation")
    copy("proj_out_2", "last_linear")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}
    for block in model.transformer_blocks:  # the frequencies of DiT's own code
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    missing = model.load_state_dict(tensors, strict=False)
    if missing.unexpected_keys or [key for key in missing.missing_keys if key != "pos_embed.pos_embed"]:
        raise SystemExit(f"weights do not fit: {missing}")
    return model


def torch_sides(folder: pathlib.Path, settings: argparse.Namespace):
    """The same in PyTorch."""
    import torch

    torch.set_num_threads(settings.threads)
    model = torch_model(folder).eval()
    arrays = {name: torch.from_numpy(array) for name, array in np.load(folder / "inputs.npz").items()}
    x, target = (arrays[name].permute(0, 3, 1, 2).contiguous() for name in ("x", "target"))
    t, label = arrays["t"].long(), arrays["label"].long()
    level = np.append(np.cumprod(1 - BETAS), 1.0).astype(np.float32)  # the last, index -1, is data
    learner = torch_model(folder)
    learner.train()
    for block in learner.transformer_blocks:  # the label stays, as it does on the other side
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    optimizer = torch.optim.AdamW(learner.parameters(), lr=1e-4, weight_decay=0.0)

    def predict(network, x, t, label):
        return network(x, timestep=t, class_labels=label).sample

    def forward():
        with torch.inference_mode():
            return predict(model, x, t, label).permute(0, 2, 3, 1).numpy()

    def train_step():
        loss = torch.nn.functional.mse_loss(predict(learner, x, t, label), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach().numpy()

    def sample():
        state, indices = x, grid(settings.steps)
        labels = torch.cat([label, torch.full_like(label, CLASSES)])
        with torch.inference_mode():
            for now, then in itertools.pairwise(indices):
                times = torch.full((2 * len(x),), int(now))
                strong, weak = predict(model, torch.cat([state, state]), times, labels).chunk(2)
                noise = weak + GUIDANCE * (strong - weak)
                a, b = float(level[now]), float(level[then])
                data = (state - (1 - a) ** 0.5 * noise) / a**0.5
                state = b**0.5 * data + (1 - b) ** 0.5 * noise
            return state.permute(0, 2, 3, 1).numpy()

    return {"forward": forward, "sample": sample, "train step": train_step}, {}


# ---- processes ----


def work(side: str, folder: pathlib.Path, settings: argparse.Namespace) -> None:
    """A worker of one side."""
    pairs.pin(settings.threads)
    sides, notes = (torch_sides if side == "torch" else jaxtok_sides)(folder, settings)
    calls = {name.replace(" ", "-"): call for name, call in sides.items()}
    pairs.serve(lambda name: calls[name], folder, notes)


def verify(folder: pathlib.Path, workers: dict[str, pairs.Worker]) -> dict:
    """Runs both sides once and refuses to time what does not agree.

    Of train steps the first loss: later ones differ, as PyTorch's side learns an embedding of time in every block.
    """
    found = {}
    for name in WORK:
        word, outputs = name.replace(" ", "-"), []
        for side, worker in workers.items():
            worker.run(word, f"{side}.npy")
            outputs.append(np.load(folder / f"{side}.npy"))
        found[name] = float(np.abs(outputs[0] - outputs[1]).max() / np.abs(outputs[0]).max())
    if not max(found.values()) <= 1e-3:
        raise SystemExit(f"outputs differ, relative to the largest: {found}")
    return found


def report(settings: argparse.Namespace, agreement: dict, times: dict, notes: dict) -> None:
    """Writes the numbers as JSON and as a page."""
    result = pairs.setting("dit_torch.py", ("jax", "jaxlib", "flax", "torch", "diffusers", "numpy")) | dict(
        batch=settings.batch, steps=settings.steps, agreement=agreement, jaxtok=notes["jaxtok"],
        runs={name.replace("-", " "): pairs.compared(sides) for name, sides in times.items()},
    )  # fmt: skip
    settings.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        "# DiT-S/2: jaxtok against diffusers in PyTorch", "", f"    {result['command']}", "",
        f"Batch {settings.batch}, 256 tokens; sampling: {settings.steps} steps of DDIM with guidance. "
        + pairs.described(result, settings.threads), "",
        "| | PyTorch s (min) | jaxtok s (min) | ratios | median | ratio of minima |", "| --- " * 6 + "|",
    ]  # fmt: skip
    for name, run in result["runs"].items():
        ratios = ", ".join(f"{r:.2f}" for r in run["ratios"])
        lines.append(
            f"| {name} | {min(run['torch_s']):.3g} | {min(run['jaxtok_s']):.3g} | {ratios} "
            f"| **{run['median_ratio']:.2f}** | {run['ratio_of_minima']:.2f} |"
        )
    compiled = ", ".join(f"{name.removeprefix('compile ')} {value} s" for name, value in notes["jaxtok"].items()
                         if name.startswith("compile"))  # fmt: skip
    differences = ", ".join(f"{name} {value:.1e}" for name, value in agreement.items())
    lines += ["", f"Compilation, not in the times: {compiled}.", "", "Checked before timing, largest difference over "
              f"largest value (of train steps the first loss): {differences}.", ""]  # fmt: skip
    settings.out.with_suffix(".md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="interleaved runs of each side")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="of sampling")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "dit_torch")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.work == "prepare":
        return prepare(settings.folder, settings)
    if settings.work:
        return work(settings.work, settings.folder, settings)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--work=prepare", f"--folder={folder}"], check=True)
        workers = {
            side: pairs.Worker((f"--work={side}", f"--folder={folder}"), folder, settings.threads, pairs.KEPT)
            for side in ("torch", "jaxtok")
        }
        agreement = verify(folder, workers)
        print(json.dumps(agreement), flush=True)
        turns = {name.replace(" ", "-"): times for name, times in WORK.items()}
        times = pairs.alternate(workers, turns, settings.pairs, settings.threads)
        for worker in workers.values():
            worker.close()
    report(settings, agreement, times, {side: worker.notes for side, worker in workers.items()})


if __name__ == "__main__":
    main()
