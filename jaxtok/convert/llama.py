"""Weights of language models in Hugging Face's Llama and Qwen2 form, onto :class:`jaxtok.nn.llama.LlamaLM`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtok.convert.keys import StrictReader
from jaxtok.nn.llama import LlamaLM, stack_blocks


def params(state_dict: Mapping[str, np.ndarray], model: LlamaLM) -> dict[str, Any]:
    """The model's parameters from arrays called ``model.embed_tokens.weight``, ``model.layers.0. ...`` and so on.

    The model keeps its kernels as DenseGeneral does. A tied head's ``lm_head.weight`` may be there or not.

    Raises:
      ValueError: for a key that is missing, unknown, or of another shape.
    """
    keys = StrictReader(
        state_dict, lambda name: name.endswith("rotary_emb.inv_freq") or (model.tied and name == "lm_head.weight")
    )
    size, width, depth = model.vocabulary, model.width, model.depth
    blocks = {f"blocks_{i}": _block(keys, f"model.layers.{i}", model) for i in range(depth)}
    norms = [f"layers.{i}.{norm}" for i in range(depth) for norm in ("input_layernorm", "post_attention_layernorm")]
    found = {
        "embed": {"embedding": keys.take("model.embed_tokens.weight", (size, width))},
        "norm_scales": np.stack([keys.take(f"model.{name}.weight", (width,)) for name in [*norms, "norm"]]),
        "transformer": stack_blocks(blocks) if model.scan else blocks,
    }
    if not model.tied:
        found["head"] = keys.linear("lm_head", width, size, bias=False)
    keys.finish()
    return found


def _block(keys: StrictReader, name: str, model: LlamaLM) -> dict[str, Any]:
    width, heads, bias = model.width, model.heads, model.qkv_bias
    groups, channels = model.kv_heads or heads, width // heads
    parts = [
        keys.linear(f"{name}.self_attn.{part}_proj", width, count * channels, bias=bias)
        for part, count in (("q", heads), ("k", groups), ("v", groups))
    ]
    shape = (3, heads, channels) if groups == heads else (heads + 2 * groups, channels)
    qkv = {
        part: np.concatenate([p[part] for p in parts], axis=-1).reshape(*parts[0][part].shape[:-1], *shape)
        for part in parts[0]
    }
    out = keys.linear(f"{name}.self_attn.o_proj", width, width, bias=False)["kernel"]
    gate, up = (keys.linear(f"{name}.mlp.{p}_proj", width, model.hidden, bias=False)["kernel"] for p in ("gate", "up"))
    return {
        "attention": {"qkv": qkv, "out": {"kernel": out.reshape(heads, channels, width)}},
        "mlp": {
            "gate_up": {"kernel": np.stack([gate, up], axis=1)},
            "down": keys.linear(f"{name}.mlp.down_proj", model.hidden, width, bias=False),
        },
    }
