"""Samplers compared on one trained generator: quality against calls of the network, and against guidance.

    jaxtok train --config configs/lightningdit.py:mini --workdir runs/dit
    python -m experiments.samplers --model runs/dit       # writes samplers.json, .md and .png to experiments/results

Every sampler makes the same number of images of each class from the same start noise, with 4 to 32 steps; the judge
(``jaxtok.load("emoji-judge")``) gives the Frechet distance to the real training images, and the share of images that it
sees in the asked class. Nothing is trained: an arm is a sampler with its steps, and a seed is one of the start noise.

Expected: (1) at 8 calls of the conditional network DPM-Solver++ is nearer to the real images than Euler; (2) of the
deterministic samplers the distances at 32 steps are alike (within 10 %); (3) Euler-Maruyama needs more steps than Euler
for the same distance (at 8 steps it is farther away); (4) guidance raises the share of the asked class up to scale 3.
"""

import functools
import shlex
import sys
import time

import numpy as np

import jaxtok
from experiments import arms
from jaxtok.evaluation import generator as generator_evaluation
from jaxtok.metrics import frechet

METHODS = ("euler", "heun", "adams_bashforth", "ddim", "dpm_solver", "euler_maruyama")
STEPS = (4, 8, 16, 32)
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
GUIDANCE, BEST = 2.0, ("dpm_solver", 32)
ARMS = {
    f"{method} {steps}": dict(method=method, steps=steps) for method in METHODS for steps in STEPS if method != "ddim"
} | {f"guidance {scale:g}": dict(method=BEST[0], steps=BEST[1], guidance=scale) for scale in SCALES}
NUMBERS = ("distance", "asked class")
IMAGES = dict(source="samples:emoji", examples=dict(target="jaxtok.data.images:Images", size=32, label="group_style"))


def run(arm, seed, *, model, images, **_):
    """Samples of every class with one sampler, and what the judge says of them."""
    started = time.time()
    generator, judge = loaded(model), loaded("emoji-judge")
    labels = np.repeat(np.arange(generator.classes), images)
    drawn = generator.sample(labels, rng=seed, **({"guidance": GUIDANCE} | ARMS[arm]))
    found = frechet.moments(judge.features(drawn))
    numbers = {
        "distance": frechet.distance(found, real()),
        "asked class": float((judge.predict(drawn) == labels).mean()),
    }
    print(f"{arm} {seed}: {numbers}", flush=True)
    return {"arm": arm, "seed": seed, "numbers": numbers, "seconds": round(time.time() - started, 1)}


loaded = functools.cache(jaxtok.load)


@functools.cache
def real():
    """Moments of the judge's features of the real training images."""
    return generator_evaluation.real_moments(loaded("emoji-judge"), IMAGES)


def calls(method, steps):
    """Of the conditional network."""
    return 2 * steps if method == "heun" else steps


def claims(rows):
    def of(arm, metric="distance"):
        return arms.values(rows, arm, metric)

    deterministic = [of(f"{method} 32") for method in METHODS if method not in ("ddim", "euler_maruyama")]
    spread = (np.max(deterministic, 0) - np.min(deterministic, 0)) / np.min(deterministic, 0)
    lines = {
        "(1) at 8 calls DPM-Solver++ is nearer than Euler": of("euler 8") - of("dpm_solver 8"),
        "(2) at 32 steps the deterministic samplers differ by less than 10 %": 0.1 - spread,
        "(3) at 8 steps Euler-Maruyama is farther than Euler": of("euler_maruyama 8") - of("euler 8"),
        "(4) guidance 3 shows the asked class more often than none":
            of("guidance 3", "asked class") - of("guidance 1", "asked class"),
    }  # fmt: skip
    return "\n".join(arms.verdict(claim, difference) for claim, difference in lines.items())


def picture(rows, path):
    """Distance and asked class against calls, and against guidance."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    for axis, metric in zip(axes, NUMBERS):
        for method in METHODS:
            names = [(calls(method, steps), f"{method} {steps}") for steps in STEPS if f"{method} {steps}" in ARMS]
            if names:
                means = [arms.values(rows, name, metric).mean() for _, name in names]
                axis.plot([count for count, _ in names], means, "o-", markersize=3, label=method)
        axis.set(xscale="log", xlabel="calls of the network with the class", title=metric)
        axis.set_xticks(ticks := sorted({calls(method, steps) for method in METHODS for steps in STEPS}), ticks)
        axis.minorticks_off()
    axes[0].set(yscale="log")
    axes[0].set_yticks(levels := (2.5, 3, 4, 6, 10), levels)
    axes[0].minorticks_off()
    axes[0].legend(fontsize=8)
    means = {metric: [arms.values(rows, f"guidance {s:g}", metric).mean() for s in SCALES] for metric in NUMBERS}
    axes[2].plot(SCALES, means["distance"], "o-", label="distance")
    other = axes[2].twinx()
    other.plot(SCALES, means["asked class"], "s--", color="C1", label="asked class")
    axes[2].set(xlabel="guidance", title=f"{BEST[0]}, {BEST[1]} steps")
    axes[2].legend(loc="upper center", fontsize=8)
    other.legend(loc="lower center", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv=None):
    parser = arms.parser(__doc__, steps=0)
    parser.add_argument("--model", required=True, help="the directory of a trained run")
    parser.add_argument("--images", type=int, default=3, help="of each class")
    options = parser.parse_args(argv)
    started, plan = time.time(), dict(vars(options))
    output = plan.pop("output")
    rows = arms.run_all(run, tuple(ARMS), done=f"{output}/samplers.jsonl", **plan)
    report = f"""# Samplers on one generator

{__doc__.partition("results" + chr(10))[2].strip()}

Mean and standard error over {options.seeds} seed(s) of the start noise; {options.images} images of each of 36 classes;
guidance {GUIDANCE:g} where the arm names none. On the straight path DDIM is Euler's method, so it has no arm.

{arms.table(rows, tuple(ARMS), NUMBERS)}

The expected directions as differences paired by seed, positive where they agree, "holds" from two standard errors:

{claims(rows)}"""
    command = "python -m experiments.samplers " + shlex.join(sys.argv[1:] if argv is None else argv)
    arms.write(output, "samplers", report, rows, command.strip(), time.time() - started)
    picture(rows, f"{output}/samplers.png")


if __name__ == "__main__":
    main()
