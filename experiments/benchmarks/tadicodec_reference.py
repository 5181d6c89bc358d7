"""TaDiCodec's arithmetic as its published PyTorch code runs it, in plain modules with the released parameter names.

For `tadicodec_torch.py`. As published: attention through PyTorch's fused kernel with an additive mask, one linear map
per norm and pass, two passes per Euler step, nothing carried from one step to the next. One thing is cheaper here than
there: the rotary angles are made once per pass instead of once per layer.
"""

import pathlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, HEADS, HIDDEN, BITS, BANDS, FACTOR, VOCABULARY = 1024, 16, 4096, 14, 128, 8, 32100
HOP, N_FFT = 480, 1920


class ScaledNorm(nn.Module):
    """RMS normalisation; with ``timed``, its scale is a linear map of the time embedding."""

    def __init__(self, timed: bool):
        super().__init__()
        self.timed = timed
        if timed:
            self.to_weight = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """x [B, T, D], time [B, D]."""
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.to_weight(time)[:, None] * x if self.timed else x


class Attention(nn.Module):
    """Rotary self-attention with one linear map each for queries, keys and values."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in "qkvo")

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, D]; cos, sin [T, head_dim]; bias [B, 1, T, T]."""
        maps = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (linear(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear in maps)
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.o_proj(out.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, D]."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and beside a skip."""

    def __init__(self, timed: bool):
        super().__init__()
        self.self_attn, self.mlp = Attention(), SwiGLU()
        self.input_layernorm, self.post_attention_layernorm = ScaledNorm(timed), ScaledNorm(timed)

    def forward(self, x: Tensor, time: Tensor | None, cos: Tensor, sin: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, D]."""
        x = x + self.self_attn(self.input_layernorm(x, time), cos, sin, bias)
        return x + self.mlp(self.post_attention_layernorm(x, time))


class Stack(nn.Module):
    """The encoder, or with ``timed`` the decoder: time in the norms, text as prefix, tokens added to the frames."""

    def __init__(self, depth: int, timed: bool):
        super().__init__()
        self.in_linear = nn.Linear(BANDS, WIDTH)
        self.layers = nn.ModuleList(Layer(timed) for _ in range(depth))
        self.norm = ScaledNorm(timed)
        if timed:
            self.out_linear = nn.Linear(WIDTH, BANDS)
            self.text_mlp, self.diff_step_mlp, self.cond_mlp = mlp(), mlp(), mlp()

    def forward(self, x: Tensor, mask: Tensor, text=None, text_mask=None, cond=None, t=None) -> Tensor:
        """x [B, T, bands]; mask float [B, T]; text [B, N, D]; cond [B, T, D]; t [B]."""
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
        head_dim = WIDTH // HEADS
        angle = torch.arange(x.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        cos, sin = (torch.cat([part, part], -1) for part in (angle.cos(), angle.sin()))
        for layer in self.layers:
            x = layer(x, time, cos, sin, bias)
        x = self.norm(x, time)[:, -length:]
        return x if t is None else self.out_linear(x)


class Codec(nn.Module):
    """Encoder, quantizer and decoder."""

    def __init__(self, encoder: int, decoder: int):
        super().__init__()
        self.text_emb = nn.Embedding(VOCABULARY, WIDTH)
        self.vq_in_linear, self.vq_out_linear = nn.Linear(WIDTH, BITS), nn.Linear(BITS, WIDTH)
        self.encoder, self.decoder = Stack(encoder, False), Stack(decoder, True)

    def encode(self, mel: Tensor) -> Tensor:
        """Codes int64 [B, T / 8] of mel [B, T, bands]."""
        z = self.encoder(mel, torch.ones(mel.shape[:2]))
        z = functional.normalize(self.vq_in_linear(resize(z, size=mel.shape[1] // FACTOR)), dim=-1)
        return ((z > 0) * powers()).sum(-1)

    def decode(self, codes: Tensor, text_ids: Tensor, x: Tensor, steps: int) -> Tensor:
        """Mel [B, T, bands] from the noise x."""
        bits = (codes[..., None] // powers()) % 2
        cond = resize(self.vq_out_linear((2 * bits - 1) / BITS**0.5), scale_factor=float(FACTOR))
        text, mask, text_mask = self.text_emb(text_ids), torch.ones(x.shape[:2]), torch.ones(text_ids.shape)
        for i in range(steps):
            t = torch.full((len(x),), (i + 0.5) / steps)
            informed = self.decoder(x, mask, text, text_mask, cond, t)
            free = self.decoder(x, mask, cond=torch.zeros_like(cond), t=t)
            v = free + 2.0 * (informed - free)
            v = 0.75 * v * (informed.std() / v.std()) + 0.25 * v
            x = x + v / steps
        return x


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH))


def powers() -> Tensor:
    return 2 ** torch.arange(BITS - 1, -1, -1)


def resize(x: Tensor, **size) -> Tensor:
    return functional.interpolate(x.transpose(1, 2), mode="linear", **size).transpose(1, 2)


def log_mel(audio: Tensor, filters: Tensor) -> Tensor:
    """Normalised mel [B, T, bands] of audio [B, L]."""
    padded = functional.pad(audio[:, None], ((N_FFT - HOP) // 2,) * 2, mode="reflect")[:, 0]
    window = torch.hann_window(N_FFT)
    spectrum = torch.view_as_real(torch.stft(padded, N_FFT, HOP, window=window, center=False, return_complex=True))
    magnitude = torch.sqrt(spectrum.pow(2).sum(-1) + 1e-9).transpose(1, 2)
    return (torch.log(torch.clamp(magnitude @ filters, min=1e-5)) + 4.92) / 8.14**0.5


def sides(folder: pathlib.Path, encoder: int, decoder: int, steps: int, threads: int) -> dict[str, Callable]:
    """``encode(audio)`` and ``decode(codes, text_ids, start)``, numpy to numpy, with the weights of ``folder``."""
    torch.set_num_threads(threads)
    with torch.device("meta"):
        codec = Codec(encoder, decoder)
    with np.load(folder / "torch.npz") as file:  # read, not mapped: all weights are resident on both sides
        codec.load_state_dict({name: torch.from_numpy(file[name]) for name in file.files}, assign=True)
    filters = torch.from_numpy(np.load(folder / "inputs.npz")["filters"])

    def encode(audio: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return codec.encode(log_mel(torch.from_numpy(audio), filters)).numpy()

    def decode(codes: np.ndarray, text_ids: np.ndarray, start: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return codec.decode(*(torch.from_numpy(array) for array in (codes, text_ids, start)), steps).numpy()

    return {"encode": encode, "decode": decode}
