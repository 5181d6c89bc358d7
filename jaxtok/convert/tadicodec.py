"""TaDiCodec's released layout (tokenizer part; the vocoder has a converter of its own)."""

from typing import Any

import numpy as np

from jaxtok.convert.keys import StrictReader
from jaxtok.nn.llama import stack_blocks
from jaxtok.tokenizers.diffusion import DiffusionTokenizer


def params_from(state_dict: dict[str, np.ndarray], module: DiffusionTokenizer) -> dict[str, Any]:
    """Parameters of a TaDiCodec ``DiffusionTokenizer`` from the reference's names.

    The buffers ``bsq.basis`` and ``bsq.group_basis`` are recomputed and ignored.

    Raises:
      ValueError: for a missing, unknown or misshapen key, by name.
    """
    keys = StrictReader(state_dict, ignore=lambda name: name.startswith("bsq."))
    encoder, decoder, bits = module.encoder, module.decoder, module.quantizer.bits
    params = {
        "encoder": {
            "in_linear": keys.linear("encoder.in_linear", decoder.bands, encoder.width),
            "transformer": llama(keys, "encoder", encoder),
            "code_linear": keys.linear("vq_in_linear", encoder.width, bits),
        },
        "decoder": {
            "in_linear": keys.linear("decoder.in_linear", decoder.bands, decoder.width),
            "out_linear": keys.linear("decoder.out_linear", decoder.width, decoder.bands),
            "code_linear": keys.linear("vq_out_linear", bits, decoder.width),
            "text_embed": {"embedding": keys.take("text_emb.weight", (decoder.vocabulary, decoder.width))},
            "transformer": llama(keys, "decoder", decoder),
            "norm_scales": norm_scales(keys, "decoder", decoder),
            **{
                ours: mlp(keys, f"decoder.{theirs}", decoder.width)
                for ours, theirs in (("text_mlp", "text_mlp"), ("time_mlp", "diff_step_mlp"), ("code_mlp", "cond_mlp"))
            },
        },
    }
    keys.finish()
    return params


def mlp(keys: StrictReader, name: str, width: int) -> dict[str, Any]:
    """Of a Linear, SiLU and Linear in a Sequential, four times as wide within."""
    return {
        "hidden_linear": keys.linear(f"{name}.0", width, 4 * width),
        "out_linear": keys.linear(f"{name}.2", 4 * width, width),
    }


def llama(keys: StrictReader, name: str, part: Any) -> dict[str, Any]:
    """Of the blocks of a :class:`jaxtok.nn.llama.Llama` without norm scales, with the sizes of ``part``."""
    width, heads = part.width, part.heads
    blocks = {}
    for i in range(part.depth):
        layer = f"{name}.layers.{i}"
        q, k, v, o = (
            keys.linear(f"{layer}.self_attn.{p}_proj", width, width, bias=False)["kernel"] for p in ("q", "k", "v", "o")
        )
        gate, up = (
            keys.linear(f"{layer}.mlp.{p}_proj", width, part.hidden, bias=False)["kernel"] for p in ("gate", "up")
        )
        blocks[f"blocks_{i}"] = {
            "attention": {
                "qkv": {"kernel": np.stack([q, k, v], axis=1).reshape(width, 3, heads, width // heads)},
                "out": {"kernel": o.reshape(heads, width // heads, width)},
            },
            "mlp": {
                "gate_up": {"kernel": np.stack([gate, up], axis=1)},
                "down": keys.linear(f"{layer}.mlp.down_proj", part.hidden, width, bias=False),
            },
        }
    return stack_blocks(blocks) if part.scan else blocks


def norm_scales(keys: StrictReader, name: str, part: Any) -> dict[str, np.ndarray]:
    """The maps from time to norm scales, side by side: two per layer, then the last norm's."""
    names = [
        f"{name}.layers.{i}.{norm}"
        for i in range(part.depth)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ]
    maps = [keys.linear(f"{norm}.to_weight", part.width, part.width) for norm in [*names, f"{name}.norm"]]
    return {
        "kernel": np.stack([m["kernel"] for m in maps], axis=1),
        "bias": np.stack([m["bias"] for m in maps]),
    }
