"""TaDiCodec's claim in miniature: with the text given to the decoder, few bits suffice for intelligible speech.

    python -m experiments.tadicodec --jobs 2          # writes tadicodec.json, .md and .png to experiments/results

Speech here is synthetic: 16 phonemes, each a spectral envelope of two peaks over 32 bands; a speaker shifts and tilts
the envelopes; a phoneme lasts 4 to 12 frames. The arms differ in one mechanism each and share data, steps and seeds.
Expected, from the paper: (1) with text fewer phonemes are wrong, the more so the fewer the bits; (2) a prompt lowers
the error of the speaker's tilt and hardly moves the phonemes'; (3) the entropy term brings more codes into use;
(4) with text the codes tell less of phonemes, relative to durations and speaker, than without.
"""

import dataclasses
import functools
import json
import tempfile
import time

import grain
import jax
import numpy as np

from jaxtok.build import build
from jaxtok.diffusion import noise
from jaxtok.quantizers import usage
from jaxtok.tokenizers.diffusion import FlowSampler
from jaxtok.train.loop import train

FRAMES, BANDS, PHONEMES, FACTOR, PROMPT = 64, 32, 16, 8, 16
LINE = np.linspace(-1.0, 1.0, BANDS)
ARMS = {
    "base": {},
    "text off": dict(text=False),
    "prompt off": dict(prompt_rate=0.0),
    "entropy off": dict(entropy=0.0),
    "half bits": dict(bits=4),
    "half bits, text off": dict(bits=4, text=False),
}


def straighten(x):
    """x [..., BANDS] without its least-squares line, and the line's slope [...]."""
    slope = (x * LINE).sum(-1) / (LINE**2).sum()
    return x - x.mean(-1, keepdims=True) - slope[..., None] * LINE, slope


def envelopes(shift):
    """The phonemes as a speaker with this shift says them, [PHONEMES, BANDS]: no mean, no slope, variance 1."""
    low, high = np.divmod(np.arange(PHONEMES), 4)
    peaks = np.stack([5 + 3 * low, 18 + 3 * high], -1)[..., None] + shift  # [PHONEMES, 2, 1]
    shape, _ = straighten(np.exp(-(((np.arange(BANDS) - peaks) / 1.7) ** 2)).sum(1))
    return shape / shape.std(-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Speech:
    """Endless synthetic utterances of FRAMES frames; ``text`` False hides the transcript, in training and after."""

    text: bool = True
    held_out: int = 640

    def example(self, split, seed, index):
        rng = np.random.default_rng((split, seed, index))
        shift, tilt = rng.uniform(-1.5, 1.5), rng.uniform(-1.0, 1.0)
        durations = []
        while FRAMES - sum(durations) > 12:
            durations.append(min(rng.integers(4, 13), FRAMES - sum(durations) - 4))
        durations.append(FRAMES - sum(durations))
        steps = rng.integers(1, PHONEMES, len(durations))  # from one phoneme to the next, never the same twice
        phonemes = np.cumsum(steps) % PHONEMES
        mel = np.repeat(envelopes(shift)[phonemes], durations, axis=0) + tilt * LINE
        text = np.zeros(FRAMES // 4, np.int32)
        text[: len(phonemes)] = phonemes
        return {
            "mel": (mel + 0.2 * rng.normal(size=mel.shape)).astype(np.float32),
            "text_ids": text,
            "text_mask": (np.arange(len(text)) < len(phonemes)) & self.text,
            "phoneme": np.repeat(phonemes, durations).astype(np.int32),
            "segment": np.repeat(np.arange(len(phonemes)), durations).astype(np.int32),
            "duration": np.repeat(durations, durations).astype(np.float32),
            "shift": np.float32(shift),
            "tilt": np.float32(tilt),
            "index": np.int32(index),
        }

    def training(self, *, batch_size, seed, process_index=0, process_count=1):
        data = grain.MapDataset.range(1 << 30).map(functools.partial(self.example, 0, seed))
        data = data[process_index::process_count].batch(batch_size // process_count)
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

    def evaluation(self, *, split, batch_size, limit=0, process_index=0, process_count=1):
        del split, process_index, process_count
        for begin in range(0, limit or self.held_out, batch_size):
            rows = [self.example(1, 0, index) for index in range(begin, begin + batch_size)]
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def config(*, steps, seed=0, text=True, prompt_rate=0.8, entropy=1.0, bits=8, held_out=640, rate=3e-3, width=64):
    size = dict(width=width, heads=4, hidden=2 * width)
    return dict(
        slug="tadicodec",
        seed=seed,
        model=dict(
            target="jaxtok.tokenizers.diffusion:DiffusionTokenizer",
            encoder=dict(target="jaxtok.papers.tadicodec:Encoder", depth=2, bits=bits, factor=FACTOR, **size),
            quantizer=dict(target="jaxtok.quantizers.bsq:BSQ", bits=bits, entropy=entropy),
            decoder=dict(
                target="jaxtok.papers.tadicodec:PrefixDecoder", bands=BANDS, depth=3, vocabulary=PHONEMES,
                factor=FACTOR, **size,
            ),
        ),
        task=dict(
            target="jaxtok.tasks.autoencode:SpeechFlow", prompt_rate=prompt_rate, prompt_share=0.4, code_drop=0.0
        ),
        data=dict(target="experiments.tadicodec:Speech", text=text, held_out=held_out),
        train=dict(
            steps=steps, batch_size=32, ema=0.99, mesh=dict(data=1), log_every=50,
            players=dict(main=dict(pattern=".*", clip=0.5, optimizer=dict(
                target="jaxtok.train.optimizers:adamw", weight_decay=0.01,
                schedule=dict(target="jaxtok.train.schedules:cosine", peak=rate, steps=steps, warmup=steps // 10),
            ))),
        ),
    )  # fmt: skip


@functools.partial(jax.jit, static_argnums=0, static_argnames=("prompt", "steps"))
def encode_decode(task, params, batch, *, prompt, steps=16):
    """(code vectors, codes, decoded mel) with the first ``prompt`` frames shown clean; ``steps`` 0 only encodes."""
    mel, mask = task.frames(batch)
    tokens = task.model.apply({"params": params}, mel, mask=mask, method="encode")
    if not steps:
        return tokens.latents, tokens.codes, None
    cond = {name: batch[name] for name in ("text_ids", "text_mask")}
    cond |= {"prompt": mel, "prompt_mask": mask & (np.arange(FRAMES) < prompt)}
    keys = noise.per_example(jax.random.key(0), batch["index"])
    decoded = task.model.apply(
        {"params": params}, tokens.latents, mask=mask, cond=cond, rng=keys,
        sampler=FlowSampler(steps=steps, guidance=1.0), method="decode",
    )  # fmt: skip
    return tokens.latents, tokens.codes, decoded


def judge(mel, truth):
    """Errors of mels [N, FRAMES, BANDS] on the frames after PROMPT; a phoneme is judged over its true segment.

    The judge correlates the segment's straightened mean with the 16 envelopes of the true speaker (his shift is known to
    it). The tilt is the slope of the mean spectrum, for the phonemes have none.
    """
    wrong = []
    for one, phoneme, segment, shift in zip(mel, truth["phoneme"], truth["segment"], truth["shift"]):
        filters = envelopes(shift)
        for which in range(segment[PROMPT] + 1, segment[-1] + 1):
            mean, _ = straighten(one[segment == which].mean(0))
            wrong.append((filters @ mean).argmax() != phoneme[segment == which][0])
    _, slope = straighten(mel[:, PROMPT:].mean(1))
    return {
        "phoneme": float(np.mean(wrong)),
        "mel": float(np.abs(mel - truth["mel"])[:, PROMPT:].mean()),
        "tilt": float(np.abs(slope - truth["tilt"]).mean()),
    }


def probe(latents, truth):
    """Share of the variance (R2) that least squares from each code vector and its two neighbours explain, held out."""
    around = np.pad(latents, ((0, 0), (1, 1), (0, 0)))
    x = np.concatenate([around[:, :-2], around[:, 1:-1], around[:, 2:], np.ones_like(latents[..., :1])], -1)
    middle = slice(FACTOR // 2, None, FACTOR)
    count = latents.shape[1]
    targets = {
        "phoneme": np.eye(PHONEMES)[truth["phoneme"][:, middle]],
        "duration": truth["duration"][:, middle, None],
        "tilt": np.repeat(truth["tilt"][:, None, None], count, 1),
        "shift": np.repeat(truth["shift"][:, None, None], count, 1),
    }
    half, found = len(x) // 2, {}
    for name, y in targets.items():
        weights, *_ = np.linalg.lstsq(x[:half].reshape(-1, x.shape[-1]), y[:half].reshape(-1, y.shape[-1]), rcond=None)
        rest = y[half:] - x[half:] @ weights
        found[f"R2 {name}"] = float(1 - (rest**2).sum() / ((y[half:] - y[:half].mean((0, 1))) ** 2).sum())
    return found


def run(arm, seed, steps, held_out, decoded, **fields):
    """Trains one arm with one seed in the library's loop; its numbers on held-out utterances."""
    started = time.time()
    fields = dict(steps=steps, seed=seed, held_out=held_out) | ARMS[arm] | fields
    setting = config(**fields)
    with tempfile.TemporaryDirectory() as workdir:
        result = train(setting, workdir)
    trained = time.time() - started
    task = build(setting["task"], model=build(setting["model"]))
    (batch,) = build(setting["data"]).evaluation(split="test", batch_size=held_out)
    params = result.state.ema or result.state.params
    latents, codes, _ = encode_decode(task, params, batch, prompt=0, steps=0)
    counts = usage.histogram(np.asarray(codes), 2 ** setting["model"]["quantizer"]["bits"])
    some = {name: value[:decoded] for name, value in batch.items()}
    wrong = some | {name: np.roll(some[name], 1, axis=0) for name in ("text_ids", "text_mask")}
    numbers = {"flow": float(result.metrics["main/flow"]), **usage.summary(counts), **probe(np.asarray(latents), batch)}
    for name, given, prompt in (("", some, PROMPT), (", no prompt", some, 0), (", wrong text", wrong, PROMPT)):
        mel = np.asarray(encode_decode(task, params, given, prompt=prompt)[2])
        numbers |= {key + name: value for key, value in judge(mel, some).items()}
    seconds = {"train": round(trained, 1), "all": round(time.time() - started, 1)}
    print(f"{arm} {seed}: {json.dumps(numbers)} {seconds}", flush=True)
    return {"arm": arm, "seed": seed, "numbers": numbers, "seconds": seconds}
