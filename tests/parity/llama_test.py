"""Llama with its cache against transformers, with shared random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.convert import llama as convert
from jaxtok.decode import autoregressive, sampling
from jaxtok.nn.llama import LlamaLM

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'parity'")

torch.set_num_threads(1)
SIZES = dict(vocabulary=96, width=32, depth=2, heads=4, hidden=48, kv_heads=2, eps=1e-5)
PROMPT, LENGTH = 5, 9


def theirs(kind, tied):
    config = dict(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, initializer_range=0.3, tie_word_embeddings=tied,
        max_position_embeddings=64, attn_implementation="eager", bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    if kind == "llama":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    else:
        model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**config))
    with torch.no_grad():  # their norms begin at 1 and their biases at 0
        for name, value in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                value.add_(0.3 * torch.randn_like(value))
    return model.eval()


@pytest.mark.parametrize("kind, tied, scan", [("llama", False, False), ("qwen2", True, True)])
def test_logits_cached_decoding_and_greedy_ids_are_those_of_transformers(kind, tied, scan):
    reference = theirs(kind, tied)
    model = LlamaLM(**SIZES, tied=tied, qkv_bias=kind == "qwen2", scan=scan)
    params = convert.params({name: value.numpy() for name, value in reference.state_dict().items()}, model)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
    prompt = np.random.default_rng(0).integers(1, 96, (2, PROMPT))
    with torch.no_grad():
        ids = reference.generate(
            torch.tensor(prompt), attention_mask=torch.ones((2, PROMPT), dtype=torch.long), do_sample=False,
            min_new_tokens=LENGTH, max_new_tokens=LENGTH, use_cache=True,
        ).numpy()  # fmt: skip
        expected = reference(torch.tensor(ids)).logits.numpy()

    @jax.jit
    def run(params, ids, prompt):
        apply = lambda ids, cache: model.apply({"params": params}, ids, cache=cache)  # noqa: E731
        whole = model.apply({"params": params}, ids)
        first, cache = apply(prompt, model.cache(2, PROMPT + LENGTH))
        greedy = functools.partial(sampling.choose, temperature=0.0)
        keys = jax.random.split(jax.random.key(0), 2)
        found, _ = autoregressive.generate(
            autoregressive.stepper(apply), cache, first[:, -1], keys, length=LENGTH, choose=greedy
        )

        def one(cache, token):
            logits, cache = apply(token[:, None], cache)
            return cache, logits[:, 0]

        _, steps = jax.lax.scan(one, cache, ids[:, PROMPT:].T)
        return whole, jnp.concatenate([first, jnp.moveaxis(steps, 0, 1)], axis=1), found

    whole, cached, found = run(params, ids, prompt)
    np.testing.assert_allclose(whole, expected, atol=1e-4, rtol=0)
    np.testing.assert_allclose(cached, expected, atol=1e-4, rtol=0)
    assert np.array_equal(found, ids[:, PROMPT:])
    assert len(np.unique(ids[:, PROMPT:])) > 3  # weights large enough for decisions that differ
