"""TaDiCodec's masked generative model: the network, and the sizes and settings of both generators on its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.papers.tadicodec_mgm import MaskedSpeech

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
