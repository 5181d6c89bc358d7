"""FVQ's claim in miniature: a network over the codebook keeps every code in use, also when the codebook is large.

    python -m experiments.fvq --jobs 2          # writes fvq.json, .md and .png to experiments/results

A small convolutional autoencoder of the emoji (32 x 32 pixels, patches of 4 x 4 to 8 x 8 tokens) is trained with each
quantizer at about 2^8, 2^11 and 2^14 codes. Arms share the data, the steps, the seeds and the schedule (warm-up,
constant, linear to 1 %), and differ in the quantizer alone. Use is counted exactly: distinct codes over every image of
the set, shown beside the use that as many uniform draws would show. Reconstruction is measured on held-out emoji.

Expected, from the paper: (1) with gradient or moving-average codebooks use falls as the codebook grows; (2) with the
bridge it stays full; (3) and with it the reconstruction gets better as the codebook grows; (4) a linear map (SimVQ)
lies between. Of the others the paper says little: IBQ 97 % at 2^14.
"""

import itertools
import json
import shlex
import sys
import tempfile
import time

import flax.linen as nn
import jax
import numpy as np

from experiments import arms
from jaxtok.build import build
from jaxtok.quantizers import usage
from jaxtok.train.loop import train
from jaxtok.train.source import source_of

PATCH = 4  # pixels per token, in height and in width
WIDTH = 16  # of the vectors that are quantized by a table
SIZES = (8, 11, 14)
LEVELS = {8: (8, 6, 5), 11: (8, 8, 6, 5), 14: (8, 8, 8, 6, 5), 18: (8,) * 6}
SPLITS = ("train", "validation", "test")  # whose tokens are counted
NUMBERS = ("usage", "perplexity", "psnr", "mse x 1000")


def quantizer(method: str, bits: int) -> tuple[dict, int]:
    """The quantizer of an arm, and the width of its vectors."""
    table = dict(size=1 << bits, width=WIDTH)
    specs = {
        "VQ": (dict(target="jaxtok.quantizers:VQ", **table), WIDTH),
        "EMA-VQ": (dict(target="jaxtok.quantizers:EMAVQ", **table), WIDTH),
        "SimVQ": (dict(target="jaxtok.quantizers:SimVQ", **table), WIDTH),
        "FVQ": (
            dict(target="jaxtok.quantizers:FVQ", hidden=64, patch=4, rows=1 << bits // 2, **table),
            WIDTH,
        ),
        "IBQ": (dict(target="jaxtok.quantizers:IBQ", **table), WIDTH),
        "LFQ": (dict(target="jaxtok.quantizers:LFQ", bits=bits, commitment=0.25), bits),
        "BSQ": (dict(target="jaxtok.quantizers:BSQ", bits=bits, group=0, entropy=0.1, temperature=10.0), bits),
    }
    if method == "FSQ":
        return dict(target="jaxtok.quantizers:FSQ", levels=LEVELS[bits]), len(LEVELS[bits])
    return specs[method]


METHODS = ("VQ", "EMA-VQ", "SimVQ", "FVQ", "IBQ", "LFQ", "BSQ", "FSQ")
ARMS = {f"{method} 2^{bits}": (method, bits) for method, bits in itertools.product(METHODS, SIZES)}


class Patched(nn.Module):
    """An encoder of patches of pixels: [B, H, W, 3] -> inner [B, H / 4, W / 4, 48]."""

    inner: nn.Module

    def __call__(self, x, mask=None):
        b, h, w, c = x.shape
        x = x.reshape(b, h // PATCH, PATCH, w // PATCH, PATCH, c).swapaxes(2, 3)
        return self.inner(x.reshape(b, h // PATCH, w // PATCH, -1), mask=mask)


class Unpatched(nn.Module):
    """A decoder to patches of pixels, the inverse of :class:`Patched`."""

    inner: nn.Module

    def __call__(self, z, mask=None):
        x = self.inner(z, mask=mask)
        b, h, w, _ = x.shape
        return x.reshape(b, h, w, PATCH, PATCH, -1).swapaxes(2, 3).reshape(b, h * PATCH, w * PATCH, -1)


def config(method, bits, *, steps, seed=0):
    spec, width = quantizer(method, bits)
    network = dict(channels=48, multipliers=(1,), blocks=1, groups=8, z_channels=48, image_channels=3 * PATCH**2)
    return dict(
        slug="fvq",
        seed=seed,
        model=dict(
            target="jaxtok.tokenizers.feedforward:FeedForwardTokenizer",
            encoder=dict(target="experiments.fvq:Patched", inner=dict(target="jaxtok.nn.vqgan:Encoder", **network)),
            decoder=dict(target="experiments.fvq:Unpatched", inner=dict(target="jaxtok.nn.vqgan:Decoder", **network)),
            quantizer=spec, pre=width, post=48,
        ),
        task=dict(target="jaxtok.tasks.autoencode_image:ImageAutoencode"),
        data=dict(
            source="samples:emoji",
            examples=dict(target="jaxtok.data.images:Images", size=32),
        ),
        train=dict(
            steps=steps, batch_size=32, ema=0.0, mesh=dict(data=1), log_every=50, evaluate_every=0,
            players=dict(main=dict(pattern=".*", clip=1.0, optimizer=dict(
                target="jaxtok.train.optimizers:adamw", weight_decay=0.0, b1=0.9, b2=0.95,
                schedule=dict(target="jaxtok.train.schedules:annealed", peak=2e-3, steps=steps, warmup=steps // 10),
            ))),
        ),
    )  # fmt: skip


def run(arm, seed, *, steps):
    """Trains one arm with one seed in the library's loop; use over every image, errors on held-out ones."""
    started = time.time()
    setting = config(*ARMS[arm], steps=steps, seed=seed)
    with tempfile.TemporaryDirectory() as workdir:
        result = train(setting, workdir)
    if result.reason != "done":  # on SIGTERM the loop saves and returns
        raise RuntimeError(f"arm {arm!r}, seed {seed}: stopped at step {result.step} by {result.reason}")
    task = build(setting["task"], model=build(setting["model"]))
    trained = result.state.params, result.state.state
    both = jax.jit(lambda image: task.reconstruct(*trained, image))
    codes_only = jax.jit(lambda image: (image, task.reconstruct(*trained, image)[1]))
    size = task.model.quantizer.codebook_size
    counts, errors = np.zeros(size, np.int64), []
    for split in SPLITS:
        for batch in source_of(setting["data"]).evaluation(split=split, batch_size=256):
            real = batch["example_mask"]
            images, codes = jax.device_get((codes_only if split == "train" else both)(batch["image"]))
            counts += usage.histogram(codes[real], size)
            if split != "train":
                errors += np.square(images - batch["image"])[real].mean((1, 2, 3)).tolist()
    found = usage.summary(counts)
    mse = float(np.mean(errors))
    numbers = {
        "codes": size, "tokens": found["tokens"], "used": found["used"], "usage": found["usage"],
        "uniform usage": usage.uniform_usage(size, int(found["tokens"])), "perplexity": found["perplexity"],
        "mse x 1000": 1000 * mse, "psnr": float(np.mean(-10 * np.log10(np.asarray(errors) / 4))),
    }  # fmt: skip
    row = {"arm": arm, "seed": seed, "numbers": numbers, "seconds": round(time.time() - started, 1)}
    print(json.dumps(row), flush=True)
    return row


def claims(rows):
    """The expected directions, each as a difference paired by seed that is positive where it agrees."""

    def of(method, bits, metric):
        return arms.values(rows, f"{method} 2^{bits}", metric)

    low, high = SIZES[0], SIZES[-1]
    full = of("FVQ", high, "uniform usage") * 0.99
    lines = {
        "(1) VQ's use falls from 2^8 to 2^14": of("VQ", low, "usage") - of("VQ", high, "usage"),
        "(1) EMA-VQ's does": of("EMA-VQ", low, "usage") - of("EMA-VQ", high, "usage"),
        "(2) FVQ's use at 2^14 is full (use minus 99 % of what uniform codes show)": of("FVQ", high, "usage") - full,
        "(3) FVQ's mse x 1000 falls from 2^8 to 2^14": of("FVQ", low, "mse x 1000") - of("FVQ", high, "mse x 1000"),
        "(3) FVQ's mse x 1000 is below VQ's at 2^14": of("VQ", high, "mse x 1000") - of("FVQ", high, "mse x 1000"),
        "(4) SimVQ uses more of 2^14 codes than VQ": of("SimVQ", high, "usage") - of("VQ", high, "usage"),
        "(4) FVQ uses more of them than SimVQ": of("FVQ", high, "usage") - of("SimVQ", high, "usage"),
    }  # fmt: skip
    return "\n".join(arms.verdict(claim, difference) for claim, difference in lines.items())


def picture(rows, path):
    """Use and error against the number of codes: a line per method, a dot per seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    for axis, metric in zip(axes, ("usage", "perplexity", "psnr")):
        for number, method in enumerate(METHODS):
            found = [arms.values(rows, f"{method} 2^{bits}", metric) for bits in SIZES]
            style = dict(color=f"C{number}", marker="o", markersize=3)
            axis.plot(SIZES, [f.mean() for f in found], label=method, **style)
            for bits, values in zip(SIZES, found):
                axis.plot(np.full(len(values), bits), values, ".", color=f"C{number}", alpha=0.4)
        axis.set_xticks(SIZES, [f"2^{bits}" for bits in SIZES])
        axis.set_xlabel("codes")
        axis.set_title({"usage": "share of codes in use", "psnr": "PSNR, held-out emoji (dB)"}.get(metric, metric))
    axes[1].set_yscale("log")
    axes[2].legend(fontsize=7, ncols=2)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None):
    options = arms.parser(__doc__, steps=300).parse_args(argv)
    started, plan = time.time(), dict(vars(options))
    output = plan.pop("output")
    rows = arms.run_all(run, tuple(ARMS), done=f"{output}/fvq.jsonl", **plan)
    tokens = int(rows[0]["numbers"]["tokens"])
    uniform = usage.uniform_usage(1 << SIZES[-1], tokens)
    report = f"""# FVQ in miniature

{__doc__.partition("results" + chr(10))[2].strip()}

{"Preliminary: fewer than 3 seeds. " * (options.seeds < 3)}Mean and standard error over {options.seeds} seed(s) of
{options.steps} steps of 32 images. `usage`: distinct codes over
all {tokens:,} tokens of the set ({tokens / (1 << SIZES[-1]):.0f} per code at 2^14, of which uniform codes would show
{uniform:.1%}); `psnr` and `mse` on held-out emoji, images in [-1, 1].
Speed and memory, also at 2^18 codes: experiments/benchmarks/quantizers_torch.md.

{arms.table(rows, tuple(ARMS), NUMBERS)}

The expected directions as differences paired by seed, positive where they agree, "holds" from two standard errors:

{claims(rows)}"""
    command = "python -m experiments.fvq " + shlex.join(sys.argv[1:] if argv is None else argv)
    arms.write(output, "fvq", report, rows, command.strip(), time.time() - started)
    picture(rows, f"{output}/fvq.png")


if __name__ == "__main__":
    main()
