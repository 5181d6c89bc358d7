"""The generators of speech against what can be counted by hand, and what their samples do not depend on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import noise
from jaxtok.nn.llama import LlamaLM
from jaxtok.papers.tadicodec_mgm import MaskedSpeech
from jaxtok.tasks import prompts
from jaxtok.tasks.speak_ar import SpeakAR, SpeakARSampling
from jaxtok.tasks.speak_masked import SpeakMasked, SpeakMaskedSampling, data

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
CODES, VOCABULARY = 9, 12
SIZE = dict(width=16, depth=1, heads=2, hidden=24)
LENGTHS, WORDS = np.array([7, 4, 1]), np.array([5, 3, 2])
BATCH = {
    "codes": jnp.asarray(RNG.integers(0, CODES, (3, 7, 1)), jnp.int32),
    "codes_mask": jnp.arange(7) < LENGTHS[:, None],
    "text_ids": jnp.asarray(RNG.integers(1, VOCABULARY, (3, 5)), jnp.int32),
    "text_mask": jnp.arange(5) < WORDS[:, None],
    "index": jnp.arange(3) + 40,
}
kinds = pytest.mark.parametrize("kind", ["masked", "ar"])


@functools.cache
def trained(kind):
    """A task on a small network whose output depends on everything, as after training."""
    task = (
        SpeakMasked(MaskedSpeech(CODES, VOCABULARY, **SIZE))
        if kind == "masked"
        else SpeakAR(LlamaLM(VOCABULARY + CODES + 2, **SIZE, kv_heads=1, tied=True), CODES)
    )
    shapes = jax.eval_shape(task.init, KEY, BATCH)[0]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        ones = kind == "ar" and path[-1].key == "norm_scales"
        return np.asarray(ones + (0.5 if kind == "ar" else 0.3) * rng.standard_normal(leaf.shape), np.float32)

    return task, jax.tree_util.tree_map_with_path(draw, shapes)


@jax.jit
def written_out(params, ids):
    """log p of the ids behind each of a sequence."""
    return jax.nn.log_softmax(trained("ar")[0].model.apply({"params": params}, ids[None])[0])


@functools.cache
def losses(kind):
    task = trained(kind)[0]
    return jax.jit(lambda params, batch: (
        task.losses(params, {}, batch, KEY, 0)[0]["main"], task.evaluate(params, {}, batch, KEY)
    ))  # fmt: skip


@kinds
def test_neither_loss_nor_evaluation_depends_on_padding_or_neighbours(kind):
    (loss, numbers), found = losses(kind)(trained(kind)[1], BATCH)
    assert numbers["nats"] == loss and np.isfinite(loss) and 0.0 <= float(numbers["accuracy"]) <= 1.0
    padding = ~BATCH["codes_mask"][..., None]
    other = BATCH | {
        "codes": jnp.where(padding, (BATCH["codes"] + 1) % CODES, BATCH["codes"]),
        "text_ids": jnp.where(BATCH["text_mask"], BATCH["text_ids"], 0),
    }
    (again, _), same = losses(kind)(trained(kind)[1], other)
    np.testing.assert_allclose(again, loss, rtol=1e-5)
    wide = {name: jnp.pad(value, ((0, 0), (0, 3), (0, 0))[: value.ndim]) if value.ndim > 1 else value
            for name, value in BATCH.items()}  # fmt: skip
    (padded, _), longer = losses(kind)(trained(kind)[1], wide)
    np.testing.assert_allclose(padded, loss, rtol=1e-5)
    turned = jax.tree.map(lambda leaf: leaf[::-1], BATCH)
    (_, _), backwards = losses(kind)(trained(kind)[1], turned)
    for name in ("nats", "accuracy"):
        np.testing.assert_allclose(same[name], found[name], atol=1e-5)
        np.testing.assert_allclose(longer[name], found[name], atol=1e-5)
        np.testing.assert_allclose(backwards[name][::-1], found[name], atol=1e-5)


def test_masked_training_hides_the_share_of_its_time_and_no_prompt():
    task = trained("masked")[0]
    count = 4000
    keys = noise.per_example(KEY, jnp.arange(count))
    t = (jnp.arange(count) + 0.5) / count
    mask = jnp.ones((count, 50), bool)
    hidden = np.asarray(task.hide(keys, t, jnp.zeros(count), mask)).mean(1)
    expected = np.maximum(np.sin(np.pi / 2 * np.asarray(t)), 0.2)
    for part in np.split(np.arange(count), 8):
        np.testing.assert_allclose(hidden[part].mean(), expected[part].mean(), atol=0.012)
    assert hidden[: count // 20].mean() == pytest.approx(0.2, abs=0.02)  # never less than a fifth

    short = jnp.arange(6) < jnp.asarray([6, 3, 1, 2])[:, None]
    behind = jnp.asarray([2.0, 1.0, 0.0, 1.0])
    for step in range(20):
        found = np.asarray(task.hide(jax.random.split(jax.random.key(step), 4), jnp.full(4, 0.01), behind, short))
        assert found.any(1).all() and not (found & ~np.asarray(short)).any()
        assert not (found & (np.arange(6) < np.asarray(behind)[:, None])).any()


def test_prompts_are_as_long_and_as_frequent_as_stated():
    count = 4000
    keys = jax.vmap(jax.random.split)(noise.per_example(KEY, jnp.arange(count)))
    found = np.asarray(prompts.lengths(keys[:, 0], keys[:, 1], jnp.full(count, 40), rate=0.8, share=0.4))
    drawn = found[found > 0]
    assert len(drawn) / count == pytest.approx(0.8, abs=0.02)
    assert drawn.min() == 5 and drawn.max() == 15 and drawn.mean() == pytest.approx(10.0, abs=0.1)


def test_the_loss_of_the_language_model_is_that_of_each_sequence_written_out():
    params = trained("ar")[1]
    total, number = 0.0, 0
    for row, (count, words) in enumerate(zip(LENGTHS, WORDS)):
        codes = np.asarray(BATCH["codes"][row, :count, 0]) + VOCABULARY + 1
        ids = np.concatenate([BATCH["text_ids"][row, :words], [VOCABULARY], codes, [VOCABULARY + CODES + 1]])
        log_p = np.asarray(written_out(params, ids[:-1]))
        each = -log_p[np.arange(words, len(ids) - 1), ids[words + 1 :]]
        assert len(each) == count + 1
        total, number = total + float(each.sum()), number + len(each)
    (loss, _), _ = losses("ar")(params, BATCH)
    np.testing.assert_allclose(loss, total / number, rtol=1e-5)


SETTINGS = {
    "masked": SpeakMaskedSampling(steps=4, top_share=1.0),
    "ar": SpeakARSampling(top_k=0, top_p=1.0, least=2, most=8),
}


def told(rows, prompt=3):
    """Texts and prompts of some of the batch's rows, of their own lengths, and how long to speak."""
    rows = np.asarray(rows)
    return {
        "text_ids": BATCH["text_ids"][rows], "text_mask": BATCH["text_mask"][rows],
        "prompt": BATCH["codes"][rows, :prompt, 0], "prompt_mask": jnp.arange(prompt) < rows[:, None] + 1,
        "mask": jnp.arange(8) < 8 - 2 * rows[:, None],
    }  # fmt: skip


@kinds
def test_speech_depends_on_its_own_key_text_prompt_and_length_alone(kind):
    task, params = trained(kind)
    run = jax.jit(lambda told, keys: task.speak(params, told, keys, SETTINGS[kind]))
    keys = jax.random.split(KEY, 3)
    codes, said = run(told([0, 1, 2]), keys)
    assert codes.shape == said.shape == (3, 8) and int(codes.min()) >= 0 and int(codes.max()) < CODES
    turned, _ = run(told([2, 0, 1]), keys[jnp.array([2, 0, 1])])
    np.testing.assert_array_equal(turned, codes[jnp.array([2, 0, 1])])
    one = told([1])
    tight = {  # the same without the padding of text, prompt and length
        "text_ids": one["text_ids"][:, :3], "text_mask": one["text_mask"][:, :3], "prompt": one["prompt"][:, :2],
        "prompt_mask": one["prompt_mask"][:, :2], "mask": one["mask"][:, :6],
    }  # fmt: skip
    alone, _ = jax.jit(lambda told, keys: task.speak(params, told, keys, SETTINGS[kind]))(tight, keys[1:2])
    count = int(said[1].sum())
    np.testing.assert_array_equal(alone[0, :count], codes[1, :count])
    others = told([0, 1, 2])
    others["text_ids"] = others["text_ids"].at[1].add(1) % VOCABULARY
    changed, _ = run(others, keys)
    np.testing.assert_array_equal(changed[jnp.array([0, 2])], codes[jnp.array([0, 2])])
    assert (changed[1] != codes[1]).any()
    others = told([0, 1, 2])
    others["prompt"] = (others["prompt"] + 1) % CODES
    assert (run(others, keys)[0] != codes).any() and (run(told([0, 1, 2]), keys[::-1])[0] != codes).any()
    if kind == "masked":
        np.testing.assert_array_equal(said.sum(1), [8, 6, 4])


def test_greedy_speech_is_the_argmax_of_the_whole_sequence():
    task, params = trained("ar")
    sampling = SpeakARSampling(temperature=0.0, least=5, most=6)
    request = told([0, 1, 2])
    codes, said = jax.jit(lambda told: task.speak(params, told, jax.random.split(KEY, 3), sampling))(request)
    for row, (words, before) in enumerate(zip(WORDS, (1, 2, 3))):
        begin = [*np.asarray(request["text_ids"])[row, :words], VOCABULARY]
        begin += [*(np.asarray(request["prompt"])[row, :before] + VOCABULARY + 1)]
        ids = np.asarray([*begin, *(np.asarray(codes)[row] + VOCABULARY + 1)])
        logits = np.array(written_out(params, ids)[len(begin) - 1 : -1, VOCABULARY + 1 :])
        logits[:5, CODES] = -np.inf  # no end before its time
        best = logits.argmax(-1)
        count = int(said[row].sum())
        assert best[:count].tolist() == np.asarray(codes)[row, :count].tolist()
        assert count == 6 or (count == 5 and best[5] == CODES)


def test_guidance_follows_the_hidden_states_of_each_utterance_by_itself():
    task, params = trained("masked")
    request = told([0, 1, 2])
    sampling = SpeakMaskedSampling(steps=1, guidance=2.5, rescale=0.75, top_share=1.0)
    seen = []

    class Watched(SpeakMasked):
        def _apply(self, params, *args, method=None, **kwargs):
            out = super()._apply(params, *args, method=method, **kwargs)
            if method == "logits":
                jax.debug.callback(lambda features: seen.append(np.asarray(features)), args[0])
            return out

    Watched(task.model).speak(params, request, jax.random.split(KEY, 3), sampling)
    jax.effects_barrier()
    full = np.concatenate([request["prompt"], np.where(request["mask"], CODES, 0)], axis=1)
    mask = np.concatenate([request["prompt_mask"], request["mask"]], axis=1)
    no_prompt = mask & (np.arange(11) >= 3)

    def features(mask, text_mask):
        out = task.model.apply(
            {"params": params}, full, jnp.ones(3), request["text_ids"], mask=mask, text_mask=text_mask,
            method="features",
        )  # fmt: skip
        return np.asarray(out)[:, 3:]

    strong, weak = features(mask, request["text_mask"]), features(no_prompt, np.zeros((3, 5), bool))
    mixed = strong + 1.5 * (strong - weak)
    for row in range(3):
        real = np.asarray(request["mask"][row])
        ratio = strong[row, real].std() / mixed[row, real].std()
        np.testing.assert_allclose(seen[0][row, real], mixed[row, real] * (0.75 * ratio + 0.25), atol=1e-4)


def test_bad_batches_and_settings_are_refused():
    with pytest.raises(ValueError, match="one code per position, found shape"):
        data(BATCH | {"codes": jnp.zeros((3, 7, 2), jnp.int32)})
    with pytest.raises(ValueError, match="needs text"):
        data({name: value for name, value in BATCH.items() if name != "text_ids"})
    for wrong, said in (
        (lambda: SpeakMasked(None, least=2.0), "least must lie"),
        (lambda: SpeakMaskedSampling(steps=0), "steps must be at least 1"),
        (lambda: SpeakMaskedSampling(rescale=2.0), "rescale must lie"),
        (lambda: SpeakMaskedSampling(top_share=0.0), "top_share in"),
        (lambda: SpeakARSampling(top_p=0.0), "top_p in"),
        (lambda: SpeakARSampling(least=9, most=8), "1 <= least <= most codes, found 9 and 8"),
        (lambda: SpeakAR(LlamaLM(10, **SIZE), 9), "more than 11 ids"),
        (lambda: SpeakAR(LlamaLM(30, **SIZE, causal=False), 9), "a causal one"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
