"""TaDiCodec's masked generative model: the network, and the sizes and settings of both generators on its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.convert import from_reference
from jaxtok.papers.tadicodec_mgm import MaskedSpeech
from jaxtok.tasks.speak_masked import SpeakMasked, SpeakMaskedSampling

CODES, VOCABULARY = 11, 20
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run():
    model = MaskedSpeech(CODES, VOCABULARY, width=16, depth=2, heads=2, hidden=24, scan=True)
    told = dict(mask=np.ones((1, 4), bool), text_mask=np.ones((1, 3), bool))
    shapes = jax.eval_shape(
        lambda key: model.init(key, np.zeros((1, 4), int), np.ones(1), np.zeros((1, 3), int), **told), jax.random.key(0)
    )
    params = jax.tree.map(lambda leaf: 0.2 * RNG.standard_normal(leaf.shape).astype(np.float32), shapes)
    assert params["params"]["mask_embed"].shape == (16,)

    @jax.jit
    def apply(ids, text, mask, text_mask, t=0.3):
        t = jnp.broadcast_to(t, len(ids))
        return model.apply(params, ids, t, text, mask=mask, text_mask=text_mask)

    return apply


IDS = RNG.integers(0, CODES + 1, (2, 6))  # of which some are masked
IDS[0, :2] = CODES
TEXT = RNG.integers(0, VOCABULARY, (2, 5))


def test_what_does_not_exist_changes_nothing_wherever_it_stands(run):
    mask, text_mask = np.ones((2, 6), bool), np.ones((2, 5), bool)
    mask[0, 4:], text_mask[0, 3:] = False, False
    whole = run(IDS, TEXT, mask, text_mask)
    assert whole.shape == (2, 6, CODES) and whole.dtype == jnp.float32
    alone = run(IDS[:1, :4], TEXT[:1, :3], mask[:1, :4], text_mask[:1, :3])
    np.testing.assert_allclose(whole[0, :4], alone[0], atol=1e-5)
    other, spoken = IDS.copy(), TEXT.copy()
    other[0, 4:], spoken[0, 3:] = (IDS[0, 4:] + 1) % CODES, (TEXT[0, 3:] + 1) % VOCABULARY
    np.testing.assert_allclose(run(other, spoken, mask, text_mask)[0, :4], whole[0, :4], atol=1e-6)
    hidden = np.array([[False, True] * 3] * 2)  # padding in between
    kept = run(IDS[:, 1::2], TEXT, hidden[:, 1::2], text_mask)
    np.testing.assert_allclose(run(IDS, TEXT, hidden, text_mask)[:, 1::2], kept, atol=1e-5)


def test_without_text_and_prompt_the_codes_begin_at_position_0(run):
    """What guidance hears: the text and the first codes are hidden from the rest."""
    mask = np.array([[False] * 3 + [True] * 3] * 2)
    hidden = run(IDS, TEXT, mask, np.zeros((2, 5), bool))
    alone = run(IDS[:, 3:], TEXT[:, :1], mask[:, 3:], np.zeros((2, 1), bool))
    np.testing.assert_allclose(hidden[:, 3:], alone, atol=1e-5)


def test_text_time_order_and_codes_matter(run):
    mask, text_mask = np.ones((2, 6), bool), np.ones((2, 5), bool)
    base = run(IDS, TEXT, mask, text_mask)
    for changed in (
        run(IDS, TEXT[:, ::-1], mask, text_mask),
        run(np.roll(IDS, 1, 1), TEXT, mask, text_mask),
        run(IDS, TEXT, mask, text_mask, 0.9),
    ):
        assert float(np.abs(changed - base).max(-1).min()) > 1e-4


def test_papers_have_the_sizes_of_their_architectures():
    model = build(jaxtok.get_config("tadicodec_mgm:paper").model)
    args = (jnp.zeros((1, 2), int), jnp.ones(1), jnp.zeros((1, 2), int))
    told = dict(mask=jnp.ones((1, 2), bool), text_mask=jnp.ones((1, 2), bool))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), *args, **told))["params"]
    blocks = 16 * (4 * 1024**2 + 3 * 1024 * 4096)
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    assert count == {
        "transformer": blocks,
        "norm_scales": 33 * 1024 * 1025,
        "time_mlp": 8_393_728,
        "text_mlp": 8_393_728,
        "text_embed": 32100 * 1024,
        "code_embed": 16384 * 1024,
        "mask_embed": 1024,
        "head": 1025 * 16384,
    }
    sampling = build(jaxtok.get_config("tadicodec_mgm:paper").sampling)
    assert (sampling.steps, sampling.guidance, sampling.rescale, sampling.top_share) == (25, 2.5, 0.75, 0.02)
    config = jaxtok.get_config("tadicodec_ar:paper")
    sampling = build(config.sampling)
    assert (sampling.top_k, sampling.top_p, sampling.least, sampling.most) == (50, 0.98, 12, 400)
    task = build(config.task, model=build(config.model))
    assert task.text_vocabulary == 151_665 and config.model.vocabulary == 151_665 + 16384 + 2


@pytest.mark.parametrize("slug", ["tadicodec_mgm", "tadicodec_ar"])
def test_minis_fit_their_tokenizer(slug):
    config, tokenizer = jaxtok.get_config(f"{slug}:mini,tokenizer=runs/other"), jaxtok.get_config("tadicodec:mini")
    task = config.task.copy_and_resolve_references()
    assert task.tokenizer == config.copy_and_resolve_references().tokenizer == "runs/other"
    inner = build(task.task)(model=build(config.model))
    assert inner.codes == 2**tokenizer.model.quantizer.bits
    assert config.data.examples.multiple == tokenizer.model.encoder.factor * 480
    assert config.text.to_dict() == tokenizer.text.to_dict()
    with pytest.raises(ValueError, match=f"{slug} has no variant 'huge'; known: tiny, mini, paper"):
        jaxtok.get_config(f"{slug}:huge")


# ---- golden values of the reference code, on a small model with given weights ----

GOLDEN = dict(target="jaxtok.papers.tadicodec_mgm:MaskedSpeech", codes=16, vocabulary=20, width=32, depth=2, heads=4,
              hidden=128)  # fmt: skip


def reference_weights():
    """The j-th tensor by name is 0.2 sin(0.37 k + 1.3 j), k its flat index in PyTorch's layout."""
    shapes = {"mask_emb.weight": (1, 32), "cond_emb.weight": (16, 32), "phone_emb.weight": (20, 32)}

    def linear(name, inputs, outputs, bias=True):
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    linear("to_logit", 32, 16)
    linear("diff_estimator.norm.to_weight", 32, 32)
    for name in ("cond_mlp", "diff_step_mlp"):
        linear(f"diff_estimator.{name}.0", 32, 128)
        linear(f"diff_estimator.{name}.2", 128, 32)
    for layer in ("diff_estimator.layers.0", "diff_estimator.layers.1"):
        for p in "qkvo":
            linear(f"{layer}.self_attn.{p}_proj", 32, 32, bias=False)
        linear(f"{layer}.mlp.gate_proj", 32, 128, bias=False)
        linear(f"{layer}.mlp.up_proj", 32, 128, bias=False)
        linear(f"{layer}.mlp.down_proj", 128, 32, bias=False)
        linear(f"{layer}.input_layernorm.to_weight", 32, 32)
        linear(f"{layer}.post_attention_layernorm.to_weight", 32, 32)
    assert len(shapes) == 37
    return {
        name: (0.2 * np.sin(0.37 * np.arange(np.prod(shapes[name])) + 1.3 * j)).reshape(shapes[name])
        for j, name in enumerate(sorted(shapes))
    }


def golden(scan):
    described = GOLDEN | {"scan": scan}
    return build(described), from_reference("tadicodec_mgm", reference_weights(), described)


SAID = jnp.array([[3, 7, 1, 19]])


def statistics(x, mean, std, first, last):
    np.testing.assert_allclose([x.mean(), x.std(ddof=1)], [mean, std], atol=2e-6)
    np.testing.assert_allclose(x[0, 0, :3], first, atol=2e-6)
    np.testing.assert_allclose(x[0, -1, -3:], last, atol=2e-6)


def test_features_and_logits_are_the_reference_s():
    module, params = golden(scan=True)
    ids = jnp.array([[2, 5, 16, 16, 7, 16, 3, 16]])  # masked where it is 16
    told = dict(mask=jnp.ones((1, 8), bool), text_mask=jnp.ones((1, 4), bool))
    run = jax.jit(
        lambda params: module.apply({"params": params}, ids, jnp.array([0.3]), SAID, **told, method="features")
    )
    features = run(params)
    statistics(features, -0.2070559, 0.3806846, [-1.023543, -0.364630, -0.539425], [0.325317, 0.015403, -0.188844])
    logits = module.apply({"params": params}, features, method="logits")
    statistics(logits, -0.0630522, 0.5868950, [0.879683, 0.232766, -0.461442], [-0.716136, -0.034559, 0.694225])


def test_guided_features_of_the_first_step_are_the_reference_s():
    """Behind a prompt of three codes, with scale 2.5 (there 1.5) and rescale 0.75; greedy, and all codes are alike."""
    module, params = golden(scan=False)
    seen = []

    class Watched(SpeakMasked):
        def _apply(self, params, *args, method=None, **kwargs):
            if method == "logits":
                jax.debug.callback(lambda features: seen.append(np.asarray(features)), args[0])
            return super()._apply(params, *args, method=method, **kwargs)

    told = dict(
        text_ids=SAID, text_mask=jnp.ones((1, 4), bool), prompt=jnp.array([[2, 5, 1]]),
        prompt_mask=jnp.ones((1, 3), bool), mask=jnp.ones((1, 12), bool),
    )  # fmt: skip
    sampling = SpeakMaskedSampling(steps=4, temperature=0.0, choice=0.0, top_share=0.5)
    codes, _ = Watched(module).speak(params, told, jax.random.split(jax.random.key(0), 1), sampling)
    jax.effects_barrier()
    assert len(seen) == 4 and codes.tolist() == [[0] * 12]
    statistics(seen[0], -0.2988850, 0.3961143, [-0.980078, -0.604699, -0.068318], [0.277912, -0.114166, -0.375204])


def test_the_converter_names_missing_and_extra_keys():
    weights = reference_weights()
    with pytest.raises(ValueError, match=r"'mask_emb.weight' .* is missing"):
        from_reference("tadicodec_mgm", {k: v for k, v in weights.items() if k != "mask_emb.weight"}, GOLDEN)
    with pytest.raises(ValueError, match="unknown keys 'extra'"):
        from_reference("tadicodec_mgm", weights | {"extra": np.zeros(3)}, GOLDEN)
