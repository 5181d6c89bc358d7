"""The generators of codes against networks that know the answer, and the two transformers."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtok.nn import cache as cache_lib
from jaxtok.nn.dropout import dropout
from jaxtok.nn.llama import unstack_blocks
from jaxtok.nn.token_transformer import SIZES, CausalCodes, MaskedCodes
from jaxtok.tasks import code_guidance
from jaxtok.tasks.generate_ar import ARSampling, GenerateAR
from jaxtok.tasks.generate_masked import GenerateMasked, MaskedSampling, chosen

KEY = jax.random.key(0)
GRID, CODES, CLASSES = (2, 3), 7, 4
SIZE = dict(codes=CODES, classes=CLASSES, grid=GRID, depth=1, width=16, heads=2, hidden=24)
RNG = np.random.default_rng(0)
BATCH = {
    "codes": jnp.asarray(RNG.integers(0, CODES, (6, *GRID, 1)), jnp.int32),
    "label": jnp.asarray([0, 1, 2, 3, 0, 1]),
    "index": jnp.arange(6) + 40,
}


@functools.cache
def _trained(kind, depth=1):
    """A task on a small network whose output depends on everything, as after training; two blocks are stacked."""
    model = kind(**SIZE | {"depth": depth}, scan=depth > 1)
    task = (GenerateAR if kind is CausalCodes else GenerateMasked)(model)
    shapes = jax.eval_shape(task.init, KEY, BATCH)[0]
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        ones = path[-1].key in ("norm_scales", "scale")
        return np.asarray(ones + 0.3 * rng.standard_normal(leaf.shape), np.float32)

    return task, jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _apply(kind, depth=1):
    """``(codes, label, keys or None, cache or None)`` to what the network says."""
    task, params = _trained(kind, depth)

    def run(codes, label, keys=None, cache=None):
        more = {"cache": cache} if kind is CausalCodes else {}
        return task.model.apply({"params": params}, codes, label, keys=keys, **more)

    return jax.jit(run)


kinds = pytest.mark.parametrize("kind", [CausalCodes, MaskedCodes])
SETTINGS = {
    CausalCodes: ARSampling(guidance=2.0, scale="linear", temperature=0.9, top_p=0.95),
    MaskedCodes: MaskedSampling(steps=3, guidance=2.0, scale="cosine"),
}


@kinds
def test_a_sample_depends_on_its_own_key_and_label_and_on_no_device(kind):
    task, params = _trained(kind)
    label, keys = jnp.arange(4), jax.random.split(KEY, 4)
    run = jax.jit(lambda label, keys: task.sample(params, label, keys, (*GRID, 1), SETTINGS[kind]))
    whole = run(label, keys)
    assert whole.shape == (4, *GRID, 1) and whole.dtype == jnp.int32
    assert int(whole.min()) >= 0 and int(whole.max()) < CODES and len(np.unique(whole)) > 2
    turned = run(label[::-1], keys[::-1])
    np.testing.assert_array_equal(turned[::-1], whole)
    np.testing.assert_array_equal(run(label.at[0].set(3), keys.at[0].set(keys[3]))[1:], whole[1:])
    assert (run(label, jax.random.split(jax.random.key(5), 4)) != whole).any()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
    spread = jax.device_put((label, keys), NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(run(*spread), whole)


def test_cached_logits_are_those_of_the_whole_sequence():
    model, run = _trained(CausalCodes, 2)[0].model, _apply(CausalCodes, 2)
    codes, label = BATCH["codes"].reshape(6, -1), BATCH["label"]
    whole = run(codes[:, :-1], label)
    assert whole.shape == (6, 6, CODES)
    cache = model.cache(6)
    assert cache.slots == 6
    logits, cache = run(codes[:, :2], label, cache=cache)  # the class and two codes at once
    np.testing.assert_allclose(logits, whole[:, :3], atol=1e-5)
    for at in range(2, 5):
        logits, cache = run(codes[:, at : at + 1], None, cache=cache)
        np.testing.assert_allclose(logits[:, 0], whole[:, at + 1], atol=1e-5)
    assert int(cache.length) == 6
    changed = run(codes[:, :-1].at[:, 3].add(1) % CODES, label)
    np.testing.assert_array_equal(changed[:, :4], whole[:, :4])  # the future is not seen
    assert np.abs(changed[:, 4:] - whole[:, 4:]).max() > 1e-3


def test_greedy_decoding_is_the_argmax_of_the_whole_sequence():
    task, params = _trained(CausalCodes)
    label, scale = BATCH["label"], 1.5
    sampling = ARSampling(temperature=0.0, guidance=scale, scale="linear")
    ids = jax.jit(lambda label: task.sample(params, label, jax.random.split(KEY, 6), (*GRID, 1), sampling))(label)
    ids = ids.reshape(6, -1)
    with_class, without = (_apply(CausalCodes)(ids[:, :-1], c) for c in (label, jnp.full(6, CLASSES)))
    moving = 1 + (scale - 1) * np.arange(6)[None, :, None] / 5
    np.testing.assert_array_equal(ids, (without + moving * (with_class - without)).argmax(-1))


def test_positions_are_rotated_by_row_and_column():
    task, _ = _trained(CausalCodes)
    (cosine, sine), mask = task.model._places(6, None)
    assert cosine.shape == sine.shape == (1, 6, 4) and mask.shape == (1, 1, 6, 6)
    assert not np.asarray(cosine[0, 0]).any() and not np.asarray(sine[0, 0]).any()  # the class
    rows, columns = np.divmod(np.arange(5), 3)
    slow = 10000**-0.5  # the second of two frequencies of a head's half
    angles = np.stack([rows, rows * slow, columns, columns * slow], -1)
    np.testing.assert_allclose(cosine[0, 1:], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sine[0, 1:], np.sin(angles), atol=1e-6)
    one = task.model._places(1, cache_lib.crop(task.model.cache(1), 4))[0]
    np.testing.assert_array_equal(one[1][0, 0], sine[0, 4])


@kinds
def test_losses_and_evaluations_depend_on_no_neighbour(kind):
    task, params = _trained(kind)

    @jax.jit
    def run(batch):
        loss = task.losses(params, {}, batch, KEY, 0)[0]["main"][0]
        return loss, task.evaluate(params, {}, batch, KEY)["nats"]

    def twice(first):
        return {name: np.concatenate([value[first : first + 3]] * 2) for name, value in BATCH.items()}

    (loss, nats), first, second = run(BATCH), run(twice(0)), run(twice(3))
    np.testing.assert_allclose((first[0] + second[0]) / 2, loss, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([first[1][:3], second[1][3:]]), nats, rtol=1e-5)
    assert abs(float(first[0] - second[0])) > 1e-3 and task.accumulable and task.classes == CLASSES
    assert abs(float(loss - nats.mean())) > 1e-3  # dropout and hidden labels in training alone


def test_nats_are_those_of_the_logits():
    task, params = _trained(CausalCodes)
    codes = BATCH["codes"].reshape(6, -1)
    logits = np.asarray(_apply(CausalCodes)(codes[:, :-1], BATCH["label"]), np.float64)
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(odds, np.asarray(codes)[..., None], -1)[..., 0])
    found = jax.jit(lambda: task.evaluate(params, {}, BATCH, KEY)["nats"])()
    np.testing.assert_allclose(found, expected.mean(1), rtol=1e-5)
    still = jax.jit(lambda: GenerateAR(task.model.clone(dropout=0.0), 0.0).losses(params, {}, BATCH, KEY, 0))()
    np.testing.assert_allclose(still[0]["main"][0], expected.mean(), rtol=1e-5)


class Uniform(nn.Module):
    """The same logits everywhere."""

    codes: int = CODES
    classes: int = CLASSES
    grid: tuple[int, int] = GRID
    mask_id: int = CODES + CLASSES

    @nn.compact
    def __call__(self, ids, label, *, keys=None):
        return self.param("logits", nn.initializers.zeros, (CODES,)) + jnp.zeros((*ids.shape, 1))


def test_the_masked_loss_of_a_uniform_network_is_log_v_and_labels_are_hidden_at_their_rate():
    count, least = 2000, 0.5
    zeros = np.zeros((count, *GRID, 1), np.int32)
    batch = {"codes": zeros, "label": zeros[:, 0, 0, 0], "index": np.arange(count)}
    fed = {}

    class Spy(Uniform):
        @nn.compact
        def __call__(self, ids, label, *, keys=None):
            fed.update(ids=ids, label=label)
            return super().__call__(ids, label, keys=keys)

    @jax.jit
    def run(batch):
        task = GenerateMasked(Spy(), label_drop=0.25, least=least)
        return task.losses({"logits": jnp.zeros(CODES)}, {}, batch, KEY, 0)[0]["main"], fed

    (loss, numbers), fed = run(batch)
    np.testing.assert_allclose(numbers["nats"], math.log(CODES), rtol=1e-6)
    u = (np.arange(100_000) + 0.5) / 100_000
    expected = {low: np.maximum(np.cos(np.pi / 2 * u), low).mean() for low in (0.0, least, 1.0)}
    for low, mean in expected.items():
        np.testing.assert_allclose(GenerateMasked(Uniform(), least=low).expected, mean, rtol=1e-6)
    masked = np.asarray(fed["ids"] == Uniform().mask_id).sum(1)
    for k in range(1, 7):
        share = (np.ceil(np.maximum(np.cos(np.pi / 2 * u), least) * 6) == k).mean()
        assert abs((masked == k).mean() - share) < 0.03
    np.testing.assert_allclose(loss, math.log(CODES) * masked.sum() / (6 * count * expected[least]), rtol=1e-5)
    assert abs(np.asarray(fed["label"] == CLASSES).mean() - 0.25) < 0.03


def test_smoothing_is_over_the_codebook():
    logits = np.linspace(-1, 2, CODES)
    log_p = logits - np.log(np.exp(logits).sum())
    batch = {"codes": np.full((2, *GRID, 1), 5), "label": np.zeros(2, np.int32), "index": np.arange(2)}
    task = GenerateMasked(Uniform(), least=1.0)
    loss, numbers = jax.jit(lambda batch: task.losses({"logits": logits}, {}, batch, KEY, 0)[0]["main"])(batch)
    np.testing.assert_allclose(numbers["nats"], -log_p[5], rtol=1e-5)
    np.testing.assert_allclose(loss, -0.9 * log_p[5] - 0.1 * log_p.mean(), rtol=1e-5)


def test_positions_are_chosen_by_the_share():
    keys = jax.random.split(KEY, 3000)
    share = np.r_[0.0, 1.0, np.full(2998, 0.4)]
    hidden = np.asarray(jax.jit(chosen, static_argnums=2)(keys, share, 6))
    np.testing.assert_array_equal(hidden.sum(1), np.r_[1, 6, np.full(2998, 3)])  # ceil(2.4)
    np.testing.assert_allclose(hidden.mean(0), 0.5, atol=0.04)


def test_what_a_masked_network_sees():
    task, params = _trained(MaskedCodes)
    model, run, ids = task.model, _apply(MaskedCodes), BATCH["codes"].reshape(6, -1)
    logits = run(ids, BATCH["label"])
    assert logits.shape == (6, 6, CODES + CLASSES + 1) and model.mask_id == CODES + CLASSES
    moved = run(ids.at[:, 5].set(model.mask_id), BATCH["label"])
    assert np.abs(moved[:, 0] - logits[:, 0]).max() > 1e-3  # it looks ahead too
    hidden = run(ids, jnp.full(6, CLASSES))
    assert np.abs(hidden - logits).max() > 1e-3
    table = params["embed"]["embedding"]
    x = (table[np.concatenate([np.full((6, 1), model.mask_id), ids], 1)] + params["positions"]).astype(float)
    x = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    x = x * params["embed_norm"]["scale"] + params["embed_norm"]["bias"]
    bare = jax.jit(model.clone(depth=0).apply)
    rest = {name: value for name, value in params.items() if not name.startswith("blocks")}
    found = bare({"params": rest}, ids, jnp.full(6, CLASSES))
    y = np.asarray(x[:, 1:] @ params["head_linear"]["kernel"] + params["head_linear"]["bias"])
    y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    y = (y - y.mean(-1, keepdims=True)) / y.std(-1, keepdims=True)
    y = y * params["head_norm"]["scale"] + params["head_norm"]["bias"]
    np.testing.assert_allclose(found, y @ table.T + params["head_bias"], atol=1e-4)  # no class is the mask; tied head


@kinds
def test_stacked_and_unrolled_blocks_are_one_network(kind):
    _, params = _trained(kind, 2)
    plain = kind(**SIZE | {"depth": 2})
    codes = BATCH["codes"].reshape(6, -1)[:, : 5 if kind is CausalCodes else 6]
    stacked = _apply(kind, 2)(codes, BATCH["label"])
    unrolled = jax.jit(plain.apply)({"params": unstack_blocks(params)}, codes, BATCH["label"])
    np.testing.assert_allclose(stacked, unrolled, atol=1e-4)


def test_dropout_is_of_the_example():
    x, keys = jnp.ones((3, 50, 41)), jax.random.split(KEY, 3)
    run = jax.jit(lambda keys: dropout(x, keys, 0.25))
    out = np.asarray(run(keys))
    np.testing.assert_array_equal(run(keys[::-1])[::-1], out)
    np.testing.assert_allclose(np.unique(out), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose((out == 0).mean((1, 2)), 0.25, atol=0.03)
    assert (out[0] != out[1]).any() and dropout(x, None, 0.5) is x and dropout(x, keys, 0.0) is x


def test_llamagen_has_the_published_sizes():
    found = {}
    for name in ("B", "XL"):
        model = CausalCodes(codes=16384, classes=1000, grid=(16, 16), scan=True, **SIZES[name])
        params = jax.eval_shape(model.init, KEY, jnp.zeros((1, 2), jnp.int32), jnp.zeros(1, jnp.int32))
        found[name] = round(sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6)
    assert found == {"B": 111, "XL": 775}


def test_scales_of_guidance():
    done = jnp.array([0.0, 0.5, 1.0])
    for name, values in (("constant", [3, 3, 3]), ("linear", [1, 2, 3]), ("cosine", [1, 2, 3])):
        np.testing.assert_allclose(code_guidance.scale(name, 3.0, done), values, atol=1e-6)
    np.testing.assert_allclose(code_guidance.scale("cosine", 3.0, jnp.array(0.25)), 2 - math.sqrt(0.5), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ARSampling(temperature=-1.0), "expected temperature >= 0"),
        (lambda: ARSampling(top_p=0.0), "top_p in"),
        (lambda: ARSampling(guidance=-1.0), "guidance must not be negative"),
        (lambda: ARSampling(scale="ramp"), "scale must be one of constant, linear, cosine, found 'ramp'"),
        (lambda: MaskedSampling(steps=0), "steps must be at least 1, found 0"),
        (lambda: MaskedSampling(choice_temperature=-1.0), "must not be negative"),
        (lambda: MaskedSampling(schedule="sine"), "schedule must be one of"),
        (lambda: GenerateAR(Uniform(), label_drop=2.0), "label_drop must lie in"),
        (lambda: GenerateMasked(Uniform(), smoothing=-0.1), "smoothing must lie in"),
        (lambda: _sample(shape=(3, 2, 1)), r"codes: expected a grid of shape \(2, 3, 1\) .*, found \(3, 2, 1\)"),
        (lambda: _sample(label=None), "label: expected int .2. of 4 classes, found None"),
        (lambda: _sample(classes=0, label=None, guidance=2.0), "guidance needs a model with classes"),
        (
            lambda: GenerateAR(Uniform()).losses({}, {}, BATCH | {"codes": jnp.zeros((6, 2, 3, 4), int)}, KEY, 0),
            r"found \(2, 3, 4\)",
        ),
        (lambda: _shape(CausalCodes, jnp.zeros((1, 6), int), jnp.zeros(1, int)), "are 6 tokens, found 7"),
        (lambda: _shape(CausalCodes, jnp.zeros((1, 2), int)), "expected int .B. where there is no cache"),
        (lambda: _shape(MaskedCodes, jnp.zeros((1, 2), int), jnp.zeros(1, int)), "expected ids .B, 6."),
        (lambda: dropout(jnp.ones((1, 2)), jax.random.split(KEY, 1), 1.0), "dropout must lie in"),
    ],
)  # fmt: skip
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _shape(kind, *args):
    return jax.eval_shape(kind(**SIZE).init, KEY, *args)


def _sample(shape=(*GRID, 1), label=(0, 1), classes=CLASSES, guidance=1.0):
    label = None if label is None else jnp.asarray(label)
    task = GenerateMasked(Uniform(classes=classes))
    return task.sample({}, label, jax.random.split(KEY, 2), shape, MaskedSampling(guidance=guidance))
