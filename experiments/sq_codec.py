"""SQ-Codec's claim in miniature: latents on a bounded grid are easier to generate than a VAE's.

    python -m experiments.sq_codec --jobs 2          # writes sq_codec.json, .md and .png to experiments/results

Synthetic harmonic tones at 8 kHz (32 classes of pitch and timbre, 16 frames of 10 ms) are coded by SQ-Codec's networks
with one of two bottlenecks: the scalar grid of 19 levels in d dimensions, or a Gaussian with a small KL. Then the same
small transformer learns the flow of each codec's latents given the class; its samples are decoded (the
grid's are rounded first, as the codec does) and compared with the mean log-mel of their class. Arms share data, steps,
seeds and networks but for the number of latent channels. One more arm learns the noise of DDPM's table instead.

Expected, from the paper: (1) at equal width and like reconstruction samples of the grid's latents are nearer to their
class at 10 and at 25 steps; (2) over d = 4, 8, 32 the error of reconstruction falls and that of generation is lowest in
the middle; (3) with 10 steps flow is better than DDPM.
"""

import json
import shlex
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments import arms, toy_sound
from experiments.fit import fit
from jaxtok.diffusion import times
from jaxtok.losses import spectral
from jaxtok.nn import sq_codec
from jaxtok.nn.dit import DiT
from jaxtok.papers.sq_codec import Bounded, SQCodec
from jaxtok.quantizers import Gaussian
from jaxtok.signal.log_mel import LogMel
from jaxtok.tasks.denoise import Denoise, TableSampling
from jaxtok.tasks.diffuse import Diffuse, Sampling
from jaxtok.tokenizers.waveform import WaveformTokenizer

FRAMES = toy_sound.LENGTH // toy_sound.HOP
ARMS = {
    "grid, d = 8": dict(width=8),
    "Gaussian, d = 8": dict(width=8, grid=False),
    "grid, d = 4": dict(width=4),
    "grid, d = 32": dict(width=32),
    "grid, d = 8, DDPM": dict(width=8, flow=False),
}
NUMBERS = ("reconstruction", "generation, 10 steps", "generation, 25 steps")
SCALES = tuple(  # floors above the noise
    LogMel(toy_sound.RATE, n_fft, n_fft // 4, bands, floor, padding="center")
    for n_fft, bands, floor in ((64, 8, 0.1), (512, 64, 0.4))
)


def codec(width, grid):
    """A codec of ``width`` latent channels."""
    sizes = dict(width=8, strides=(40,), pool=2)
    decoder = sq_codec.Decoder(latent=width, **sizes)
    if grid:
        return SQCodec(sq_codec.Encoder(latent=width, **sizes), Bounded(width=width, steps=9), decoder)
    moments = sq_codec.Encoder(latent=2 * width, **sizes)
    return WaveformTokenizer(moments, Gaussian(width=width, weight=1e-3, reduction="position"), decoder)


def generator(flow):
    """The task of a small transformer over frames, told the class."""
    model = DiT(depth=2, width=64, heads=4, patch=1, classes=toy_sound.CLASSES, scan=False)
    if flow:
        return Diffuse(model, field="latents", draw=times.uniform)
    return Denoise(model, field="latents", learned_variance=False)


def train_codec(module, *, steps, seed):
    def loss(params, batch, key):
        x = batch["audio"]
        tokens = module.apply({"params": params}, x, rng=key, train=True, method="encode")
        y = module.apply({"params": params}, tokens.latents, method="decode")
        return spectral.mel(x, y, scales=SCALES).mean() + 50 * jnp.abs(x - y).mean() + tokens.loss

    params = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, toy_sound.LENGTH)))["params"]
    return fit(loss, params, lambda key: toy_sound.classes(key, 16), steps=steps, rate=5e-3, seed=seed)


def train_generator(task, encode, scale, *, steps, seed):
    def draw(key):
        first, second = jax.random.split(key)
        batch = toy_sound.classes(first, 32)
        return batch | {"latents": scale * encode(batch["audio"], second)[:, :, None]}

    def loss(params, batch, key):
        return task.losses(params, {}, batch, key, 0)[0]["main"][0]

    params, _, _ = jax.jit(task.init)(jax.random.key(seed), draw(jax.random.key(0)))
    return fit(loss, params, draw, steps=steps, rate=2e-3, seed=1000 + seed)


def run(arm, seed, *, steps, flow_steps, samples):
    """Trains one arm's codec and generator with one seed; errors of both."""
    started, setting = time.time(), dict(grid=True, flow=True) | ARMS[arm]
    module, task = codec(setting["width"], setting["grid"]), generator(setting["flow"])
    params = train_codec(module, steps=steps, seed=seed)

    def encode(audio, key):  # the VAE's latents are drawn, as its generator sees them
        return module.apply({"params": params}, audio, rng=key, train=True, method="encode").latents

    decode = jax.jit(lambda z: module.apply({"params": params}, z, method="decode"))
    label = jnp.arange(samples) % toy_sound.CLASSES
    tones = jax.jit(toy_sound.of_classes)
    real = [toy_sound.MEL(tones(jax.random.key(10_000 + i), jnp.arange(toy_sound.CLASSES))) for i in range(16)]
    reference = jnp.mean(jnp.stack(real), 0)[label]
    audio = tones(jax.random.key(20_000), label)
    latents = jax.jit(encode)(audio, jax.random.key(1))
    scale = 1 / float(latents.std())  # measured once, as the reference does
    again = decode(latents)
    numbers = {
        "reconstruction": float(toy_sound.spectral_error(again, toy_sound.MEL(audio)).mean()),
        "recordings": float(toy_sound.spectral_error(audio, reference).mean()),  # nothing comes nearer
    }
    learned = train_generator(task, encode, scale, steps=flow_steps, seed=seed)
    keys, shape = jax.random.split(jax.random.key(seed), samples), (FRAMES, 1, setting["width"])
    for count in (10, 25):
        kind = Sampling(steps=count) if setting["flow"] else TableSampling(steps=count)
        drawn = jax.jit(lambda params, kind=kind: task.sample(params, label, keys, shape, kind))(learned)
        error = toy_sound.spectral_error(decode(drawn[:, :, 0] / scale), reference)
        numbers[f"generation, {count} steps"] = float(error.mean())
    row = {"arm": arm, "seed": seed, "numbers": numbers, "seconds": round(time.time() - started, 1)}
    print(json.dumps(row), flush=True)
    return row


def claims(rows):
    """The expected directions, each as a difference paired by seed that is positive where it agrees."""

    def of(arm, metric):
        return arms.values(rows, arm, metric)

    few, many = NUMBERS[1:]
    base, vae = "grid, d = 8", "Gaussian, d = 8"
    lines = {
        "(1) Samples of the grid are nearer than the Gaussian's at 10 steps": of(vae, few) - of(base, few),
        "(1) They are at 25 steps": of(vae, many) - of(base, many),
        "(2) Reconstruction gets better from d = 4 to 8": of("grid, d = 4", NUMBERS[0]) - of(base, NUMBERS[0]),
        "(2) It does from d = 8 to 32": of(base, NUMBERS[0]) - of("grid, d = 32", NUMBERS[0]),
        "(2) Generation is better at d = 8 than at 4 (25 steps)": of("grid, d = 4", many) - of(base, many),
        "(2) It is better at d = 8 than at 32 (25 steps)": of("grid, d = 32", many) - of(base, many),
        "(3) With 10 steps flow is better than DDPM": of("grid, d = 8, DDPM", few) - of(base, few),
    }  # fmt: skip
    return "\n".join(arms.verdict(claim, difference) for claim, difference in lines.items())


def main(argv=None):
    parser = arms.parser(__doc__, steps=1000)
    parser.add_argument("--flow-steps", type=int, default=1500, help="training steps of each generator")
    parser.add_argument("--samples", type=int, default=128, help="tones that are generated and judged")
    options = parser.parse_args(argv)
    started, plan = time.time(), dict(vars(options))
    output = plan.pop("output")
    rows = arms.run_all(run, tuple(ARMS), done=f"{output}/sq_codec.jsonl", **plan)
    floor = np.mean([row["numbers"]["recordings"] for row in rows])
    report = f"""# SQ-Codec in miniature

{__doc__.partition("results" + chr(10))[2].strip()}

{"Preliminary: fewer than 3 seeds. " * (options.seeds < 3)}Mean and standard error over {options.seeds} seed(s):
{options.steps} steps of the codec, {options.flow_steps} of the generator. Errors are mean differences of log-mels in
nats: of {options.samples} tones and their reconstructions, and of as many samples and the mean of their class, which
recordings miss by {floor:.3f}.

{arms.table(rows, tuple(ARMS), NUMBERS)}

The expected directions as differences paired by seed, positive where they agree, "holds" from two standard errors:

{claims(rows)}"""
    command = "python -m experiments.sq_codec " + shlex.join(sys.argv[1:] if argv is None else argv)
    arms.write(output, "sq_codec", report, rows, command.strip(), time.time() - started)
    arms.picture(rows, tuple(ARMS), NUMBERS, f"{output}/sq_codec.png", "SQ-Codec in miniature: means, a dot per seed")


if __name__ == "__main__":
    main()
