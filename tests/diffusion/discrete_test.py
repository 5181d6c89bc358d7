import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import discrete

SCHEDULES = {
    "loglinear": discrete.loglinear, "lifted": discrete.lifted, "maskgit": discrete.maskgit, "cosine": discrete.cosine,
    "cosine_squared": discrete.cosine_squared, "linear_noise": discrete.linear_noise, "geometric": discrete.geometric,
}  # fmt: skip
KEY = jax.random.key(0)
LOGITS = np.random.default_rng(0).standard_normal((1, 3, 5)).astype(np.float32)


# ---- schedules ----


def test_slopes_are_those_of_the_shares(compute):
    t = np.linspace(0, 1, 9, dtype=np.float32)

    def both(t):
        grads = {name: jax.vmap(jax.grad(lambda t, s=s: s(t)[0]))(t) for name, s in SCHEDULES.items()}
        return {name: (*s(t), grads[name]) for name, s in SCHEDULES.items()}

    found = compute(both, t)
    for name, (share, slope, expected) in found.items():
        np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-5, err_msg=name)
        assert (np.diff(share) > 0).all(), name
    ends = {name: share[[0, -1]] for name, (share, _, _) in found.items()}
    for name, expected in {
        "loglinear": [0.0, 0.999], "lifted": [0.001, 1.0], "maskgit": [0.0, 1.0], "cosine": [0, 0.999],
        "linear_noise": [0.0, 1.0], "geometric": -np.expm1([-1e-3, -1.0]),
    }.items():  # fmt: skip
        np.testing.assert_allclose(ends[name], expected, atol=5e-5)
    share, slope, _ = found["loglinear"]
    np.testing.assert_allclose(slope[1:] / share[1:] * t[1:], 1.0, rtol=1e-6)


# ---- corruption ----


def test_corruption_masks_the_share_and_depends_on_the_place_alone(compute, make_keys):
    ids, share = np.arange(2000).reshape(2, 1000) % 7, np.float32([0.2, 0.9])
    known = np.where(np.arange(1000) < 500, 0, share[:, None]).astype(np.float32)  # a prompt is never masked

    def both(keys):
        return discrete.corrupt(ids, share, keys, 9), discrete.corrupt(ids, known, keys, 9)

    (x_t, masked), (_, after) = compute(both, make_keys(2))
    np.testing.assert_allclose(masked.mean(1), share, atol=0.04)
    np.testing.assert_array_equal(x_t, np.where(masked, 9, ids))
    np.testing.assert_array_equal(after, masked & (np.arange(1000) >= 500))


def test_corruption_of_a_count(compute, make_keys):
    ids, among = np.zeros((300, 6), int), np.tile(np.arange(6) > 0, (300, 1))
    _, masked = compute(lambda keys: discrete.corrupt_count(ids, np.full(300, 2), keys, 9, among=among), make_keys(300))
    assert (masked.sum(1) == 2).all() and not masked[:, 0].any()
    np.testing.assert_allclose(masked.mean(0)[1:], 0.4, atol=0.1)


def test_counts_for_a_likelihood_are_spread(compute):
    counts, one = compute(lambda key: (discrete.spread_counts(key, 8, 128), discrete.spread_counts(key, 1, 1)), KEY)
    np.testing.assert_array_equal(np.bincount(counts, minlength=9), [0] + [16] * 8)
    assert one.tolist() == [1]


# ---- losses ----


def test_substitution_and_its_cross_entropy(compute):
    logits, ids = np.float32([[[1.0, 2.0, 9.0], [0.5, 0.5, 0.5]]]), np.array([[1, 0]])

    def all_of(logits):
        log_probs = discrete.substituted(logits, np.array([[2, 1]]), 2)
        losses = (discrete.cross_entropy(logits, ids, smoothing=amount) for amount in (0.0, 0.1))
        return jnp.exp(log_probs), *losses

    probs, loss, smooth = compute(all_of, logits)
    np.testing.assert_allclose(probs[0], [[1 / (1 + np.e), np.e / (1 + np.e), 0.0], [0.0, 1.0, 0.0]], rtol=1e-5)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(loss[0], [-log_probs[0, 0, 1], math.log(3)], rtol=1e-6)
    target = np.array([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    np.testing.assert_allclose(smooth[0, 0], -target @ log_probs[0, 0], rtol=1e-5)


def test_the_loss_of_a_uniform_predictor(compute):
    """LLaDA's, 64 tokens of 32 ids: its mean is ln 32; its deviation over sequences is 1.054, with heavy tails."""
    count, length, size = 4096, 64, 32
    share = compute(lambda t: discrete.lifted(t)[0], ((np.arange(count) + 0.5) / count).astype(np.float32))
    masked = np.random.default_rng(0).random((count, length)) < share[:, None]
    loss = compute(lambda masked: discrete.bound(jnp.full(masked.shape, math.log(size)), masked, 1 / share), masked)
    np.testing.assert_allclose(loss.mean(), math.log(size), atol=0.05)
    expected = math.log(size) * math.sqrt((math.log(1000) / 0.999 - 1) / length)
    np.testing.assert_allclose(expected, 1.054, atol=1e-3)
    np.testing.assert_allclose(loss.std(), expected, rtol=0.15)


def test_losses_count_what_they_should(compute):
    masked, counted = np.array([[True, False, True, True]]), np.array([[True, True, True, False]])

    def all_of(loss):
        weight = np.float32([2.0])
        whole, part = discrete.bound(loss, masked, weight), discrete.bound(loss, masked, weight, counted=counted)
        return whole, part, discrete.masked_mean(loss, masked)

    found = compute(all_of, np.float32([[1.0, 2.0, 4.0, 8.0]]))
    np.testing.assert_allclose(np.concatenate(found), [6.5, 10 / 3, 13 / 3], rtol=1e-6)


def test_score_entropy_of_scaled_probabilities_is_cross_entropy(compute):
    """With e^s = r p over clean ids; times d sigma/dt it is MDLM's bound."""
    ids, x_t = np.array([[0, 3, 1]]), np.full((1, 3), 4)

    def all_of(logits, t):
        share, slope = discrete.loglinear(t)
        log_probs = discrete.substituted(logits, x_t, 4)
        ratio = (1 - share) / share
        entropy = discrete.score_entropy(jnp.log(ratio) + log_probs, ids, share, 4)
        return share, slope, log_probs, entropy, discrete.log_scores(logits, x_t, share)

    share, slope, log_probs, entropy, scores = compute(all_of, LOGITS, np.float32([0.3]))
    loss = -np.take_along_axis(log_probs, ids[..., None], -1)[..., 0]
    np.testing.assert_allclose(entropy, (1 - share) / share * loss, rtol=2e-5)
    np.testing.assert_allclose(slope / (1 - share) * entropy, slope / share * loss, rtol=2e-5)
    np.testing.assert_array_equal(scores[..., 4], np.zeros((1, 3)))
    np.testing.assert_allclose(scores[..., :4], LOGITS[..., :4] - np.log(share / (1 - share)) - np.log(4), rtol=1e-5)


# ---- two sequences, AA and BB, each with probability 1/2: ids 0 and 1, mask 2 ----


def _exact(ids, t=None):
    """Certain as soon as one token is seen."""
    seen = jnp.stack([(ids == i).any(1) for i in range(2)], -1)
    logits = jnp.where(seen.any(-1, keepdims=True) & ~seen, -1e9, 0.0)
    logits = jnp.concatenate([logits, jnp.full((len(ids), 1), 5.0)], -1)  # the mask's own must not matter
    return jnp.broadcast_to(logits[:, None], (*ids.shape, 3))


def test_the_bound_of_an_exact_denoiser_is_the_entropy(compute):
    """ln 2 per sequence: by MDLM's weight over times, and by LLaDA's over counts, where both draws are exhausted."""
    x_t, ids = np.array([[0, 0], [2, 0], [0, 2], [2, 2]]), np.zeros((4, 2), int)
    masked = x_t == 2

    def bounds(x_t):
        loss = discrete.cross_entropy(discrete.substituted(_exact(x_t), x_t, 2), ids)
        return tuple(discrete.bound(loss, masked, w) for w in (np.ones(4), 2 / np.maximum(masked.sum(1), 1)))

    plain, by_count = compute(bounds, x_t)
    share = (np.arange(1000) + 0.5)[:, None] / 1000  # loglinear without a floor
    chance = np.prod(np.where(masked, share[..., None], 1 - share[..., None]), 2)
    np.testing.assert_allclose((2 * plain * chance / share).sum(1).mean(), np.log(2), rtol=1e-5)
    np.testing.assert_allclose(2 * (by_count[1:3].mean() + by_count[3]) / 2, np.log(2), rtol=1e-6)


def test_ancestral_sampling_in_one_step_mixes_the_sequences_and_in_many_does_not(make_keys):
    """Both tokens in one of T steps: wrong half of the times, a share 1/(2 T). Samples depend on their own keys."""
    schedule = functools.partial(discrete.loglinear, floor=0.0)

    @jax.jit
    def sample(times, keys):
        return discrete.ancestral(_exact, jnp.full((4000, 2), 2), times, keys, schedule, 2)

    for steps in (1, 8):
        times = np.pad(np.linspace(1, 0, steps + 1), (0, 8 - steps), mode="edge")  # repeats change nothing
        ids = np.asarray(sample(times.clip(1e-5), make_keys(4000)))
        assert ids.max() <= 1
        wrong = (ids[:, 0] != ids[:, 1]).mean()
        np.testing.assert_allclose(wrong, 0.5 / steps, atol=4 * math.sqrt(0.25 / steps / 4000))
        np.testing.assert_allclose(ids[:, 0].mean(), 0.5, atol=0.04)
    reverse = slice(None, None, -1)
    np.testing.assert_array_equal(sample(times.clip(1e-5), make_keys(4000, reverse)), ids[reverse])


def test_an_ancestral_step_reveals_its_share_and_copies_the_rest(make_keys):
    """And depends on the example's own key alone."""
    x_t, keys = np.tile(np.int32([[2, 0, 2, 1]]), (2000, 1)), make_keys(2000)
    log_probs = jnp.log(jnp.broadcast_to(jnp.array([0.25, 0.75, 0.0]), (2000, 4, 3)))
    reveal = jax.jit(lambda keys: discrete.reveal(log_probs, x_t, keys, jnp.float32(0.8), jnp.float32(0.6), 2))
    found = np.asarray(reveal(keys))
    assert (found[:, 1] == 0).all() and (found[:, 3] == 1).all()
    shares = [(found[:, [0, 2]] == i).mean() for i in range(3)]
    np.testing.assert_allclose(shares, [0.25 * 0.25, 0.75 * 0.25, 0.75], atol=0.03)
    np.testing.assert_array_equal(reveal(make_keys(2000, slice(None, None, -1))), found[::-1])
    np.testing.assert_array_equal(reveal(keys), found)


# ---- masks and random ids ----


def test_the_hybrid_marginal_and_its_loss_without_random_ids(compute):
    """A share p_u of random ids at t = 1/2; with none, cross-entropy/t at masked positions."""
    ids, x_t = np.array([[0, 3, 1]]), np.array([[4, 4, 1]])

    def all_of(logits):
        probs = jax.nn.one_hot(np.array([[0, 2]]), 4)
        log_probs = discrete.substituted(logits, np.full((1, 3), 4), 4)
        loss = discrete.hybrid_loss(log_probs, ids, x_t, np.float32([0.3]), 4, uniform=0.0)
        return discrete.hybrid_marginal(probs, np.float32([0.5]), 3, uniform=0.2, power=4.0), loss, log_probs

    found, loss, log_probs = compute(all_of, LOGITS)
    np.testing.assert_allclose(found[0, 0], [0.4 + 0.2 / 3, 0.2 / 3, 0.2 / 3, 0.4], rtol=1e-5)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=1e-6)
    expected = -np.take_along_axis(log_probs, ids[..., None], -1)[..., 0] / 0.3
    np.testing.assert_allclose(loss, np.where(x_t == 4, expected, 0.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("uniform", [0.0, 0.3])
def test_the_hybrid_bound_of_the_best_prediction_is_the_entropy(uniform, compute):
    """One token of three ids, of which nothing else tells: the loss summed over ids and states, averaged over time."""
    prior, size, steps = np.float32([0.5, 0.3, 0.2, 0.0]), 4, 1000
    t = ((np.arange(steps) + 0.5) / steps).astype(np.float32)
    options = {"uniform": uniform, "power": 2.0}
    pairs = np.array([(i, z) for i in range(3) for z in range(size)])

    def total(pairs):
        def at(pair):
            chance = discrete.hybrid_marginal(jax.nn.one_hot(pair[:1], size)[None], t, 3, **options)[:, 0, pair[1]]
            log_probs = jnp.broadcast_to(jnp.log(jnp.maximum(prior, 1e-30)), (steps, 1, size))
            ids, x_t = (jnp.full((steps, 1), pair[i]) for i in range(2))
            return prior[pair[0]] * (chance * discrete.hybrid_loss(log_probs, ids, x_t, t, 3, **options)[:, 0]).mean()

        return jax.lax.map(at, pairs).sum()

    prior = jnp.asarray(prior)
    entropy = -(np.asarray(prior)[:3] * np.log(np.asarray(prior)[:3])).sum()
    np.testing.assert_allclose(compute(total, pairs), entropy, rtol=5e-3)
