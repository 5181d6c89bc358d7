"""EzAudio's claims in miniature: a low-rank shared modulation is enough, masks pre-train, rescaling tames guidance.

    python -m experiments.ezaudio --jobs 2          # writes ezaudio.json, .md and .png to experiments/results

The latents are trajectories in the plane of damped oscillators, 32 steps, with captions of three words (tempo, damping,
direction). A small transformer with cross-attention learns v on 1000 levels down to pure noise (zero terminal SNR); a
share of 1 / 4 of its examples shows part of the clean latent, in spans. Its blocks are modulated by the time in one of
three ways; the MLPs are as wide as makes the parameters equal. In all arms the time is also added to the input. Two
more arms have captions of 5 % of the 2048 trajectories only: one is trained on these alone, one before on all without.

Expected, from the paper: (1) AdaLN-SOLA comes to adaLN-Zero's loss with a part of its modulation's parameters, and both
below none; (2) pre-training lowers the loss and raises the accuracy of captions; (3) without rescaling the deviation of
the samples grows with the scale of guidance and their quality falls, with it both stay.
"""

import functools
import json
import shlex
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments import arms, toy_denoiser, toy_paths
from experiments.fit import fit
from jaxtok.diffusion import guidance, paths, predictions, samplers, times

BATCH, POOL, LABELED = 32, 2048, 102
PATH = paths.Discrete(paths.zero_terminal(paths.sqrt_linear_betas()))
SCALES, RESCALED = (1.0, 3.0, 5.0, 7.0, 9.0), 0.75
ARMS = {
    "adaLN-Zero": dict(modulation="zero"),
    "AdaLN-SOLA": dict(modulation="sola"),
    "none": dict(modulation="none"),
    "5 % of captions": dict(modulation="sola", labeled=LABELED),
    "5 % of captions, pre-trained": dict(modulation="sola", labeled=LABELED, pretrain=True),
}
NUMBERS = ("loss", "accuracy", "parameters", "of the modulation")


def spans(key, length):
    """What is hidden, bool [T]: all, or with probability 1 / 4 spans of 3 steps that cover a drawn share."""
    some, share, starts = jax.random.split(key, 3)
    count = jnp.maximum(jax.random.uniform(share, minval=0.25) * length / 3, 1)
    begin = jnp.where(jnp.arange(length) < count, jax.random.randint(starts, (length,), 0, length - 2), length)
    at = jnp.arange(length)[:, None]
    spanned = ((at >= begin) & (at < begin + 3)).any(1)
    return jnp.where(jax.random.uniform(some) < 0.25, spanned, True)


def loss(model, params, batch, key):
    """The mean squared error of v over what is hidden, averaged per example first."""
    keys, x = jax.random.split(key, 4), batch["x"]
    k = jax.random.randint(keys[0], (len(x),), 0, len(PATH.betas))
    e = jax.random.normal(keys[1], x.shape)
    hidden = jax.vmap(lambda key: spans(key, x.shape[1]))(jax.random.split(keys[2], len(x)))
    dropped = jax.random.uniform(keys[3], (len(x), 1)) < 0.1
    caption = jnp.where(dropped, toy_paths.WORDS, batch["caption"])
    guess = model.apply({"params": params}, paths.corrupt(PATH, x, e, k), k, caption, x, hidden)
    each = jnp.square(guess - predictions.target("v", PATH, x, e, k)).mean(-1)
    return (jnp.where(hidden, each, 0).sum(1) / hidden.sum(1)).mean()


def train(model, data, *, labeled, captions, params, steps, seed):
    """Parameters after training on the first ``labeled`` examples, with their captions or with none."""

    def draw(key):
        rows = jax.random.randint(key, (BATCH,), 0, labeled)
        nothing = jnp.full((BATCH, 3), toy_paths.WORDS)
        return {"x": data["x"][rows], "caption": data["caption"][rows] if captions else nothing}

    return fit(functools.partial(loss, model), params, draw, steps=steps, rate=3e-3, seed=seed)


@functools.partial(jax.jit, static_argnums=0)
def sample(model, params, caption, key, scale, amount):
    """Trajectories [B, T, 2] of captions, by 20 steps with guidance that is rescaled by ``amount``."""
    start, hidden = jax.random.normal(key, (len(caption), toy_paths.LENGTH, 2)), jnp.ones((len(caption), 32), bool)

    def denoise(x, k):
        both, level = jnp.concatenate([x, x]), jnp.full(2 * len(x), k)
        told = jnp.concatenate([caption, jnp.full_like(caption, toy_paths.WORDS)])
        guess = model.apply({"params": params}, both, level, told, 0 * both, jnp.concatenate([hidden, hidden]))
        conditional, unconditional = jnp.split(guess, 2)
        guided = guidance.classifier_free(conditional, unconditional, scale)
        return guidance.rescale(guided, conditional, amount)

    grid = np.append(times.indices(20, len(PATH.betas)), -1)
    return samplers.ddim(predictions.estimator(denoise, "v", PATH), start, grid, PATH)


def run(arm, seed, *, steps, samples):
    """Trains one arm with one seed; its loss and the accuracy of its samples' captions on held-out ones."""
    started, setting = time.time(), dict(labeled=POOL, pretrain=False) | ARMS[arm]
    data, held = toy_paths.pool(1, POOL), toy_paths.pool(2, 512)
    model = toy_denoiser.network(setting["modulation"])
    x, caption = held["x"][:1], held["caption"][:1]
    params = jax.jit(model.init)(jax.random.key(seed), x, jnp.zeros(1, int), caption, x, x[..., 0] > 0)["params"]
    fields = dict(steps=steps, seed=seed)
    if setting["pretrain"]:
        params = train(model, data, labeled=POOL, captions=False, params=params, **fields)
    params = train(model, data, labeled=setting["labeled"], captions=True, params=params, **fields)
    measure = jax.jit(functools.partial(loss, model))
    total, modulation = toy_denoiser.counts(setting["modulation"], model.hidden)
    caption, truth = held["caption"][:samples], np.asarray(held["caption"][:samples])
    numbers = {
        "loss": float(np.mean([measure(params, held, jax.random.key(i)) for i in range(8)])),
        "parameters": total, "of the modulation": modulation,
    }  # fmt: skip
    sweep = [(scale, amount) for scale in SCALES for amount in (0.0, RESCALED)]
    for scale, amount in sweep if arm == "AdaLN-SOLA" else [(3.0, RESCALED)]:
        x = np.asarray(sample(model, params, caption, jax.random.key(seed), scale, amount))
        end = "rescaled" if amount else "plain"
        numbers[f"accuracy {scale:g} {end}"] = float((toy_paths.read(x) == truth).all(1).mean())
        numbers[f"deviation {scale:g} {end}"] = float(x.std() / np.asarray(held["x"]).std())
    numbers["accuracy"] = numbers["accuracy 3 rescaled"]
    row = {"arm": arm, "seed": seed, "numbers": numbers, "seconds": round(time.time() - started, 1)}
    print(json.dumps(row), flush=True)
    return row


def claims(rows):
    """The expected directions, each as a difference paired by seed that is positive where it agrees."""

    def gap(metric, high, low):
        return arms.values(rows, high, metric) - arms.values(rows, low, metric)

    def swept(name):
        return arms.values(rows, "AdaLN-SOLA", name)

    zero, ours, none, few, pretrained = ARMS
    lines = {
        "(1) AdaLN-SOLA's loss is at most 2 % above adaLN-Zero's": 1.02 * arms.values(rows, zero, "loss")
        - arms.values(rows, ours, "loss"),
        "(1) It is below that without modulation": gap("loss", none, ours),
        "(1) So is adaLN-Zero's": gap("loss", none, zero),
        "(2) Pre-training lowers the loss": gap("loss", few, pretrained),
        "(2) It raises the accuracy": gap("accuracy", pretrained, few),
        "(3) Deviation grows from scale 1 to 9": swept("deviation 9 plain") - swept("deviation 1 plain"),
        "(3) Accuracy falls from scale 3 to 9": swept("accuracy 3 plain") - swept("accuracy 9 plain"),
        "(3) Rescaled, the deviation at 9 is nearer to the data's": np.abs(swept("deviation 9 plain") - 1)
        - np.abs(swept("deviation 9 rescaled") - 1),
        "(3) Rescaled, the accuracy at 9 is higher": swept("accuracy 9 rescaled") - swept("accuracy 9 plain"),
    }
    return "\n".join(arms.verdict(claim, difference) for claim, difference in lines.items())


def main(argv=None):
    parser = arms.parser(__doc__, steps=1200)
    parser.add_argument("--samples", type=int, default=96, help="trajectories that are drawn and judged")
    options = parser.parse_args(argv)
    started, plan = time.time(), dict(vars(options))
    output = plan.pop("output")
    rows = arms.run_all(run, tuple(ARMS), done=f"{output}/ezaudio.jsonl", **plan)
    sweep = [f"{name} {scale:g} {end}" for name in ("deviation", "accuracy") for end in ("plain", "rescaled")
             for scale in SCALES]  # fmt: skip
    lines = [f"| {name} | {arms.show(arms.values(rows, 'AdaLN-SOLA', name))} |" for name in sweep]
    report = f"""# EzAudio in miniature

{__doc__.partition("results" + chr(10))[2].strip()}

{"Preliminary: fewer than 3 seeds. " * (options.seeds < 3)}Mean and standard error over {options.seeds} seed(s) of
{options.steps} steps of {BATCH} (as many again before, where there is pre-training). `loss` on 512 held-out
trajectories; `accuracy`: share of {options.samples} samples (20 steps, guidance 3, rescaled by {RESCALED}) in which a
judge reads all three words of the caption.

{arms.table(rows, tuple(ARMS), NUMBERS)}

Guidance from {SCALES[0]:g} to {SCALES[-1]:g} with AdaLN-SOLA; `deviation` of the samples over that of the data.

| | |
| --- | --- |
{chr(10).join(lines)}

The expected directions as differences paired by seed, positive where they agree, "holds" from two standard errors:

{claims(rows)}"""
    command = "python -m experiments.ezaudio " + shlex.join(sys.argv[1:] if argv is None else argv)
    arms.write(output, "ezaudio", report, rows, command.strip(), time.time() - started)
    arms.picture(rows, tuple(ARMS), NUMBERS, f"{output}/ezaudio.png", "EzAudio in miniature: means, a dot per seed")


if __name__ == "__main__":
    main()
