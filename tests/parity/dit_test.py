"""Transformers and the U-Net of diffusion against diffusers, with shared random weights.

Where the two differ on purpose, the conversion here says so: diffusers' DiT repeats the time's and label's embedding in
each block and lets its frequencies end at 1/10000 (DiT: one step before), and its SD3 keeps scale before shift where
text is only read.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
pytest.importorskip("diffusers", reason="needs the extra 'parity'")

from jaxtok.nn.dit import DiT  # noqa: E402
from jaxtok.nn.mmdit import JointBlock, MMDiT, SingleBlock  # noqa: E402
from jaxtok.nn.perceiver import Perceiver  # noqa: E402
from jaxtok.nn.rope import angles  # noqa: E402
from jaxtok.nn.text_dit import TextDiT  # noqa: E402
from jaxtok.nn.unet import UNet  # noqa: E402

torch.set_num_threads(1)


def drawn(seed, *sizes):
    return np.random.default_rng(seed).standard_normal(sizes, dtype=np.float32)


def filled(module, deviation=0.15):
    """The module with all parameters drawn anew, and its weights by name."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
    return module.eval(), {name: value.detach().numpy() for name, value in module.state_dict().items()}


def linear(weights, *names):
    """One map of several, side by side; a convolution's window becomes part of what comes in, channels last."""
    kernels = [weights[f"{name}.weight"] for name in names]
    kernels = [k.transpose(2, 3, 1, 0).reshape(-1, len(k)) if k.ndim == 4 else k.T for k in kernels]
    out = {"kernel": np.concatenate(kernels, axis=1)}
    if f"{names[0]}.bias" in weights:
        out["bias"] = np.concatenate([weights[f"{name}.bias"] for name in names])
    return out


def norm(weights, name):
    return {"scale": weights[f"{name}.weight"], "bias": weights[f"{name}.bias"]}


def self_attention(weights, name):
    return {"qkv": linear(weights, *(f"{name}.to_{n}" for n in "qkv")), "out": linear(weights, f"{name}.to_out.0")}


def cross_attention(weights, name):
    return {
        "query": linear(weights, f"{name}.to_q"), "key_value": linear(weights, f"{name}.to_k", f"{name}.to_v"),
        "out": linear(weights, f"{name}.to_out.0"),
    }  # fmt: skip


def mlp(weights, name):
    return {"hidden_linear": linear(weights, f"{name}.net.0.proj"), "out_linear": linear(weights, f"{name}.net.2")}


def time(weights, name):
    return {"hidden_linear": linear(weights, f"{name}.linear_1"), "out_linear": linear(weights, f"{name}.linear_2")}


def agree(ours, params, arguments, theirs, tolerance=1e-5, **keywords):
    """Equal shapes of all parameters, and equal values."""
    shapes = jax.eval_shape(lambda: ours.init(jax.random.key(0), *arguments, **keywords))["params"]
    jax.tree.map(lambda shape, leaf: np.testing.assert_equal(leaf.shape, shape.shape), shapes, params)
    found = jax.jit(lambda p, a, k: ours.apply({"params": p}, *a, **k))(params, arguments, keywords)
    np.testing.assert_allclose(found, theirs, atol=tolerance * max(1.0, np.abs(theirs).max()))


def images(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def test_dit():
    from diffusers import DiTTransformer2DModel

    theirs = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=5, norm_eps=1e-6,
    )  # fmt: skip
    embedding = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks:
        block.norm1.emb = embedding
    embedding.time_proj.downscale_freq_shift = 0
    theirs, w = filled(theirs)
    params = {
        "patch_linear": linear(w, "pos_embed.proj"),
        "time": time(w, "transformer_blocks.0.norm1.emb.timestep_embedder"),
        "label": {"embedding": w["transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"]},
        "last_modulation": linear(w, "proj_out_1"),
        "last_linear": linear(w, "proj_out_2"),
    }
    for i in range(2):
        name = f"transformer_blocks.{i}"
        params[f"blocks_{i}"] = {
            "modulation": linear(w, f"{name}.norm1.linear"), "attention": self_attention(w, f"{name}.attn1"),
            "mlp": mlp(w, f"{name}.ff"),
        }  # fmt: skip
    x, t, label = drawn(1, 2, 8, 8, 3), np.array([3.0, 731.0], np.float32), np.array([0, 5])
    with torch.no_grad():
        expected = theirs(images(x), timestep=torch.tensor(t), class_labels=torch.tensor(label)).sample
    ours = DiT(depth=2, width=16, heads=2, patch=2, out_channels=6, classes=5, scan=False)
    agree(ours, params, (x, t, label), expected.permute(0, 2, 3, 1).numpy())


def test_text_dit():
    from diffusers import PixArtTransformer2DModel

    theirs, w = filled(
        PixArtTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=8,
            in_channels=3,
            out_channels=6,
            num_layers=2,
            sample_size=8,
            patch_size=2,
            cross_attention_dim=16,
            caption_channels=10,
        )
    )
    params = {
        "patch_linear": linear(w, "pos_embed.proj"),
        "time": time(w, "adaln_single.emb.timestep_embedder"),
        "modulation": linear(w, "adaln_single.linear"),
        "text": time(w, "caption_projection"),
        "last_modulation": {"table": w["scale_shift_table"]},
        "last_linear": linear(w, "proj_out"),
    }
    for i in range(2):
        name = f"transformer_blocks.{i}"
        params[f"blocks_{i}"] = {
            "modulation": {"table": w[f"{name}.scale_shift_table"]}, "attention": self_attention(w, f"{name}.attn1"),
            "cross_attention": cross_attention(w, f"{name}.attn2"), "mlp": mlp(w, f"{name}.ff"),
        }  # fmt: skip
    x, t, text = drawn(1, 2, 8, 8, 3), np.array([3.0, 731.0], np.float32), drawn(2, 2, 5, 10)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    with torch.no_grad():
        expected = theirs(
            images(x), torch.from_numpy(text), torch.tensor(t), encoder_attention_mask=torch.from_numpy(mask).float(),
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample  # fmt: skip
    ours = TextDiT(depth=2, width=16, heads=2, out_channels=6, scan=False)
    agree(ours, params, (x, t, text), expected.permute(0, 2, 3, 1).numpy(), text_mask=mask)


def swapped(params):
    """Scale before shift, as diffusers has it where there is no gate, to shift before scale."""
    return {key: np.concatenate(np.split(value, 2, axis=-1)[::-1], axis=-1) for key, value in params.items()}


def joint_block(w, name="", *, last, dual, normed):
    params = {
        "image_modulation": linear(w, f"{name}norm1.linear"),
        "text_modulation": linear(w, f"{name}norm1_context.linear"),
        "image_qkv": linear(w, *(f"{name}attn.to_{n}" for n in "qkv")),
        "text_qkv": linear(w, *(f"{name}attn.add_{n}_proj" for n in "qkv")),
        "image_out": linear(w, f"{name}attn.to_out.0"), "image_mlp": mlp(w, f"{name}ff"),
    }  # fmt: skip
    if last:
        params["text_modulation"] = swapped(params["text_modulation"])
    else:
        params |= {"text_out": linear(w, f"{name}attn.to_add_out"), "text_mlp": mlp(w, f"{name}ff_context")}
    if dual:
        params["image_attention"] = self_attention(w, f"{name}attn2")
    if normed:
        for stream, added in (("image", ""), ("text", "added_")):
            params |= {f"{stream}_{n}_norm": w[f"{name}attn.norm_{added}{n}.weight"] for n in "qk"}
        if dual:
            params["image_attention"] |= {f"{n}_norm": w[f"{name}attn2.norm_{n}.weight"] for n in "qk"}
    return params


def test_mmdit():
    """Stable Diffusion 3.5's mixture: a block with a second attention, a plain one, and the last one."""
    from diffusers import SD3Transformer2DModel

    theirs, w = filled(
        SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=3,
            num_layers=3,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=10,
            caption_projection_dim=16,
            pooled_projection_dim=6,
            out_channels=3,
            pos_embed_max_size=6,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
    )
    params = {
        "patch_linear": linear(w, "pos_embed.proj"),
        "time": time(w, "time_text_embed.timestep_embedder"),
        "pooled": time(w, "time_text_embed.text_embedder"),
        "text_linear": linear(w, "context_embedder"),
        "last_modulation": swapped(linear(w, "norm_out.linear")),
        "last_linear": linear(w, "proj_out"),
    }
    for i, name in enumerate(("dual_blocks_0", "blocks_0", "last_block_0")):
        place = f"transformer_blocks.{i}."
        params[name] = joint_block(w, place, last=i == 2, dual=i == 0, normed=True)
    x, t, text, pooled = drawn(1, 2, 8, 8, 3), np.array([3.0, 731.0], np.float32), drawn(2, 2, 5, 10), drawn(3, 2, 6)
    with torch.no_grad():
        given = [torch.from_numpy(a) for a in (text, pooled, t)]
        expected = theirs(images(x), *given).sample.permute(0, 2, 3, 1).numpy()
    # A table of 6 x 6 for grids of 4 x 4, whose cut begins at row and column 1.
    ours = MMDiT(depth=3, width=16, heads=2, dual=1, qk_norm=True, table=6, position_scale=6 / 4, scan=False)
    agree(ours, params, (x, t, text, pooled), expected)


def test_joint_block():
    from diffusers.models.attention import JointTransformerBlock

    theirs, w = filled(JointTransformerBlock(16, 2, 8))
    image, text, condition = drawn(1, 2, 6, 16), drawn(2, 2, 3, 16), drawn(3, 2, 16)
    with torch.no_grad():
        read, seen = theirs(*(torch.from_numpy(a) for a in (image, text, condition)))
    params = joint_block(w, last=False, dual=False, normed=False)
    block = JointBlock(heads=2, hidden=64)
    found = jax.jit(block.apply)({"params": params}, (image, text), condition)
    np.testing.assert_allclose(found[0], seen.numpy(), atol=1e-5)
    np.testing.assert_allclose(found[1], read.numpy(), atol=1e-5)


def test_single_block():
    from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock

    theirs, w = filled(FluxSingleTransformerBlock(16, 2, 8))
    params = {
        "modulation": linear(w, "norm.linear"),
        "in_linear": linear(w, "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "q_norm": w["attn.norm_q.weight"], "k_norm": w["attn.norm_k.weight"],
        "out_linear": linear(w, "proj_out"),
    }  # fmt: skip
    text, image, condition = drawn(1, 2, 3, 16), drawn(2, 2, 6, 16), drawn(3, 2, 16)
    cos, sin = angles(jnp.arange(9)[None], 8)
    with torch.no_grad():
        rotary = tuple(torch.from_numpy(np.repeat(np.asarray(a[0]), 2, axis=-1)) for a in (cos, sin))
        given = [torch.from_numpy(a) for a in (image, text, condition)]
        expected = torch.cat(theirs(*given, image_rotary_emb=rotary), dim=1).numpy()
    x = np.concatenate([text, image], axis=1)
    found = jax.jit(SingleBlock(heads=2, hidden=64).apply)({"params": params}, x, condition, (cos, sin))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def convolution(w, name):
    return {"kernel": w[f"{name}.weight"].transpose(2, 3, 1, 0), "bias": w[f"{name}.bias"]}


def residual(w, name):
    params = {
        "norm1": norm(w, f"{name}.norm1"), "conv1": convolution(w, f"{name}.conv1"),
        "time": linear(w, f"{name}.time_emb_proj"), "norm2": norm(w, f"{name}.norm2"),
        "conv2": convolution(w, f"{name}.conv2"),
    }  # fmt: skip
    if f"{name}.conv_shortcut.weight" in w:
        params["shortcut"] = linear(w, f"{name}.conv_shortcut")
    return params


def spatial(w, name):
    block = f"{name}.transformer_blocks.0"
    up, gate = (
        {key: half for key, half in zip(("kernel", "bias"), halves)}
        for halves in zip(*(np.split(v, 2, axis=-1) for v in linear(w, f"{block}.ff.net.0.proj").values()))
    )
    both = {key: np.stack([gate[key], up[key]], axis=-2) for key in gate}
    return {
        "norm": norm(w, f"{name}.norm"), "in_linear": linear(w, f"{name}.proj_in"),
        "out_linear": linear(w, f"{name}.proj_out"),
        "block0_self_norm": norm(w, f"{block}.norm1"), "block0_self": cross_attention(w, f"{block}.attn1"),
        "block0_text_norm": norm(w, f"{block}.norm2"), "block0_text": cross_attention(w, f"{block}.attn2"),
        "block0_mlp_norm": norm(w, f"{block}.norm3"),
        "block0_mlp": {"gate_up": both, "down": linear(w, f"{block}.ff.net.2")},
    }  # fmt: skip


def test_unet():
    from diffusers import UNet2DConditionModel

    theirs, w = filled(
        UNet2DConditionModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=10,
            attention_head_dim=2,
            norm_num_groups=4,
        )
    )
    params = {
        "time": time(w, "time_embedding"), "conv_in": convolution(w, "conv_in"), "norm_out": norm(w, "conv_norm_out"),
        "conv_out": convolution(w, "conv_out"), "down0_half": convolution(w, "down_blocks.0.downsamplers.0.conv"),
        "up1_double": {"conv": convolution(w, "up_blocks.0.upsamplers.0.conv")},
        "down0_0_res": residual(w, "down_blocks.0.resnets.0"), "down1_0_res": residual(w, "down_blocks.1.resnets.0"),
        "down0_0_attention": spatial(w, "down_blocks.0.attentions.0"),
        "middle_attention": spatial(w, "mid_block.attentions.0"),
    }  # fmt: skip
    for i in range(2):
        params[f"middle_res{i}"] = residual(w, f"mid_block.resnets.{i}")
        params[f"up1_{i}_res"] = residual(w, f"up_blocks.0.resnets.{i}")
        params[f"up0_{i}_res"] = residual(w, f"up_blocks.1.resnets.{i}")
        params[f"up0_{i}_attention"] = spatial(w, f"up_blocks.1.attentions.{i}")
    x, t, text = drawn(1, 2, 8, 8, 3), np.array([3.0, 731.0], np.float32), drawn(2, 2, 5, 10)
    with torch.no_grad():
        expected = theirs(images(x), torch.tensor(t), torch.from_numpy(text)).sample.permute(0, 2, 3, 1).numpy()
    ours = UNet(channels=8, multipliers=(1, 2), blocks=1, attend=(True, False), heads=2, groups=4)
    agree(ours, params, (x, t), expected, text=text)


def test_perceiver():
    from diffusers.models.embeddings import IPAdapterPlusImageProjection

    theirs, w = filled(
        IPAdapterPlusImageProjection(
            embed_dims=10, output_dims=12, hidden_dims=16, depth=2, dim_head=4, heads=3, num_queries=3, ffn_ratio=2
        )
    )
    params = {
        "latents": w["latents"][0], "in_linear": linear(w, "proj_in"), "out_linear": linear(w, "proj_out"),
        "out_norm": norm(w, "norm_out"),
    }  # fmt: skip
    for i in range(2):
        name = f"layers.{i}"
        params[f"blocks_{i}"] = {
            "input_norm": norm(w, f"{name}.ln0"), "latent_norm": norm(w, f"{name}.ln1"),
            "attention": cross_attention(w, f"{name}.attn"), "mlp_norm": norm(w, f"{name}.ff.0"),
            "mlp": mlp(w, f"{name}.ff.1"),
        }  # fmt: skip
    x = drawn(1, 2, 7, 10)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    ours = Perceiver(queries=3, width=16, depth=2, heads=3, head_dim=4, out=12, ratio=2.0, scan=False)
    agree(ours, params, (x,), expected)


def test_published_sizes_are_diffusers_sizes():
    """Full-size models without memory; their tables of positions are no parameters."""
    from diffusers import PixArtTransformer2DModel, UNet2DConditionModel

    with torch.device("meta"):
        theirs = [
            PixArtTransformer2DModel(sample_size=64, caption_channels=4096, use_additional_conditions=False),
            UNet2DConditionModel(cross_attention_dim=768),
        ]
    counts = [sum(p.numel() for p in model.parameters()) for model in theirs]
    assert counts == [610_856_096, 859_520_964]  # of tests/nn/dit_test.py and tests/nn/unet_test.py
