"""TaDiCodec's encode and decode in jaxtok against the reference's arithmetic in PyTorch: ratio of times, peak memory.

    pip install -e '.[parity]'
    JAX_PLATFORMS=cpu python experiments/benchmarks/tadicodec_torch.py [--pairs=5] [--encoder=2] [--decoder=4]

Both sides get the same random weights (the released key names, the paper's width), audio, text, start noise, float32,
and two threads. The PyTorch side does what the published sampler does: two passes per Euler step, one with text and
tokens and one without, with every module, the MLPs of text, tokens and time included, called inside the loop
(inference mode, fused attention). Each framework lives in a process of its own, which prepares, is checked against the
other, and then waits; the runs alternate (PyTorch, jaxtok, PyTorch, ...), so that a ratio compares neighbours in time.
Compilation is not in the times; it is reported. The vocoder is left out: it is the same network on both sides.

Writes tadicodec_torch.json and tadicodec_torch.md beside this file (``--out`` for another place).
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
WIDTH, HEADS, HIDDEN, BITS, BANDS, FACTOR, VOCABULARY = 1024, 16, 4096, 14, 128, 8, 32100
HOP, N_FFT, RATE = 480, 1920, 24000
THREADS = 2


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
    size = dict(width=WIDTH, heads=HEADS, hidden=HIDDEN)
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
    import safetensors.numpy

    from jaxtok.convert import from_reference
    from jaxtok.signal.mel import mel_filters

    rng = np.random.default_rng(0)
    weights = {}
    for name, shape in weight_shapes(settings.encoder, settings.decoder).items():
        weights[name] = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if name.endswith("to_weight.bias"):
            weights[name] += 1
    safetensors.numpy.save_file(weights, folder / "torch.safetensors")
    params = from_reference("tadicodec", weights, model_config(settings.encoder, settings.decoder))
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    flat = {name: np.ascontiguousarray(value) for name, value in flat.items()}
    safetensors.numpy.save_file(flat, folder / "jaxtok.safetensors")
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


# ---- the reference's arithmetic ----


def torch_sides(folder: pathlib.Path, settings: argparse.Namespace):
    """``encode(audio)`` and ``decode(codes, text_ids, start)`` in PyTorch."""
    import torch
    from safetensors.torch import load_file
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(THREADS)

    class ScaledNorm(nn.Module):
        """RMS normalisation whose scale, if any, is a linear map of the time embedding."""

        def __init__(self, timed):
            super().__init__()
            if timed:
                self.to_weight = nn.Linear(WIDTH, WIDTH)
            self.timed = timed

        def forward(self, x, time):
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            return self.to_weight(time)[:, None] * x if self.timed else x

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in "qkvo")

        def forward(self, x, cos, sin, bias):
            batch, length, _ = x.shape
            q, k, v = (
                proj(x).view(batch, length, HEADS, -1).transpose(1, 2)
                for proj in (self.q_proj, self.k_proj, self.v_proj)
            )
            out = functional.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, attn_mask=bias)
            return self.o_proj(out.transpose(1, 2).reshape(batch, length, WIDTH))

    class SwiGLU(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
            self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)

        def forward(self, x):
            return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))

    class Layer(nn.Module):
        def __init__(self, timed):
            super().__init__()
            self.self_attn, self.mlp = Attention(), SwiGLU()
            self.input_layernorm, self.post_attention_layernorm = ScaledNorm(timed), ScaledNorm(timed)

        def forward(self, x, time, cos, sin, bias):
            x = x + self.self_attn(self.input_layernorm(x, time), cos, sin, bias)
            return x + self.mlp(self.post_attention_layernorm(x, time))

    def turn(x, cos, sin):
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], dim=-1) * sin

    def mlp():
        return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH))

    class Stack(nn.Module):
        """Encoder (without time) or decoder (with time, text prefix and token condition)."""

        def __init__(self, depth, timed):
            super().__init__()
            self.in_linear = nn.Linear(BANDS, WIDTH)
            self.layers = nn.ModuleList(Layer(timed) for _ in range(depth))
            self.norm = ScaledNorm(timed)
            if timed:
                self.out_linear = nn.Linear(WIDTH, BANDS)
                self.text_mlp, self.diff_step_mlp, self.cond_mlp = mlp(), mlp(), mlp()

        def forward(self, x, mask, text=None, text_mask=None, cond=None, t=None):
            x, time, length = self.in_linear(x), None, x.shape[1]
            if cond is not None:
                x = x + self.cond_mlp(cond)
            if text is not None:
                x, mask = torch.cat([self.text_mlp(text), x], 1), torch.cat([text_mask, mask], 1)
            if t is not None:
                half = WIDTH // 2
                angle = t[:, None] * torch.exp(torch.arange(half) * (-np.log(10000.0) / (half - 1)))
                time = self.diff_step_mlp(torch.cat([angle.sin(), angle.cos()], -1))
            bias = torch.zeros_like(mask).masked_fill(mask == 0, torch.finfo(torch.float32).min)
            bias = bias[:, None, None, :].expand(-1, 1, x.shape[1], -1)
            angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, 64, 2) / 64)
            cos, sin = (torch.cat([part, part], -1) for part in (angle.cos(), angle.sin()))
            for layer in self.layers:
                x = layer(x, time, cos, sin, bias)
            x = self.norm(x, time)[:, -length:]
            return x if t is None else self.out_linear(x)

    class Codec(nn.Module):
        def __init__(self):
            super().__init__()
            self.text_emb = nn.Embedding(VOCABULARY, WIDTH)
            self.vq_in_linear, self.vq_out_linear = nn.Linear(WIDTH, BITS), nn.Linear(BITS, WIDTH)
            self.encoder, self.decoder = Stack(settings.encoder, False), Stack(settings.decoder, True)

    with torch.device("meta"):
        codec = Codec()
    codec.load_state_dict(load_file(folder / "torch.safetensors"), assign=True)
    inputs = np.load(folder / "inputs.npz")
    filters, window = torch.from_numpy(inputs["filters"]), torch.hann_window(N_FFT)
    powers = 2 ** torch.arange(BITS - 1, -1, -1)

    def resize(x, **size):
        return functional.interpolate(x.transpose(1, 2), mode="linear", **size).transpose(1, 2)

    def encode(audio):
        padded = functional.pad(audio[:, None], ((N_FFT - HOP) // 2,) * 2, mode="reflect")[:, 0]
        spectrum = torch.view_as_real(torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True))
        magnitude = torch.sqrt(spectrum.pow(2).sum(-1) + 1e-9).transpose(1, 2)
        mel = (torch.log(torch.clamp(magnitude @ filters, min=1e-5)) + 4.92) / 8.14**0.5
        z = codec.encoder(mel, torch.ones(mel.shape[:2]))
        z = functional.normalize(codec.vq_in_linear(resize(z, size=mel.shape[1] // FACTOR)), dim=-1)
        return ((z > 0) * powers).sum(-1)

    def decode(codes, text_ids, x):
        bits = (codes[..., None] // powers) % 2
        cond = resize(codec.vq_out_linear((2 * bits - 1) / BITS**0.5), scale_factor=float(FACTOR))
        text, mask, text_mask = codec.text_emb(text_ids), torch.ones(x.shape[:2]), torch.ones(text_ids.shape)
        for i in range(settings.steps):
            t = torch.full((len(x),), (i + 0.5) / settings.steps)
            with_text = codec.decoder(x, mask, text, text_mask, cond, t)
            without = codec.decoder(x, mask, cond=torch.zeros_like(cond), t=t)
            v = without + 2.0 * (with_text - without)
            v = 0.75 * v * (with_text.std() / v.std()) + 0.25 * v
            x = x + v / settings.steps
        return x

    def run(function):
        def call(*arrays):
            with torch.inference_mode():
                return function(*(torch.from_numpy(array) for array in arrays)).numpy()

        return call

    return {"encode": run(encode), "decode": run(decode)}, {}


# ---- jaxtok ----


def jaxtok_sides(folder: pathlib.Path, settings: argparse.Namespace):
    """The same two functions as jaxtok compiles them; the weights are arguments."""
    import flax.traverse_util
    import jax
    import jax.numpy as jnp
    from safetensors import safe_open

    from jaxtok.build import build
    from jaxtok.signal.mel import MelFrontEnd
    from jaxtok.tokenizers.diffusion import FlowSampler

    module, frontend = build(model_config(settings.encoder, settings.decoder)), MelFrontEnd()
    with safe_open(folder / "jaxtok.safetensors", "np") as file:  # one tensor at a time: no second copy of the weights
        flat = {name: jnp.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
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
    sides = {
        "encode": lambda audio: np.asarray(compiled["encode"](params, audio)),
        "decode": lambda codes, *rest: np.asarray(compiled["decode"](params, codes.astype(np.int32), *rest, *masks)),
    }
    return sides, seconds


# ---- processes ----


def work(side: str, folder: pathlib.Path, settings: argparse.Namespace) -> None:
    """A worker: does what the lines on its input name, and answers each with a line of JSON."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    sides, notes = {"torch": torch_sides, "jaxtok": jaxtok_sides}[side](folder, settings)
    inputs = np.load(folder / "inputs.npz")
    print(json.dumps(notes | {"ready_mb": peak_mb()}), flush=True)
    for line in sys.stdin:
        name, save = line.split()[0], line.split()[1:]
        arrays = (
            (inputs["audio"],)
            if name == "encode"
            else (np.load(folder / "codes.npy"), inputs["text_ids"], inputs["start"])
        )
        begin = time.perf_counter()
        out = sides[name](*arrays)
        seconds = time.perf_counter() - begin
        if save:
            np.save(folder / save[0], out)
        print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}), flush=True)


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


class Worker:
    def __init__(self, side: str, folder: pathlib.Path):
        command = [sys.executable, __file__, *sys.argv[1:], f"--work={side}", f"--folder={folder}"]
        environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.notes = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker ended with code {self.process.wait()}")
        return json.loads(line)

    def run(self, *words: str) -> dict:
        print(*words, file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def verify(folder: pathlib.Path, workers: dict[str, Worker]) -> dict:
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


def compare(workers: dict[str, Worker], pairs: int) -> dict:
    times = {name: {side: [] for side in workers} for name in ("encode", "decode")}
    for pair in range(pairs):
        for name, sides in times.items():
            for side, worker in workers.items():
                time.sleep(0.3)  # the other side's threads stop spinning
                sides[side].append(worker.run(name)["seconds"])
            ratio = sides["torch"][-1] / sides["jaxtok"][-1]
            print(
                f"pair {pair + 1} {name}: "
                + f"torch {sides['torch'][-1]:.3f} s, jaxtok {sides['jaxtok'][-1]:.3f} s, ratio {ratio:.3f}",
                flush=True,
            )
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5, help="interleaved runs of each side")
    parser.add_argument("--encoder", type=int, default=2, help="layers (paper: 8)")
    parser.add_argument("--decoder", type=int, default=4, help="layers (paper: 16)")
    parser.add_argument("--steps", type=int, default=32, help="Euler steps")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio, rounded up to whole tokens of 0.16 s")
    parser.add_argument("--text", type=int, default=40, help="text tokens (subwords of 10 s of speech)")
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
        workers = {side: Worker(side, folder) for side in ("torch", "jaxtok")}
        agreement = verify(folder, workers)
        print(json.dumps(agreement), flush=True)
        times = compare(workers, settings.pairs)
        peaks = {side: worker.run("encode")["peak_mb"] for side, worker in workers.items()}
        for worker in workers.values():
            worker.close()
    print(peaks, {side: worker.notes for side, worker in workers.items()})


if __name__ == "__main__":
    main()
