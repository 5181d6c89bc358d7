"""Waveform codecs in jaxtok beside transformers' EnCodec and Mimi: real-time factors and memory by length.

    pip install -e '.[parity]'
    JAX_PLATFORMS=cpu python experiments/benchmarks/codec_torch.py [--pairs=3] [--threads=2] [--seconds=1,10,60,120]

Random weights, float32, one recording at a time:

- encodec: EnCodec at 24 kHz with 8 codebooks, audio to codes to audio; jaxtok's SEANet with residual VQ has the same
  weights, so both do the same work. The vectors before the codebooks are compared before timing.
- wavtokenizer: WavTokenizer at paper size (480 bit/s), audio to codes to audio, beside EnCodec of 1.5 kbit/s.
- tadicodec: TaDiCodec's mel, encoder and codes with 4 of its 8 blocks, 67.3 M parameters, beside Mimi's encoder and
  codes, 65.1 M. Ours attends to all frames, 50 a second (``jaxtok.load`` cuts windows of 40 s), Mimi's to the last 250
  of 25 a second.

Each side lives in a process of its own, and they take turns (``pairs.py``). Compilation is not in the times. Memory is
the most that a fresh process with this codec alone ever held, after the lengths in their order.

Writes codec_torch.json and codec_torch.md beside this file (``--out`` for another place).
"""

import argparse
import functools
import json
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import pairs

HERE = pathlib.Path(__file__).resolve().parent
RATE = 24000
LAYERS = 8  # EnCodec's codebooks at 6 kbit/s
WORK = (
    "A second of audio takes TaDiCodec's encoder 6.0 GFLOP in 10 s, 7.7 in 60 s and 9.7 in 120 s, Mimi's 5.3 in all: "
    "attention to everything against attention to the last ten seconds."
)
PEERS = {"encodec": "EnCodec, the same", "wavtokenizer": "EnCodec at 1.5 kbit/s", "tadicodec": "Mimi's encoder"}


def audio(seconds: float) -> np.ndarray:
    """Noise under a slow swell."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (np.random.default_rng(0).standard_normal(len(time)) * np.sin(3 * time) / 8).astype(np.float32)


def encodec():
    """transformers' EnCodec with random weights, the same in both processes."""
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.EncodecModel(transformers.EncodecConfig()).eval()
    with torch.no_grad():
        for layer in model.quantizer.layers:  # codebooks begin as zeros
            layer.codebook.embed.normal_()
    return model


# ---- jaxtok ----


def drawn(module, *blank, **more):
    """Random variables of a module."""
    import jax
    import jax.numpy as jnp

    init = functools.partial(module.init, **more)
    shapes, rng = jax.eval_shape(init, jax.random.key(0), *blank), np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.02 * rng.standard_normal(s.shape), s.dtype), shapes)


def size(params) -> int:
    """Numbers in a tree."""
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params))


def jaxtok_encodec() -> tuple[dict[str, Callable], int]:
    """Audio to audio and audio to frames with the weights of transformers' model, and their number."""
    import jax
    import jax.numpy as jnp

    import jaxtok.quantizers as jq
    from jaxtok.convert import seanet as convert
    from jaxtok.nn import seanet
    from jaxtok.tokenizers.waveform import WaveformTokenizer

    reference = encodec()
    arrays = {name: value.numpy() for name, value in reference.state_dict().items()}
    books = len(reference.quantizer.layers)
    quantizer = jq.ResidualVQ(layers=tuple(jq.EMAVQ(size=1024, width=128) for _ in range(books)))
    tokenizer = WaveformTokenizer(seanet.Encoder(), quantizer, seanet.Decoder())
    book = jax.tree.map(jnp.asarray, convert.codebook_from(arrays, tokenizer))
    params = jax.tree.map(jnp.asarray, convert.params_from(arrays, tokenizer))
    few = WaveformTokenizer(seanet.Encoder(), jq.ResidualVQ(layers=quantizer.layers[:LAYERS]), seanet.Decoder())
    names = [f"layers_{i}" for i in range(LAYERS)]
    variables = {"params": params, "codebook": {"quantizer": {name: book["quantizer"][name] for name in names}}}
    frames = jax.jit(lambda params, x: few.encoder.apply({"params": params["encoder"]}, x[..., None])[0])
    whole = jax.jit(lambda variables, x: few.apply(variables, x)[1])
    calls = {"encodec": functools.partial(whole, variables), "frames": functools.partial(frames, params)}
    return calls, size(params)


def jaxtok_wavtokenizer() -> tuple[dict[str, Callable], int]:
    """Audio to audio at paper size, and its parameters."""
    import jax
    import jax.numpy as jnp

    import jaxtok

    wave = jaxtok.build(jaxtok.get_config("wavtokenizer:paper").model)
    variables = drawn(wave, jnp.zeros((1, wave.hop)))
    whole = jax.jit(lambda variables, x: wave.apply(variables, x)[1])
    return {"wavtokenizer": functools.partial(whole, variables)}, size(variables["params"])


def jaxtok_tadicodec() -> tuple[dict[str, Callable], int]:
    """Audio to codes by an encoder of four blocks, and its parameters."""
    import jax
    import jax.numpy as jnp

    import jaxtok

    config = jaxtok.get_config("tadicodec:paper")
    small = dict(dtype="float32", remat="", scan=False)
    config.model.encoder.update(depth=4, **small)
    config.model.decoder.update(depth=1, **small)
    speech, frontend = jaxtok.build(config.model), jaxtok.build(config.frontend)
    text = {"text_ids": jnp.zeros((1, 4), jnp.int32)}
    variables = drawn(speech, jnp.zeros((1, 16, 128)), jnp.ones(1), cond=text)

    def codes(variables, x):
        mel = frontend(jnp.pad(x, ((0, 0), (0, -x.shape[1] % (8 * frontend.hop)))))
        return speech.apply(variables, mel, method="encode").codes

    return {"tadicodec": functools.partial(jax.jit(codes), variables)}, size(variables["params"]["encoder"])


BUILDERS = {"encodec": jaxtok_encodec, "wavtokenizer": jaxtok_wavtokenizer, "tadicodec": jaxtok_tadicodec}


def jaxtok_work(folder: pathlib.Path, settings: argparse.Namespace):
    calls, count = {}, {}
    for codec in [settings.only] if settings.only else PEERS:
        made, count[codec] = BUILDERS[codec]()
        calls |= made

    def ready(name: str) -> Callable:
        codec, _, seconds = name.partition("-")
        x = audio(float(seconds))[None]
        np.asarray(calls[codec](x))  # compiles
        return lambda: np.asarray(calls[codec](x))

    return functools.lru_cache(ready), {"parameters": count}


# ---- PyTorch ----


def torch_work(folder: pathlib.Path, settings: argparse.Namespace):
    """The peers of the same names."""
    import torch
    import transformers

    torch.set_num_threads(settings.threads)
    first = encodec()
    torch.manual_seed(0)
    mimi = transformers.MimiModel(transformers.MimiConfig()).eval()

    def encoded(bandwidth: float) -> Callable:
        def call(x):
            found = first.encode(x[:, None], bandwidth=bandwidth)
            return first.decode(found.audio_codes, found.audio_scales)[0]

        return call

    calls = {
        "encodec": encoded(6.0), "wavtokenizer": encoded(1.5), "tadicodec": lambda x: mimi.encode(x[:, None])[0],
        "frames": lambda x: first.encoder(x[:, None]).transpose(1, 2),
    }  # fmt: skip

    def ready(name: str) -> Callable:
        codec, _, seconds = name.partition("-")
        x = torch.from_numpy(audio(float(seconds)))[None]

        def call():
            with torch.inference_mode():
                return calls[codec](x).numpy()

        call()
        return call

    parts = {"encodec": [first.encoder, first.decoder]}
    parts |= {"wavtokenizer": parts["encodec"], "tadicodec": [mimi.encoder, mimi.encoder_transformer, mimi.downsample]}
    count = {name: sum(p.numel() for part in used for p in part.parameters()) for name, used in parts.items()}
    return functools.lru_cache(ready), {"parameters": count}


# ---- processes ----


def work(side: str, folder: pathlib.Path, settings: argparse.Namespace) -> None:
    """A worker of one side."""
    pairs.pin(settings.threads)
    ready, notes = (torch_work if side == "torch" else jaxtok_work)(folder, settings)
    pairs.serve(ready, folder, notes)


def verify(folder: pathlib.Path, workers: dict[str, pairs.Worker]) -> float:
    """The largest difference of EnCodec's frames over their largest value; refuses to time what does not agree."""
    for side, worker in workers.items():
        worker.run("frames-2", f"{side}.npy")
    ours, theirs = (np.load(folder / f"{side}.npy") for side in ("jaxtok", "torch"))
    found = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not found <= 1e-4:
        raise SystemExit(f"EnCodec's frames differ, relative to the largest: {found}")
    return found


def memory(settings: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Peak megabytes of fresh processes, after each length in turn."""
    found: dict = {}
    for codec in PEERS:
        for side in ("torch", "jaxtok"):
            worker = start(side, settings, folder, pairs.TIGHT, codec)
            runs = [worker.run(f"{codec}-{seconds}") for seconds in settings.seconds]
            found.setdefault(codec, {})[side] = [worker.notes["ready_mb"], *(run["peak_mb"] for run in runs)]
            worker.close()
    return found


def start(side: str, settings: argparse.Namespace, folder: pathlib.Path, kept: dict, only: str = "") -> pairs.Worker:
    return pairs.Worker((f"--work={side}", f"--folder={folder}", f"--only={only}"), folder, settings.threads, kept)


def report(settings: argparse.Namespace, agreement: float, times: dict, notes: dict, peaks: dict) -> None:
    """Writes the numbers as JSON and as a page."""
    result = pairs.setting("codec_torch.py", ("jax", "jaxlib", "flax", "torch", "transformers", "numpy")) | dict(
        agreement=agreement, parameters={side: note["parameters"] for side, note in notes.items()}, peak_mb=peaks,
        seconds=settings.seconds, runs={name: pairs.compared(sides) for name, sides in times.items()},
    )  # fmt: skip
    settings.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        "# Codecs: jaxtok beside transformers", "", f"    {result['command']}", "",
        pairs.described(result, settings.threads) + " Real-time factor = seconds of work over seconds of audio.", "",
        "| jaxtok | beside | audio, s | PyTorch, real-time factor | jaxtok | ratios | median |", "| --- " * 7 + "|",
    ]  # fmt: skip
    for name, run in result["runs"].items():
        codec, _, seconds = name.partition("-")
        millions = [result["parameters"][side][codec] / 1e6 for side in ("jaxtok", "torch")]
        factors = [min(run[f"{side}_s"]) / float(seconds) for side in ("torch", "jaxtok")]
        lines.append(
            f"| {codec}, {millions[0]:.1f} M | {PEERS[codec]}, {millions[1]:.1f} M | {seconds} | {factors[0]:.4f} "
            f"| {factors[1]:.4f} | {', '.join(f'{r:.2f}' for r in run['ratios'])} | **{run['median_ratio']:.2f}** |"
        )
    lengths = ", ".join(f"{seconds:g}" for seconds in settings.seconds)
    lines += ["", WORK, "", f"EnCodec's frames agree to {agreement:.1e} of their largest value.", "",
              f"Peak memory in MB: before the first call, then after {lengths} s.", "",
              "| | PyTorch | jaxtok |", "| --- " * 3 + "|"]  # fmt: skip
    for codec, sides in peaks.items():
        lines.append(f"| {codec} | {', '.join(map(str, sides['torch']))} | {', '.join(map(str, sides['jaxtok']))} |")
    settings.out.with_suffix(".md").write_text("\n".join([*lines, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, help="interleaved runs of each side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--seconds", type=lambda text: [float(f) for f in text.split(",")], default=[1.0, 10.0, 60.0, 120.0]
    )
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "codec_torch")
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(), help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.work:
        return work(settings.work, settings.folder, settings)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        workers = {side: start(side, settings, folder, pairs.KEPT) for side in ("torch", "jaxtok")}
        agreement = verify(folder, workers)
        print(f"EnCodec's frames agree to {agreement:.1e}", flush=True)
        # Ten seconds of audio or more each time: one call of 60 ms after seconds of the other side times the caches.
        often = {seconds: max(1, round(10 / seconds)) for seconds in settings.seconds}
        turns = {f"{codec}-{seconds:g}": often[seconds] for seconds in settings.seconds for codec in PEERS}
        times = pairs.alternate(workers, turns, settings.pairs, settings.threads)
        for worker in workers.values():
            worker.close()
        peaks = memory(settings, folder)
    report(settings, agreement, times, {side: worker.notes for side, worker in workers.items()}, peaks)


if __name__ == "__main__":
    main()
