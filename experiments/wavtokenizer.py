"""WavTokenizer's claims in miniature: which decoder sounds best from one codebook, and what keeps a large one in use.

    python -m experiments.wavtokenizer --jobs 2          # writes wavtokenizer.json, .md and .png to experiments/results

Synthetic harmonic tones with noise at 8 kHz, 100 tokens a second of one codebook, trained by the library's own task:
mel L1, commitment and one small discriminator by period. Decoders of like size: (i) transposed convolutions (SEANet's),
(ii) WavTokenizer's inverse STFT whose attention block sees each frame's own value alone, (iii) the same with attention.
Codebooks of 64, 512 and 4096 codes with decoder (iii): drawn at random; begun by k-means; by k-means and with a restart
of rare codes that works (the reference's has no effect). The encoder has a gain and standardized channels, without
which no arm read its tokens (LOG.md). Arms share the data, the steps and the seeds.

Expected, from the paper: (1) the mel distance of (iii) is at most that of (ii), and both are below (i)'s; (2) both have
fewer clicks; (3) k-means and restart raise the use of a codebook and lower the mel distance; (4) beyond some size use
saturates: from 512 to 4096 codes the perplexity grows by less than eight times.
"""

import itertools
import json
import shlex
import sys
import tempfile
import time

import jax
import numpy as np

from experiments import arms, toy_sound
from jaxtok.build import build
from jaxtok.quantizers import usage
from jaxtok.train.loop import train

SIZES, BEGINNINGS, BATCH, CROP = (64, 512, 4096), ("random", "k-means", "k-means, restart"), 16, 1600
DECODERS = {"transposed": "(i) transposed", "still": "(ii) inverse STFT", "attention": "(iii) with attention"}
ARMS = {
    **{name: dict(decoder=key) for key, name in DECODERS.items() if key != "attention"},
    **{f"{size}, {how}": dict(size=size, how=how) for size, how in itertools.product(SIZES, BEGINNINGS)},
}
BASE = "512, k-means, restart"  # which is also (iii)
NUMBERS = ("mel distance", "STFT distance", "clicks", "used", "usage", "perplexity")


def alone(query, key, value, mask=None):
    """Attention of each position to itself: the value."""
    del query, key, mask
    return value


def config(*, steps, seed=0, decoder="attention", size=512, how=BEGINNINGS[2]):
    width, strides = 16, (4, 4, 5)
    network = dict(dimension=width, strides=strides, causal=False)
    stft = dict(
        target="jaxtok.papers.wavtokenizer:Decoder", dimension=width, width=32, hidden=96, depth=3, n_fft=320, hop=80,
        bandwidths=1, groups=8, rate=0.0,
    )  # fmt: skip
    decoders = {
        "transposed": dict(target="jaxtok.nn.seanet:Decoder", width=11, lstm_layers=0, **network),
        "still": stft | dict(attention=dict(ref="experiments.wavtokenizer:alone")),
        "attention": stft,
    }
    mean = BATCH * CROP / 80 / size  # of a code's count in a batch
    book = dict(target="jaxtok.quantizers:EMAVQ", size=size, width=width, decay=0.95, commitment=0.25)
    begin = dict(kmeans=0 if how == "random" else 10, revive=0.2 * mean if "restart" in how else 0.0)
    mel = dict(target="jaxtok.signal.log_mel:LogMel", sample_rate=8000, n_fft=320, hop=80, bands=32, padding="center")
    optimizer = dict(
        target="jaxtok.train.optimizers:adamw", b1=0.8, b2=0.99, weight_decay=0.0,
        schedule=dict(target="jaxtok.train.schedules:cosine", peak=2e-3, steps=steps, warmup=steps // 10),
    )  # fmt: skip
    return dict(
        slug="wavtokenizer", seed=seed,
        model=dict(
            target="jaxtok.tokenizers.waveform:WaveformTokenizer", conditional=decoder != "transposed",
            encoder=dict(target="jaxtok.nn.seanet:Encoder", width=8, lstm_layers=1, gain=2.0, **network),
            quantizer=dict(target="jaxtok.quantizers:Standardized", width=width, inner=book | begin),
            decoder=decoders[decoder],
        ),
        task=dict(
            target="jaxtok.tasks.autoencode_audio:AudioAutoencode", crop=CROP, peak=(),
            reconstruction=dict(ref="jaxtok.losses.spectral:mel", scales=(mel,)),
            discriminator=dict(target="jaxtok.nn.discriminators:Panel", ensembles=dict(period=dict(
                target="jaxtok.nn.discriminators:multi_period", periods=(3,), channels=(8, 16),
            ))),
            terms=dict(period=dict(target="jaxtok.tasks.waveform:Term")),
            judge=dict(
                target="jaxtok.signal.mel:MelFrontEnd", sample_rate=8000, n_fft=320, hop=80, bands=32, high=4000.0
            ),
        ),
        data=dict(target="experiments.toy_sound:Tones", samples=CROP),
        train=dict(
            steps=steps, batch_size=BATCH, ema=0.0, mesh=dict(data=1), log_every=50, evaluate_every=0,
            players=dict(
                generator=dict(pattern="generator/.*", clip=1.0, optimizer=optimizer),
                discriminator=dict(pattern="discriminator/.*", clip=1.0, optimizer=optimizer),
            ),
        ),
    )  # fmt: skip


def clicks(audio):
    """Samples a second whose second difference is over eight times the recording's median one: [B] of audio [B, L]."""
    jumps = np.abs(np.diff(audio, 2, axis=1))
    limit = 8 * np.median(jumps, axis=1, keepdims=True)
    return (jumps > limit).mean(1) * toy_sound.RATE


def run(arm, seed, *, steps, held_out):
    """Trains one arm with one seed in the library's loop; distances, clicks and use on held-out tones."""
    started = time.time()
    setting = config(steps=steps, seed=seed, **ARMS[arm])
    with tempfile.TemporaryDirectory() as workdir:
        result = train(setting, workdir)
    if result.reason != "done":  # on SIGTERM the loop saves and returns
        raise RuntimeError(f"arm {arm!r}, seed {seed}: stopped at step {result.step} by {result.reason}")
    task = build(setting["task"], model=build(setting["model"]))

    @jax.jit
    def measure(batch):
        x, y, _, codes = task.reconstruct(result.state.params, result.state.state, batch)
        return x, y, codes, task.evaluate(result.state.params, result.state.state, batch, None)

    source, found = build(setting["data"], held_out=held_out), []
    for batch in source.evaluation(split="test", batch_size=64):
        found.append(jax.device_get(measure(batch)))
    x, y, codes = (np.concatenate(parts) for parts in list(zip(*found))[:3])
    counts = usage.summary(usage.histogram(codes, task.model.quantizer.codebook_size))
    numbers = {
        "mel distance": float(np.mean([part[3]["mel_distance"] for part in found])),
        "STFT distance": float(np.mean([part[3]["stft_distance"] for part in found])),
        "clicks": float(clicks(y).mean()), "clicks of recordings": float(clicks(x).mean()),
        "decoder": sum(leaf.size for leaf in jax.tree.leaves(result.state.params["generator"]["decoder"])),
        **counts,
    }  # fmt: skip
    row = {"arm": arm, "seed": seed, "numbers": numbers, "seconds": round(time.time() - started, 1)}
    print(json.dumps(row), flush=True)
    return row


def claims(rows):
    """The expected directions, each as a difference paired by seed that is positive where it agrees."""

    def of(arm, metric="mel distance"):
        return arms.values(rows, arm, metric)

    first, second = (DECODERS[key] for key in ("transposed", "still"))
    lines = {
        "(1) The mel distance of (iii) is at most 2 % above (ii)'s": 1.02 * of(second) - of(BASE),
        "(1) (ii)'s is below (i)'s": of(first) - of(second),
        "(2) (ii) has fewer clicks than (i)": of(first, "clicks") - of(second, "clicks"),
        "(2) (iii) has fewer clicks than (i)": of(first, "clicks") - of(BASE, "clicks"),
    }
    for size, (less, more) in itertools.product(SIZES, itertools.pairwise(BEGINNINGS)):
        one, other = f"{size}, {less}", f"{size}, {more}"
        name = f"from {less} to {more}, {size} codes"
        lines[f"(3) Use rises {name}"] = of(other, "usage") - of(one, "usage")
        lines[f"(3) The mel distance falls {name}"] = of(one) - of(other)
    small, large = (of(f"{size}, {BEGINNINGS[2]}", "perplexity") for size in SIZES[1:])
    lines["(4) 4096 codes have less than eight times the perplexity of 512 (8 minus ratio)"] = 8 - large / small
    return "\n".join(arms.verdict(claim, difference) for claim, difference in lines.items())


def main(argv=None):
    parser = arms.parser(__doc__, steps=300)
    parser.add_argument("--held-out", type=int, default=256, help="tones that are measured, in multiples of 64")
    options = parser.parse_args(argv)
    started, plan = time.time(), dict(vars(options))
    output = plan.pop("output")
    rows = arms.run_all(run, tuple(ARMS), done=f"{output}/wavtokenizer.jsonl", **plan)
    recordings = np.mean([row["numbers"]["clicks of recordings"] for row in rows])
    sizes = ", ".join(f"{rows[[row['arm'] for row in rows].index(arm)]['numbers']['decoder']:,}" for arm in (
        DECODERS["transposed"], DECODERS["still"], BASE))  # fmt: skip
    report = f"""# WavTokenizer in miniature

{__doc__.partition("results" + chr(10))[2].strip()}

{"Preliminary: fewer than 3 seeds. " * (options.seeds < 3)}Mean and standard error over {options.seeds} seed(s) of
{options.steps} steps of {BATCH} crops of 0.2 s. "{BASE}" is decoder (iii). Parameters of the decoders (i) to (iii):
{sizes}. Distances of {options.held_out} held-out tones, in nats of the mel and as an STFT distance; `clicks`: samples a
second with a second difference over eight times the median ({recordings:.0f} in the recordings); codes over
{rows[0]["numbers"]["tokens"]:,} tokens.

{arms.table(rows, tuple(ARMS), NUMBERS)}

The expected directions as differences paired by seed, positive where they agree, "holds" from two standard errors:

{claims(rows)}"""
    command = "python -m experiments.wavtokenizer " + shlex.join(sys.argv[1:] if argv is None else argv)
    arms.write(output, "wavtokenizer", report, rows, command.strip(), time.time() - started)
    shown = ("mel distance", "clicks", "usage", "perplexity")
    arms.picture(
        rows, tuple(ARMS), shown, f"{output}/wavtokenizer.png", "WavTokenizer in miniature: means, a dot per seed"
    )


if __name__ == "__main__":
    main()
