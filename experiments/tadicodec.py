"""TaDiCodec's claim in miniature: with the text given to the decoder, few bits suffice for intelligible speech.

    python -m experiments.tadicodec --jobs 2          # writes tadicodec.json, .md and .png to experiments/results

Speech here is synthetic: 16 phonemes, each a spectral envelope of two peaks over 32 bands; a speaker shifts and tilts
the envelopes; a phoneme lasts 4 to 12 frames; a token has 8 frames. Arms differ in one mechanism each and share the
data, the steps and the seeds. The entropy term is the one of whole codes (BSQ's group = bits); "per bit" is the sum
over single bits that the released system uses. Why, and what else was tried: experiments/LOG.md.

Expected, from the paper: (1) with text fewer phonemes are wrong, the more so the fewer the bits; (2) a prompt lowers
the error of the speaker's tilt and hardly moves the phonemes'; (3) the entropy term brings more codes into use;
(4) with text the codes tell less of phonemes, and more of durations and speaker, than without.
"""

import functools
import json
import shlex
import sys
import tempfile
import time

import jax
import numpy as np

from experiments import arms
from experiments.toy_speech import BANDS, FRAMES, PHONEMES, Speech, judge, probe
from jaxtok.build import build
from jaxtok.diffusion import noise
from jaxtok.quantizers import usage
from jaxtok.tokenizers.diffusion import FlowSampler
from jaxtok.train.loop import train

FACTOR, PROMPT = 8, 8  # frames per token, frames of the prompt
DEPTHS = (2, 3)  # blocks of the encoder and the decoder
ARMS = {
    "base": {},
    "text off": dict(text=False),
    "prompt off": dict(prompt_rate=0.0),
    "entropy off": dict(entropy=0.0),
    "entropy per bit": dict(group=1),
    "half bits": dict(bits=4),
    "half bits, text off": dict(bits=4, text=False),
}
ERRORS = ("phoneme", "mel", "tilt", "phoneme, no prompt", "mel, no prompt", "tilt, no prompt", "phoneme, wrong text")
CODES = ("used", "perplexity", "R2 phoneme", "R2 duration", "R2 tilt", "R2 shift")


def config(*, steps, seed=0, text=True, prompt_rate=0.8, entropy=1.0, bits=8, group=0):
    size = dict(width=64, heads=4, hidden=128)
    return dict(
        slug="tadicodec",
        seed=seed,
        model=dict(
            target="jaxtok.tokenizers.diffusion:DiffusionTokenizer",
            encoder=dict(target="jaxtok.papers.tadicodec:Encoder", depth=DEPTHS[0], bits=bits, factor=FACTOR, **size),
            quantizer=dict(target="jaxtok.quantizers.bsq:BSQ", bits=bits, entropy=entropy, group=group or bits),
            decoder=dict(
                target="jaxtok.papers.tadicodec:PrefixDecoder", bands=BANDS, depth=DEPTHS[1], vocabulary=PHONEMES,
                factor=FACTOR, **size,
            ),
        ),
        task=dict(
            target="jaxtok.tasks.autoencode:SpeechFlow", prompt_rate=prompt_rate, prompt_share=0.4, code_drop=0.0
        ),
        data=dict(target="experiments.toy_speech:Speech", text=text),
        train=dict(
            steps=steps, batch_size=16, ema=0.99, mesh=dict(data=1), log_every=50,
            players=dict(main=dict(pattern=".*", clip=0.5, optimizer=dict(
                target="jaxtok.train.optimizers:adamw", weight_decay=0.01,
                schedule=dict(target="jaxtok.train.schedules:cosine", peak=3e-3, steps=steps, warmup=steps // 10),
            ))),
        ),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def encode(task, params, batch):
    mel, mask = task.frames(batch)
    return task.model.apply({"params": params}, mel, mask=mask, method="encode")


@functools.partial(jax.jit, static_argnums=0)
def decode(task, params, latents, batch, prompt):
    """Mels decoded from code vectors and the batch's text, with the first ``prompt`` frames shown clean."""
    mel, mask = task.frames(batch)
    cond = {name: batch[name] for name in ("text_ids", "text_mask")}
    cond |= {"prompt": mel, "prompt_mask": mask & (np.arange(FRAMES) < prompt)}
    keys = noise.per_example(jax.random.key(0), batch["index"])
    return task.model.apply(
        {"params": params}, latents, mask=mask, cond=cond, rng=keys,
        sampler=FlowSampler(steps=16, guidance=1.0), method="decode",
    )  # fmt: skip


def run(arm, seed, *, steps, held_out, decoded):
    """Trains one arm with one seed in the library's loop; its numbers on held-out utterances."""
    started = time.time()
    setting = config(steps=steps, seed=seed, **ARMS[arm])
    with tempfile.TemporaryDirectory() as workdir:
        result = train(setting, workdir)
    if result.reason != "done":  # on SIGTERM the loop saves and returns
        raise RuntimeError(f"arm {arm!r}, seed {seed}: stopped at step {result.step} by {result.reason}")
    trained = time.time() - started
    task = build(setting["task"], model=build(setting["model"]))
    (batch,) = build(setting["data"], held_out=held_out).evaluation(split="test", batch_size=held_out)
    tokens = jax.device_get(encode(task, result.state.ema, batch))
    counts = usage.histogram(tokens.codes, task.model.quantizer.codebook_size)
    numbers = usage.summary(counts) | probe(tokens.codes, tokens.latents, batch)
    some = {name: value[:decoded] for name, value in batch.items()}
    wrong = some | {name: np.roll(some[name], 1, axis=0) for name in ("text_ids", "text_mask")}
    for name, given, prompt in (("", some, PROMPT), (", no prompt", some, 0), (", wrong text", wrong, PROMPT)):
        mel = jax.device_get(decode(task, result.state.ema, tokens.latents[:decoded], given, prompt))
        numbers |= {key + name: value for key, value in judge(mel, some, PROMPT).items()}
    row = {"arm": arm, "seed": seed, "numbers": numbers, "seconds": round(trained, 1)}
    print(json.dumps(row), flush=True)
    return row


def claims(rows):
    """The expected directions, each as a difference paired by seed that is positive where it agrees."""

    def gap(metric, high, low):
        return arms.values(rows, high, metric) - arms.values(rows, low, metric)

    def spread(arm):
        return gap("perplexity", arm, "entropy off")

    text = gap("phoneme", "text off", "base")
    present = {row["arm"] for row in rows}
    unseen = arms.values(rows, "prompt off", "tilt, no prompt") - arms.values(rows, "base", "tilt")
    moved = np.abs(arms.values(rows, "prompt off", "phoneme, no prompt") - arms.values(rows, "base", "phoneme"))
    lines = {
        "(1) Text lowers the phoneme error at 8 bits (off minus on)": text,
        "(2) The prompt lowers the tilt error (trained and decoded without, minus with)": unseen,
        "(2) It moves the phoneme error by less than 0.05 (0.05 minus the absolute move)": 0.05 - moved,
        "(3) The entropy term brings more codes into use (perplexity, on minus off)": spread("base"),
        "(4) With text the codes tell less of phonemes (R2, off minus on)": gap("R2 phoneme", "text off", "base"),
        "(4) They tell more of durations (R2, on minus off)": gap("R2 duration", "base", "text off"),
        "(4) They tell more of the speaker's tilt (R2, on minus off)": gap("R2 tilt", "base", "text off"),
    }
    if {"half bits", "half bits, text off"} <= present:
        half = gap("phoneme", "half bits, text off", "half bits")
        lines["(1) Text lowers it at 4 bits (off minus on)"] = half
        lines["(1) Its gain grows as the bits fall (gain at 4 minus gain at 8)"] = half - text
    if "entropy per bit" in present:
        lines["(3) So does the one of single bits (perplexity, per bit minus off)"] = spread("entropy per bit")
    return "\n".join(arms.verdict(claim, difference) for claim, difference in lines.items())


def main(argv=None):
    parser = arms.parser(__doc__, steps=2400)
    parser.add_argument("--held-out", type=int, default=2560, help="utterances whose codes are counted and probed")
    parser.add_argument("--decoded", type=int, default=192, help="of them, utterances that are decoded and judged")
    parser.add_argument("--all-arms", action="store_true", help="the arms of half the bits and single bits too")
    options = parser.parse_args(argv)
    started, plan = time.time(), dict(vars(options))
    output, names = plan.pop("output"), tuple(ARMS) if plan.pop("all_arms") else tuple(ARMS)[:4]
    rows = arms.run_all(run, names, done=f"{output}/tadicodec.jsonl", **plan)
    (batch,) = Speech(held_out=options.decoded).evaluation(split="test", batch_size=options.decoded)
    truth = judge(batch["mel"], batch, PROMPT)
    report = f"""# TaDiCodec in miniature

{__doc__.partition("results" + chr(10))[2].strip()}

Mean and standard error over {options.seeds} seeds of {options.steps} steps. All errors are over the frames after the
first {PROMPT}, which are the prompt unless there is none. `phoneme`: share of wrong phonemes by a matched filter over
the true segments that knows the speaker's shift (true mels: {truth["phoneme"]:.3f}); `mel`: L1; `tilt`: absolute error
of the spectrum's slope (true mels: {truth["tilt"]:.3f}); `wrong text`: the decoder reads another utterance's. One
sample of {options.decoded} utterances each, 16 Euler steps, no guidance.

{arms.table(rows, names, ERRORS)}

Codes, over {rows[0]["numbers"]["tokens"]} tokens; R2: how much a code and its neighbours explain (ridge, held out).

{arms.table(rows, names, CODES)}

The expected directions as differences paired by seed, positive where they agree, "holds" from two standard errors:

{claims(rows)}"""
    command = "python -m experiments.tadicodec " + shlex.join(sys.argv[1:] if argv is None else argv)
    arms.write(output, "tadicodec", report, rows, command.strip(), time.time() - started)
    shown = (*ERRORS[:3], "tilt, no prompt", "phoneme, wrong text", *CODES[1:4])
    arms.picture(rows, names, shown, f"{output}/tadicodec.png", "TaDiCodec in miniature: means, a dot per seed")


if __name__ == "__main__":
    main()
