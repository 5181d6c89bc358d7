"""Decoding with a cache of keys and values: jaxtok against transformers' generate, greedy, the same weights.

    pip install -e '.[parity]'
    JAX_PLATFORMS=cpu python experiments/benchmarks/decode_torch.py [--pairs=3] [--threads=2] [--length=256]

A Llama of 12 blocks of width 768 (12 heads, hidden width 2048, 16384 ids, 98 M parameters without the embedding)
continues a prompt of 16 random ids by 256 tokens, for a batch of 1 and of 8. Both sides are whole calls: the prompt,
256 tokens, ids out. Their ids are compared before they are timed (``pairs.py``: processes of their own, by turns).
jaxtok's kernels are turned once, when the weights are loaded (``jaxtok.nn.llama.out_first``).

On one core the ratio is smaller (1.8 for both batches, two pairs): a row of batch 1 reads all 390 MB of weights in
23 ms, which is what that core's memory gives.

Writes decode_torch.json and decode_torch.md beside this file (``--out`` for another place).
"""

import argparse
import functools
import json
import pathlib
import tempfile
import time

import numpy as np
import pairs

HERE = pathlib.Path(__file__).resolve().parent
SIDES = ("torch", "jaxtok")
SIZES = dict(vocabulary=16384, width=768, depth=12, heads=12, hidden=2048)
PROMPT, TARGET = 16, 2.0
BATCHES = {"batch_1": 1, "batch_8": 8}


def weights() -> dict[str, np.ndarray]:
    """Arrays by their names in transformers, Gaussian of standard deviation 0.04, norms 1."""
    rng = np.random.default_rng(0)
    width, hidden = SIZES["width"], SIZES["hidden"]
    shapes = {"model.embed_tokens": (SIZES["vocabulary"], width), "lm_head": (SIZES["vocabulary"], width)}
    for i in range(SIZES["depth"]):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.self_attn.{p}_proj": (width, width) for p in "qkvo"}
        shapes |= {f"{layer}.mlp.{p}_proj": (hidden, width) for p in ("gate", "up")}
        shapes |= {f"{layer}.mlp.down_proj": (width, hidden)}
        shapes |= {f"{layer}.{norm}": (width,) for norm in ("input_layernorm", "post_attention_layernorm")}
    shapes["model.norm"] = (width,)
    return {
        f"{name}.weight": np.ones(shape, np.float32)
        if len(shape) == 1
        else np.float32(0.04) * rng.standard_normal(shape, np.float32)
        for name, shape in shapes.items()
    }


def prompt(batch: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, SIZES["vocabulary"], (batch, PROMPT))


def torch_side(settings: argparse.Namespace):
    """name -> a function that decodes, with transformers."""
    import torch
    import transformers

    torch.set_num_threads(settings.threads)
    config = transformers.LlamaConfig(
        vocab_size=SIZES["vocabulary"], hidden_size=SIZES["width"], intermediate_size=SIZES["hidden"],
        num_hidden_layers=SIZES["depth"], num_attention_heads=SIZES["heads"], rms_norm_eps=1e-6,
        max_position_embeddings=1024, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict({name: torch.tensor(value) for name, value in weights().items()})
    length = settings.length

    def ready(name: str):
        ids = torch.tensor(prompt(BATCHES[name]))
        options = dict(attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True)

        def run() -> np.ndarray:
            with torch.inference_mode():
                out = model.generate(ids, min_new_tokens=length, max_new_tokens=length, **options)
            return out[:, PROMPT:].numpy()

        return run

    return ready, {"attention": model.config._attn_implementation}


def jaxtok_side(settings: argparse.Namespace):
    """name -> a function that decodes, in one compiled program."""
    import jax

    from jaxtok.convert import llama as convert
    from jaxtok.decode import autoregressive, sampling
    from jaxtok.nn.linear import OutFirst
    from jaxtok.nn.llama import LlamaLM, out_first

    model = LlamaLM(**SIZES)
    params = jax.block_until_ready(jax.jit(out_first)(convert.params(weights(), model)))
    model = model.clone(dense=OutFirst)
    greedy = functools.partial(sampling.choose, temperature=0.0)

    @jax.jit
    def decode(params, ids, keys):
        def apply(ids, cache):
            return model.apply({"params": params}, ids, cache=cache)

        logits, cache = apply(ids, model.cache(len(ids), PROMPT + settings.length))
        step = autoregressive.stepper(apply)
        return autoregressive.generate(step, cache, logits[:, -1], keys, length=settings.length, choose=greedy)[0]

    programs, seconds = {}, {}
    for name, batch in BATCHES.items():
        inputs = params, prompt(batch).astype(np.int32), jax.random.split(jax.random.key(0), batch)
        begin = time.perf_counter()
        compiled = decode.lower(*inputs).compile()
        seconds[name] = round(time.perf_counter() - begin, 1)
        programs[name] = functools.partial(lambda compiled, inputs: np.asarray(compiled(*inputs)), compiled, inputs)
    return programs.__getitem__, {"compile_s": seconds}


def work(settings: argparse.Namespace) -> None:
    pairs.pin(settings.threads)
    ready, notes = (torch_side if settings.work == "torch" else jaxtok_side)(settings)
    pairs.serve(ready, settings.folder, notes)


def verify(name: str, folder: pathlib.Path, workers: dict[str, pairs.Worker]) -> float:
    """The share of equal ids; a tie within rounding may change the rest of a row, so nearly all have to agree."""
    found = []
    for side, worker in workers.items():
        worker.run(name, f"{side}.npy")
        found.append(np.load(folder / f"{side}.npy"))
    same = float(np.mean(found[0] == found[1]))
    if found[0].shape != found[1].shape or same < 0.9:
        raise SystemExit(f"{name}: only {same:.1%} of the ids agree")
    return round(same, 5)


def report(settings: argparse.Namespace, runs: dict, notes: dict) -> None:
    """Writes the numbers as JSON and as a page."""
    result = pairs.setting("decode_torch.py", ("jax", "jaxlib", "flax", "torch", "transformers"))
    result |= dict(length=settings.length, threads=settings.threads, notes=notes, runs=runs)
    settings.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    rows = []
    for name, run in runs.items():
        medians = [float(np.median(run[f"{side}_s"])) / settings.length * 1e3 for side in SIDES]
        missed = " (missed)" * (run["ratio_of_medians"] < TARGET)
        each = ", ".join(f"{r:.2f}" for r in run["ratios"])
        rows.append(
            f"| {BATCHES[name]} | {medians[0]:.1f} | {medians[1]:.1f} | **{run['ratio_of_medians']:.2f}**{missed} "
            f"| {each} | {notes['jaxtok']['compile_s'][name]:.1f} |"
        )
    equal = min(run["equal_ids"] for run in runs.values())
    lines = [
        "# Decoding with a cache: jaxtok against transformers' generate",
        "",
        f"    {result['command']}",
        "",
        f"Llama of 12 blocks, width 768, 12 heads, hidden width 2048, 16384 ids; {settings.length} greedy tokens after "
        f"a prompt of {PROMPT}, whole calls. " + pairs.described(result, settings.threads) + f" Asked for: {TARGET:g}.",
        "",
        "| batch | PyTorch ms per token | jaxtok ms per token | ratio of medians | of each pair | compilation, s |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Checked before timing: {equal:.2%} of the ids are equal. transformers' attention is "
        f"{notes['torch']['attention']!r} and its cache the default one, which grows by a token a step.",
        "",
    ]
    settings.out.with_suffix(".md").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="interleaved runs of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=256, help="tokens")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "decode_torch")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.work:
        return work(settings)
    runs, notes = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        folder, workers = pathlib.Path(scratch), {}
        for side in SIDES:
            workers[side] = pairs.Worker((f"--work={side}", f"--folder={folder}"), folder, settings.threads)
            notes[side] = workers[side].notes
        for name in BATCHES:
            equal = verify(name, folder, workers)
            times = pairs.alternate(workers, {name: 1}, settings.pairs, settings.threads)
            runs[name] = {"equal_ids": equal, **pairs.compared(times[name])}
            print(name, runs[name], flush=True)
        for worker in workers.values():
            worker.close()
    report(settings, runs, notes)


if __name__ == "__main__":
    main()
