"""TaDiCodec's encode and decode in jaxtok against the reference's arithmetic in PyTorch: ratio of times, peak memory.

    pip install -e '.[parity]'
    JAX_PLATFORMS=cpu python experiments/benchmarks/tadicodec_torch.py [--pairs=5] [--encoder=2] [--decoder=4]

Both sides get the same random weights (the released key names, the paper's width), audio, text, start noise, float32,
and number of threads. The PyTorch side (``tadicodec_reference.py``) does what the published sampler does: two passes
per Euler step, one with text and tokens and one without, with every module, the MLPs of text, tokens and time included,
called inside the loop (inference mode, fused attention). Each framework lives in a process of its own, which prepares,
is checked against the other, and then takes turns (``pairs.py``). Compilation is not in the times; it is reported. The
vocoder is left out: it is the same network on both sides.

Writes tadicodec_torch.json and tadicodec_torch.md beside this file (``--out`` for another place).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pairs

HERE = pathlib.Path(__file__).resolve().parent
WIDTH, HEADS, HIDDEN, BITS, BANDS, FACTOR, VOCABULARY = 1024, 16, 4096, 14, 128, 8, 32100
HOP, N_FFT, RATE = 480, 1920, 24000


# ---- what both sides share: weights, inputs ----


def weight_shapes(encoder_depth: int, decoder_depth: int) -> dict[str, tuple[int, ...]]:
    """The released layout: name -> shape, in PyTorch's order [out, in]."""
    shapes = {"text_emb.weight": (VOCABULARY, WIDTH)}

    def linear(name, inputs, outputs, bias=True):
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    linear("vq_in_linear", WIDTH, BITS)
    linear("vq_out_linear", BITS, WIDTH)
    linear("decoder.out_linear", WIDTH, BANDS)
    linear("decoder.norm.to_weight", WIDTH, WIDTH)
    for name in ("text_mlp", "diff_step_mlp", "cond_mlp"):
        linear(f"decoder.{name}.0", WIDTH, 4 * WIDTH)
        linear(f"decoder.{name}.2", 4 * WIDTH, WIDTH)
    for part, depth in (("encoder", encoder_depth), ("decoder", decoder_depth)):
        linear(f"{part}.in_linear", BANDS, WIDTH)
        for layer in range(depth):
            prefix = f"{part}.layers.{layer}"
            for p in "qkvo":
                linear(f"{prefix}.self_attn.{p}_proj", WIDTH, WIDTH, bias=False)
            linear(f"{prefix}.mlp.gate_proj", WIDTH, HIDDEN, bias=False)
            linear(f"{prefix}.mlp.up_proj", WIDTH, HIDDEN, bias=False)
            linear(f"{prefix}.mlp.down_proj", HIDDEN, WIDTH, bias=False)
            if part == "decoder":
                linear(f"{prefix}.input_layernorm.to_weight", WIDTH, WIDTH)
                linear(f"{prefix}.post_attention_layernorm.to_weight", WIDTH, WIDTH)
    return shapes


def model_config(encoder_depth: int, decoder_depth: int) -> dict:
    attention = dict(ref="jaxtok.nn.attention:by_head")  # for CPUs
    size = dict(width=WIDTH, heads=HEADS, hidden=HIDDEN, attention=attention)
    return dict(
        target="jaxtok.tokenizers.diffusion:DiffusionTokenizer",
        encoder=dict(target="jaxtok.papers.tadicodec:Encoder", depth=encoder_depth, bits=BITS, factor=FACTOR, **size),
        quantizer=dict(target="jaxtok.quantizers.bsq:BSQ", bits=BITS),
        decoder=dict(
            target="jaxtok.papers.tadicodec:PrefixDecoder", depth=decoder_depth, bands=BANDS, factor=FACTOR,
            vocabulary=VOCABULARY, **size,
        ),
    )  # fmt: skip


def prepare(folder: pathlib.Path, settings: argparse.Namespace) -> None:
    """Writes weights in both layouts, and the inputs. Weights N(0, 0.02); norm scales around 1, so that layers act."""
    import flax.traverse_util

    from jaxtok.convert import from_reference
    from jaxtok.signal.mel import mel_filters

    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in weight_shapes(settings.encoder, settings.decoder).items():
        weights[name] = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if name.endswith("to_weight.bias"):
            weights[name] += 1
    np.savez(folder / "torch.npz", **weights)
    params = from_reference("tadicodec", weights, model_config(settings.encoder, settings.decoder))
    np.savez(folder / "jaxtok.npz", **flax.traverse_util.flatten_dict(params, sep="/"))
    tokens = -(-round(settings.seconds * RATE) // (FACTOR * HOP))  # whole tokens
    frames = tokens * FACTOR
    seconds = np.arange(frames * HOP) / RATE
    chirp = 0.3 * np.sin(2 * np.pi * (120 + 30 * np.sin(2 * seconds)) * seconds) * (1 + np.sin(9 * seconds)) / 2
    np.savez(
        folder / "inputs.npz",
        audio=(chirp + 0.02 * rng.standard_normal(len(seconds)))[None].astype(np.float32),
        text_ids=rng.integers(0, VOCABULARY, (1, settings.text)).astype(np.int32),
        start=rng.standard_normal((1, frames, BANDS), np.float32),
        filters=mel_filters(N_FFT, RATE, BANDS, 0.0, RATE / 2),
    )


# ---- jaxtok ----


def jaxtok_sides(folder: pathlib.Path, settings: argparse.Namespace):
    """The same two functions as jaxtok compiles them; the weights are arguments."""
    import flax.traverse_util
    import jax
    import jax.numpy as jnp

    from jaxtok.build import build
    from jaxtok.signal.mel import MelFrontEnd
    from jaxtok.tokenizers.diffusion import FlowSampler

    module, frontend = build(model_config(settings.encoder, settings.decoder)), MelFrontEnd()
    with np.load(folder / "jaxtok.npz") as file:  # one tensor at a time: no second copy of the weights
        flat = {name: jnp.asarray(file[name]) for name in file.files}
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    sampler = FlowSampler(steps=settings.steps, guidance=2.0, rescale=0.75)

    def encode(params, audio):
        mel = frontend(audio)
        mask = jnp.ones(mel.shape[:2], bool)
        return module.apply({"params": params}, mel, mask=mask, method="encode").codes[..., 0]

    def decode(params, codes, text_ids, start, mask, text_mask):
        latents = module.apply({"params": params}, codes[..., None], method=lambda m, codes: m.quantizer.decode(codes))
        cond = {"text_ids": text_ids, "text_mask": text_mask}
        return module.apply(
            {"params": params}, latents, mask=mask, cond=cond, start=start, sampler=sampler, method="decode"
        )

    inputs = np.load(folder / "inputs.npz")
    codes = jnp.zeros((1, inputs["start"].shape[1] // FACTOR), jnp.int32)
    masks = jnp.ones(inputs["start"].shape[:2], bool), jnp.ones(inputs["text_ids"].shape, bool)
    compiled, seconds = {}, {}
    for name, function, arrays in (
        ("encode", encode, (inputs["audio"],)),
        ("decode", decode, (codes, inputs["text_ids"], inputs["start"], *masks)),
    ):
        begin = time.perf_counter()
        compiled[name] = jax.jit(function).lower(params, *arrays).compile()
        seconds[f"compile_{name}_s"] = round(time.perf_counter() - begin, 2)
        seconds[f"temporaries_{name}_mb"] = compiled[name].memory_analysis().temp_size_in_bytes >> 20
    sides = {
        "encode": lambda audio: np.asarray(compiled["encode"](params, audio)),
        "decode": lambda codes, *rest: np.asarray(compiled["decode"](params, codes.astype(np.int32), *rest, *masks)),
    }
    return sides, seconds


# ---- processes ----


def work(side: str, folder: pathlib.Path, settings: argparse.Namespace) -> None:
    """A worker of one side."""
    pairs.pin(settings.threads)
    if side == "torch":
        import tadicodec_reference

        sizes = (settings.encoder, settings.decoder, settings.steps, settings.threads)
        sides, notes = tadicodec_reference.sides(folder, *sizes), {}
    else:
        sides, notes = jaxtok_sides(folder, settings)
    inputs = np.load(folder / "inputs.npz")

    def ready(name: str):
        arrays = (inputs["audio"],)
        if name == "decode":
            arrays = (np.load(folder / "codes.npy"), inputs["text_ids"], inputs["start"])
        return lambda: sides[name](*arrays)

    pairs.serve(ready, folder, notes)


def start(
    side: str, folder: pathlib.Path, settings: argparse.Namespace, memory: dict[str, str] | None = None
) -> pairs.Worker:
    return pairs.Worker((f"--work={side}", f"--folder={folder}"), folder, settings.threads, memory)


def verify(folder: pathlib.Path, workers: dict[str, pairs.Worker]) -> dict:
    """Runs both sides once on the same input and refuses to time what does not agree."""
    outputs = {}
    for name in ("encode", "decode"):
        for side, worker in workers.items():
            worker.run(name, f"{side}-{name}.npy")
            outputs[side, name] = np.load(folder / f"{side}-{name}.npy")
        if name == "encode":
            np.save(folder / "codes.npy", outputs["torch", "encode"])
    same = float(np.mean(outputs["torch", "encode"] == outputs["jaxtok", "encode"]))
    error = float(np.abs(outputs["torch", "decode"] - outputs["jaxtok", "decode"]).max())
    if same < 0.95 or not error <= 1e-3:
        raise SystemExit(f"outputs differ: {same:.1%} of the tokens are equal, the mel differs by up to {error:.2g}")
    return {"equal_tokens": same, "largest_mel_difference": error, "mel_std": float(outputs["torch", "decode"].std())}


def report(settings: argparse.Namespace, agreement: dict, times: dict, peaks: dict, notes: dict) -> None:
    """Writes the numbers as JSON and as a page."""
    result = pairs.setting("tadicodec_torch.py", ("jax", "jaxlib", "flax", "torch", "numpy")) | dict(
        layers=[settings.encoder, settings.decoder], steps=settings.steps, agreement=agreement, peak_mb=peaks,
        jaxtok=notes["jaxtok"], start_mb={side: note["ready_mb"] for side, note in notes.items()},
        runs={name: pairs.compared(sides) for name, sides in times.items()},
    )  # fmt: skip
    rows = []
    for name, run in result["runs"].items():
        ratios = ", ".join(f"{r:.2f}" for r in run["ratios"])
        rows.append(
            f"| {name} | {min(run['torch_s']):.2f} | {min(run['jaxtok_s']):.2f} | {ratios} "
            f"| **{run['median_ratio']:.2f}** | {run['ratio_of_minima']:.2f} |"
        )
    settings.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    compiled = ", ".join(f"{name} {notes['jaxtok'][f'compile_{name}_s']} s" for name in times)
    lines = [
        f"# TaDiCodec, {settings.seconds:g} s of audio: jaxtok against the reference's arithmetic in PyTorch",
        "",
        f"    {result['command']}",
        "",
        f"Width {WIDTH}, {settings.encoder} encoder and {settings.decoder} decoder layers, {settings.steps} Euler "
        f"steps, guidance 2.0, rescale 0.75, {settings.text} text tokens. " + pairs.described(result, settings.threads),
        "",
        "| | PyTorch s (min) | jaxtok s (min) | ratios | median | ratio of minima |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        "| Resident memory of the process, MB | PyTorch | jaxtok |",
        "| --- | --- | --- |",
        f"| weights loaded, programs compiled | {notes['torch']['ready_mb']} | {notes['jaxtok']['ready_mb']} |",
        f"| peak | {peaks['torch']} | {peaks['jaxtok']} |",
        f"| peak of a second process (programs from the compilation cache) | {peaks['torch, second process']} "
        f"| {peaks['jaxtok, second process']} |",
        "",
        f"Compilation, not in the times: {compiled}.",
        "",
        f"Checked before timing: {agreement['equal_tokens']:.1%} of the tokens are equal, and the mel differs by at "
        f"most {agreement['largest_mel_difference']:.1e} (standard deviation {agreement['mel_std']:.2f}).",
        "",
    ]
    settings.out.with_suffix(".md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="interleaved runs of each side")
    parser.add_argument("--encoder", type=int, default=2, help="layers (paper: 8)")
    parser.add_argument("--decoder", type=int, default=4, help="layers (paper: 16)")
    parser.add_argument("--steps", type=int, default=32, help="Euler steps")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio, rounded up to whole tokens of 0.16 s")
    parser.add_argument("--text", type=int, default=40, help="text tokens (subwords of 10 s of speech)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "tadicodec_torch")
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
        workers = {side: start(side, folder, settings) for side in ("torch", "jaxtok")}
        agreement = verify(folder, workers)
        print(json.dumps(agreement), flush=True)
        times = pairs.alternate(workers, {"encode": 1, "decode": 1}, settings.pairs, settings.threads)
        peaks = {side: worker.run("encode")["peak_mb"] for side, worker in workers.items()}
        for worker in workers.values():
            worker.close()
        for side in workers:  # fresh processes; jaxtok's finds its programs compiled
            worker = start(side, folder, settings, pairs.TIGHT)
            worker.run("encode")
            peaks[f"{side}, second process"] = worker.run("decode")["peak_mb"]
            worker.close()
    print(peaks, {side: worker.notes for side, worker in workers.items()})
    report(settings, agreement, times, peaks, {side: worker.notes for side, worker in workers.items()})


if __name__ == "__main__":
    main()
