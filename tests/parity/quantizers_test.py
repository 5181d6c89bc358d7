"""Quantizers against vector-quantize-pytorch, with shared weights: values, codes, losses, gradients, moving state.

What differs on purpose is listed in ``jaxtok/quantizers/PARITY.md``; there our number is tested against a closed form,
and theirs is pinned as the table states it.
"""

import inspect
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok.quantizers as jq
from jaxtok.quantizers import estimators

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
vqp = pytest.importorskip("vector_quantize_pytorch", reason="needs the extra 'parity'")
if tuple(int(part) for part in version("vector-quantize-pytorch").split(".")[:2]) < (1, 32):
    pytest.skip("needs vector-quantize-pytorch >= 1.32", allow_module_level=True)

from vector_quantize_pytorch import residual_vq as their_residual  # noqa: E402
from vector_quantize_pytorch import vector_quantize_pytorch as their_vq  # noqa: E402

torch.set_num_threads(1)


def shapes(count, seed):
    """Random (batch, length, width, codes)."""
    rng = np.random.default_rng(seed)
    return [tuple(int(rng.integers(*r)) for r in ((1, 5), (2, 40), (2, 34), (3, 300))) for _ in range(count)]


def drawn(seed, *sizes):
    return np.random.default_rng(seed).standard_normal(sizes, dtype=np.float32)


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=tolerance, rtol=tolerance)


def ours(q, variables, z, weight, **options):
    """One training step: values, state, and the gradients of <weight, latents> and of the loss by (params, z)."""
    state = {name: value for name, value in variables.items() if name != "params"}

    @jax.jit
    def run(params, state, z):
        def f(params, z):
            y, moved = q.apply({"params": params, **state}, z, train=True, mutable=["codebook"], **options)
            return (y.latents, y.loss), (y, moved)

        _, pull, (y, moved) = jax.vjp(f, params, z, has_aux=True)
        return y, moved, pull((jnp.asarray(weight), jnp.zeros(()))), pull((jnp.zeros_like(weight), jnp.ones(())))

    y, moved, by_value, by_loss = run(variables.get("params", {}), state, z)
    return dict(
        latents=y.latents, codes=np.asarray(y.codes), loss=y.loss, moved=moved.get("codebook"), metrics=y.metrics,
        value_params=by_value[0], value_z=by_value[1], loss_params=by_loss[0], loss_z=by_loss[1],
    )  # fmt: skip


def theirs(q, z, weight, **options):
    """The same of a module in PyTorch; parameters in its own order; losses as it returns them."""
    q.train()
    z = torch.tensor(z, requires_grad=True)
    latents, codes, *rest = q(z, **options)
    loss = rest[0] if rest else torch.zeros(())
    leaves = [z, *(p for p in q.parameters() if p.requires_grad)]

    def gradients(scalar):
        if not scalar.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves]
        found = torch.autograd.grad(scalar, leaves, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found)]

    by_value, by_loss = gradients((latents * torch.tensor(weight)).sum()), gradients(loss.sum())
    return dict(
        latents=latents.detach(), codes=codes.numpy(), loss=loss.detach(), value_z=by_value[0],
        value_params=by_value[1:], loss_z=by_loss[0], loss_params=by_loss[1:],
    )  # fmt: skip


def same(a, b, *names):
    np.testing.assert_array_equal(a["codes"].reshape(b["codes"].shape), b["codes"])
    for name in ("latents", *names):
        close(a[name], b[name])


def table(codebook):
    """Sets the [K, D] embedding of their codebook, and its averages, to random rows, which it returns."""
    rows = torch.tensor(drawn(99 + len(codebook.embed[0]), *codebook.embed.shape[1:]))
    if codebook.use_cosine_sim:
        rows = torch.nn.functional.normalize(rows, dim=-1)
    codebook.embed.data.copy_(rows[None])
    codebook.embed_avg.data.copy_(rows[None])
    return rows.numpy()


def stack(count, make, **fields):
    """Modules of their own: one instance in several places would be one codebook."""
    return tuple(make(**fields) for _ in range(count))


def averages(rows):
    return {"embedding": rows, "counts": np.ones(len(rows), np.float32), "sums": rows, "started": np.asarray(True)}


# ---- one codebook ----

LEARNED = dict(learnable_codebook=True, ema_update=False)


@pytest.mark.parametrize("rotation", [False, True], ids=["straight", "rotation"])
@pytest.mark.parametrize("shape", shapes(2, 0))
def test_vq_learned_by_gradient(shape, rotation):
    *leading, width, size = shape
    z, weight = drawn(1, *leading, width), drawn(2, *leading, width)
    peer = vqp.VectorQuantize(dim=width, codebook_size=size, rotation_trick=rotation, **LEARNED)
    rows = table(peer._codebook)
    estimator = estimators.rotation if rotation else estimators.straight_through
    q = jq.VQ(size=size, width=width, commitment=1.0, estimator=estimator)
    a, b = ours(q, {"params": {"embedding": rows}}, z, weight), theirs(peer, z, weight)
    same(a, b, "value_z", "loss_z")
    close(a["loss_params"]["embedding"], b["loss_params"][0][0])
    close(a["loss"], 2 * b["loss"])  # their one term stands for both


def test_vq_loss_order_in_closed_form():
    z, rows = drawn(1, 3, 7, 5), drawn(2, 11, 5)
    nearest = np.square(z[:, :, None] - rows).sum(-1).argmin(-1)
    mean = np.square(z - rows[nearest]).mean()
    for legacy, at_codes, at_z in ((False, 1.0, 0.25), (True, 0.25, 1.0)):
        a = ours(jq.VQ(size=11, width=5, legacy=legacy), {"params": {"embedding": rows}}, z, np.zeros_like(z))
        close(a["loss"], 1.25 * mean)
        close(a["loss_z"], at_z * 2 * (z - rows[nearest]) / z.size)
        to_codes = np.zeros_like(rows)
        np.add.at(to_codes, nearest, at_codes * 2 * (rows[nearest] - z) / z.size)
        close(a["loss_params"]["embedding"], to_codes)


@pytest.mark.parametrize("cosine", [False, True], ids=["euclidean", "cosine"])
@pytest.mark.parametrize("shape", shapes(2, 3))
def test_vq_of_moving_averages(shape, cosine):
    *leading, width, size = shape
    z, weight = drawn(1, *leading, width), drawn(2, *leading, width)
    peer = vqp.VectorQuantize(dim=width, codebook_size=size, use_cosine_sim=cosine, commitment_weight=0.7)
    rows = table(peer._codebook)
    q = jq.EMAVQ(
        size=size, width=width, decay=0.8, commitment=0.7, cosine=cosine, estimator=estimators.rotation
    )  # fmt: skip
    state = averages(rows)
    for _ in range(2):  # the second step begins with unequal counts
        a, b = ours(q, {"codebook": state}, z, weight), theirs(peer, z, weight)
        same(a, b, "value_z", "loss_z", "loss")
        state = a["moved"]
        close(state["counts"], peer._codebook.cluster_size[0])
        close(state["sums"], peer._codebook.embed_avg[0])
        close(state["embedding"], peer._codebook.embed[0])
        z = z + 0.1


@pytest.mark.parametrize("kind", ["ema", "learned"])
def test_vq_leaves_padding_out(kind):
    z, weight = drawn(1, 3, 11, 6), drawn(2, 3, 11, 6)
    mask = np.arange(11) < np.array([11, 4, 7])[:, None]
    options = LEARNED if kind == "learned" else {}
    peer = vqp.VectorQuantize(dim=6, codebook_size=17, rotation_trick=False, **options)
    rows = table(peer._codebook)
    if kind == "learned":
        q, variables = jq.VQ(size=17, width=6, commitment=1.0), {"params": {"embedding": rows}}
    else:
        q, variables = jq.EMAVQ(size=17, width=6, decay=0.8, commitment=1.0), {"codebook": averages(rows)}
    a = ours(q, variables, z, weight * mask[..., None], mask=jnp.asarray(mask))
    b = theirs(peer, z, weight * mask[..., None], mask=torch.tensor(mask))
    np.testing.assert_array_equal(a["codes"][..., 0][mask], b["codes"][mask])
    assert (b["codes"][~mask] == -1).all() and (a["codes"] >= 0).all()
    close(a["latents"][mask], b["latents"][torch.tensor(mask)])
    close(a["value_z"], b["value_z"])
    close(a["loss_z"], b["loss_z"])
    close(a["loss"], b["loss"] * (2 if kind == "learned" else 1))
    if kind == "ema":
        close(a["moved"]["embedding"], peer._codebook.embed[0])
    else:
        close(a["loss_params"]["embedding"], b["loss_params"][0][0])


def test_diveq():
    z, weight = drawn(1, 2, 13, 6), drawn(2, 2, 13, 6)
    peer = vqp.VectorQuantize(
        dim=6, codebook_size=19, directional_reparam=True, directional_reparam_variance=0.0,
        threshold_ema_dead_code=1e-9,
    )  # fmt: skip
    rows = table(peer._codebook)
    q = jq.VQ(size=19, width=6, estimator=estimators.diveq, to_codes=0.0, commitment=0.0)  # no key, no noise
    a, b = ours(q, {"params": {"embedding": rows}}, z, weight), theirs(peer, z, weight)
    same(a, b, "value_z")
    close(a["value_params"]["embedding"], b["value_params"][0][0])
    assert float(a["loss"]) == float(b["loss"]) == 0


def test_heads_are_groups():
    z, weight = drawn(1, 2, 13, 10), drawn(2, 2, 13, 10)
    peer = vqp.VectorQuantize(dim=10, codebook_size=19, heads=2, codebook_dim=5, separate_codebook_per_head=True)
    rows = drawn(3, 2, 19, 5)
    peer._codebook.embed.data.copy_(torch.tensor(rows))
    peer._codebook.embed_avg.data.copy_(torch.tensor(rows))
    groups = stack(2, jq.EMAVQ, size=19, width=5, decay=0.8, commitment=1.0, estimator=estimators.rotation)
    state = {f"groups_{i}": averages(rows[i]) for i in range(2)}
    a, b = ours(jq.GroupedVQ(groups=groups), {"codebook": state}, z, weight), theirs(peer, z, weight)
    same(a, b, "value_z")
    close(a["loss"], 2 * b["loss"])  # they average over heads
    close(a["loss_z"], 2 * b["loss_z"])
    for i in range(2):
        close(a["moved"][f"groups_{i}"]["embedding"], peer._codebook.embed[i])


@pytest.mark.parametrize("rotation", [False, True], ids=["straight", "rotation"])
@pytest.mark.parametrize("shape", shapes(2, 5))
def test_simvq(shape, rotation):
    *leading, width, size = shape
    z, weight = drawn(1, *leading, width), drawn(2, *leading, width)
    peer = vqp.SimVQ(dim=width, codebook_size=size, rotation_trick=rotation)
    estimator = estimators.rotation if rotation else estimators.straight_through
    q = jq.SimVQ(size=size, width=width, bias=False, estimator=estimator)
    a, b = ours(q, simvq_variables(peer), z, weight), theirs(peer, z, weight)
    same(a, b, "value_z", "loss_z", "loss")
    close(a["loss_params"]["map"]["kernel"].T, b["loss_params"][0])


def simvq_variables(peer):
    kernel = peer.code_transform.weight.detach().numpy().T
    return {"params": {"map": {"kernel": kernel}}, "codebook": {"embedding": peer.frozen_codebook.numpy()}}


# ---- layers ----


def residual_of(kind, width, size, depth):
    """A pair of residual quantizers with the same tables, and the variables of ours."""
    if kind == "simvq":
        peer = vqp.ResidualSimVQ(dim=width, codebook_size=size, num_quantizers=depth, rotation_trick=False)
        layers = [simvq_variables(layer) for layer in peer.layers]
        variables = {
            name: {f"layers_{i}": layer[name] for i, layer in enumerate(layers)} for name in ("params", "codebook")
        }
        return peer, jq.ResidualVQ(layers=stack(depth, jq.SimVQ, size=size, width=width, bias=False)), variables
    options = LEARNED if kind == "learned" else {}
    peer = vqp.ResidualVQ(dim=width, codebook_size=size, num_quantizers=depth, rotation_trick=False, **options)
    rows = [table(layer._codebook) * np.float32(2.0**-i) for i, layer in enumerate(peer.layers)]
    for layer, scaled in zip(peer.layers, rows):
        for moving in (layer._codebook.embed, layer._codebook.embed_avg):
            moving.data.copy_(torch.tensor(scaled)[None])
    if kind == "learned":
        params = {f"layers_{i}": {"embedding": r} for i, r in enumerate(rows)}
        layers = stack(depth, jq.VQ, size=size, width=width, commitment=1.0)
        return peer, jq.ResidualVQ(layers=layers), {"params": params}
    layers = stack(depth, jq.EMAVQ, size=size, width=width, decay=0.8, commitment=1.0)
    return peer, jq.ResidualVQ(layers=layers), {"codebook": {f"layers_{i}": averages(r) for i, r in enumerate(rows)}}


@pytest.mark.parametrize("kind", ["ema", "learned", "simvq"])
@pytest.mark.parametrize("shape", shapes(1, 7))
def test_residual_vq(shape, kind):
    *leading, width, size = shape
    z, weight = drawn(1, *leading, width), drawn(2, *leading, width)
    peer, q, variables = residual_of(kind, width, size, depth=3)
    a, b = ours(q, variables, z, weight), theirs(peer, z, weight)
    same(a, b, "loss_z")
    close(a["loss"], b["loss"].sum() * (2 if kind == "learned" else 1))  # theirs: one per layer
    close(a["value_z"], weight)  # once,
    close(b["value_z"], 3 * weight)  # not once per layer
    if kind == "ema":
        for i, layer in enumerate(peer.layers):
            close(a["moved"][f"layers_{i}"]["embedding"], layer._codebook.embed[0])
    else:
        for i, by_table in enumerate(b["loss_params"]):
            layer = a["loss_params"][f"layers_{i}"]
            close(layer["embedding"] if kind == "learned" else layer["map"]["kernel"].T, by_table.squeeze(0))


def test_residual_rotation_turns_once():
    z, weight = drawn(1, 2, 13, 6), drawn(2, 2, 13, 6)
    peer, q, variables = residual_of("ema", 6, 19, depth=3)
    a, b = ours(q.clone(estimator=estimators.rotation), variables, z, weight), theirs(peer, z, weight)
    same(a, b)
    leaf = torch.tensor(z, requires_grad=True)
    (their_vq.rotate_to(leaf, b["latents"]) * torch.tensor(weight)).sum().backward()
    close(a["value_z"], leaf.grad)


def test_residual_diveq(monkeypatch):
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # no noise
    z, weight = drawn(1, 2, 13, 6), drawn(2, 2, 13, 6)
    peer = vqp.ResidualVQ(dim=6, codebook_size=19, num_quantizers=3, diveq=True, rotation_trick=False)
    rows = [table(layer._codebook) for layer in peer.layers]
    q = jq.ResidualVQ(
        layers=stack(3, jq.VQ, size=19, width=6, to_codes=0.0, commitment=0.0), estimator=estimators.diveq
    )
    params = {f"layers_{i}": {"embedding": r} for i, r in enumerate(rows)}
    a, b = ours(q, {"params": params}, z, weight), theirs(peer, z, weight)
    same(a, b, "value_z")
    for i, by_table in enumerate(b["value_params"]):
        close(a["value_params"][f"layers_{i}"]["embedding"], by_table[0])


def test_dropout_of_layers(monkeypatch):
    z, weight = drawn(1, 2, 13, 6), drawn(2, 2, 13, 6)
    peer, q, variables = residual_of("learned", 6, 19, depth=4)
    peer.quantize_dropout, peer.quantize_dropout_cutoff_index = True, 1
    b = theirs(peer, z, weight, rand_quantize_dropout_fixed_seed=1)
    active = int((b["codes"][0, 0] >= 0).sum())
    assert 1 < active < 4
    monkeypatch.setattr(jq.ResidualVQ, "_active", lambda self, batch, rng: jnp.full(batch, active))
    a = ours(q.clone(dropout="batch", at_least=2), variables, z, weight, rng=jax.random.key(0))
    same(a, b, "loss_z")
    assert (b["codes"][..., active:] == -1).all()
    close(a["loss"], 2 * b["loss"].sum())
    for i, by_table in enumerate(b["loss_params"]):
        close(a["loss_params"][f"layers_{i}"]["embedding"], by_table[0])


def test_grouped_residual_vq():
    z, weight = drawn(1, 2, 13, 10), drawn(2, 2, 13, 10)
    peer = vqp.GroupedResidualVQ(dim=10, codebook_size=19, num_quantizers=2, groups=2, rotation_trick=False)
    state = {}
    for g, group in enumerate(peer.rvqs):
        for i, layer in enumerate(group.layers):
            rows = drawn(10 * g + i, 19, 5)
            for moving in (layer._codebook.embed, layer._codebook.embed_avg):
                moving.data.copy_(torch.tensor(rows)[None])
            state.setdefault(f"groups_{g}", {})[f"layers_{i}"] = averages(rows)
    groups = tuple(
        jq.ResidualVQ(layers=stack(2, jq.EMAVQ, size=19, width=5, decay=0.8, commitment=1.0)) for _ in range(2)
    )
    a, b = ours(jq.GroupedVQ(groups=groups), {"codebook": state}, z, weight), theirs(peer, z, weight)
    b["codes"] = np.concatenate(list(b["codes"]), -1)  # theirs are stacked [groups, B, N, layers]
    same(a, b, "loss_z")
    close(a["loss"], b["loss"].sum())
    close(a["value_z"], weight)
    for g, group in enumerate(peer.rvqs):
        for i, layer in enumerate(group.layers):
            close(a["moved"][f"groups_{g}"][f"layers_{i}"]["embedding"], layer._codebook.embed[0])


# ---- bits ----


def entropies(logits):
    """H_s and H_c, in float64, of the softmax over all codes whose bits have these log-odds [N, d]."""
    bits = logits.shape[-1]
    signs = 2.0 * ((torch.arange(2**bits)[:, None] >> torch.arange(bits)) & 1) - 1
    log_p = torch.log_softmax(logits / 2 @ signs.double().T, -1)
    p = log_p.exp()
    mean = p.mean(0)
    return -(p * log_p).sum(-1).mean(), -(mean * mean.clamp(min=1e-300).log()).sum()


@pytest.mark.parametrize("spherical", [False, True], ids=["lfq", "bsq"])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_lfq_and_bsq(bits, spherical):
    """Flat enough that none of their probabilities is under 1e-5, where their logarithm is cut."""
    z, weight = drawn(1, 3, 17, bits), drawn(2, 3, 17, bits)
    inverse = 1.0 if spherical else 0.1
    peer = vqp.LFQ(dim=bits, spherical=spherical, commitment_loss_weight=0.25, diversity_gamma=0.9)
    if spherical:
        q = jq.BSQ(
            bits=bits, temperature=inverse, entropy=0.1 * inverse, codebook=0.9, group=0, commitment=0.25 / bits,
            gradient="identity",
        )  # fmt: skip
    else:
        q = jq.LFQ(bits=bits, temperature=1 / inverse, commitment=0.25, diversity=0.9)
    a, b = ours(q, {}, z, weight), theirs(peer, z, weight, inv_temperature=inverse)
    same(a, b, "value_z", "loss_z", "loss")


def test_lfq_leaves_padding_out():
    """Ours is the loss of the vectors that count; under a mask theirs forgets to average before H_c, so H_c is H_s."""
    z, mask = drawn(1, 3, 11, 6), np.arange(11) < np.array([11, 4, 7])[:, None]
    q, none = jq.LFQ(bits=6, temperature=10.0, commitment=0.25), np.zeros_like(z)
    a = ours(q, {}, z, none, mask=jnp.asarray(mask))
    kept = z[mask]
    alone = theirs(vqp.LFQ(dim=6, commitment_loss_weight=0.25), kept[None], kept[None], inv_temperature=0.1)
    close(a["loss"], alone["loss"])
    close(a["loss_z"][mask], alone["loss_z"][0])
    assert not a["loss_z"][~mask].any()
    peer = vqp.LFQ(dim=6).train()
    parts = peer(torch.tensor(z), inv_temperature=0.1, mask=torch.tensor(mask), return_loss_breakdown=True)[1]
    close(a["metrics"]["entropy_sample"], parts.per_sample_entropy)
    close(parts.batch_entropy, parts.per_sample_entropy)


def test_lfq_codebooks_are_words():
    z = drawn(1, 3, 17, 12)
    peer = vqp.LFQ(dim=12, codebook_size=2**4, num_codebooks=3)
    q = jq.LFQ(bits=12, temperature=10.0, group=4, word=4)
    a, b = ours(q, {}, z, np.zeros_like(z)), theirs(peer, z, np.zeros_like(z), inv_temperature=0.1)
    same(a, b)
    close(a["loss"], 3 * b["loss"])  # they average over codebooks
    close(a["loss_z"], 3 * b["loss_z"])


def test_entropy_is_exact_where_theirs_is_cut():
    z = np.float32(0.02) * drawn(1, 2, 30, 12)
    a = ours(jq.LFQ(bits=12, entropy=1.0), {}, z, np.zeros_like(z))
    exact = torch.tensor(z.astype(np.float64), requires_grad=True)
    sample, codebook = entropies(400 * exact.reshape(-1, 12))
    (sample - codebook).backward()
    close(a["metrics"]["entropy_sample"], sample.detach())
    close(a["metrics"]["entropy_codebook"], codebook.detach())
    close(a["loss_z"], exact.grad, 1e-4)  # of up to 5; slopes are 400 in float32
    parts = vqp.LFQ(dim=12).train()(torch.tensor(z), return_loss_breakdown=True)[1]
    assert 1e-4 < float((sample - parts.per_sample_entropy).detach()) < 1e-2
    assert abs(float((codebook - parts.batch_entropy).detach())) > 1e-4


# ---- levels ----


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (8, 8, 8, 6, 5), (7, 3), (4, 3, 16)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_fsq(levels, symmetric):
    z, weight = 2 * drawn(1, 4, 29, len(levels)), drawn(2, 4, 29, len(levels))
    peer = vqp.FSQ(levels=list(levels), preserve_symmetry=symmetric)
    q = jq.FSQ(levels=levels, symmetric=symmetric)
    a, b = ours(q, {}, z, weight), theirs(peer, z, weight)
    same(a, b, "value_z")
    close(q.decode(a["codes"]), peer.indices_to_codes(torch.tensor(b["codes"]))[..., :])


def test_fsq_of_two_levels():
    z, weight = drawn(1, 4, 29, 5), drawn(2, 4, 29, 5)
    a = ours(jq.FSQ(levels=(2,) * 5, symmetric=True), {}, z, weight)
    same(a, theirs(vqp.FSQ(levels=[2] * 5, preserve_symmetry=True), z, weight), "value_z")


def test_fsq_codebooks_are_groups():
    z, weight = drawn(1, 4, 29, 6), drawn(2, 4, 29, 6)
    a = ours(jq.GroupedVQ(groups=stack(2, jq.FSQ, levels=(8, 5, 5))), {}, z, weight)
    same(a, theirs(vqp.FSQ(levels=[8, 5, 5], num_codebooks=2), z, weight), "value_z")


@pytest.mark.parametrize("levels", [(5, 5, 3), (8, 4)])
def test_residual_fsq(levels):
    z, weight = drawn(1, 4, 29, len(levels)), drawn(2, 4, 29, len(levels))
    peer = vqp.ResidualFSQ(levels=list(levels), num_quantizers=4)
    q = jq.ResidualFSQ(levels=levels, depth=4)
    a, b = ours(q, {}, z, weight), theirs(peer, z, weight)
    same(a, b)
    limit = 1 + 1 / (np.asarray(levels, np.float32) - 1)
    slope = 1 - np.tanh(z / limit) ** 2
    close(a["value_z"], weight * slope)  # once; theirs: once for each layer whose input is within its range
    residual, layers = limit * np.tanh(z / limit), np.zeros_like(z)
    for i in range(4):
        scale = np.asarray(levels, np.float32) ** -i
        layers += np.abs(residual / scale) <= 1
        residual = (
            residual - q.apply({}, a["codes"][..., : i + 1], method="decode") + (limit * np.tanh(z / limit) - residual)
        )
    close(b["value_z"], weight * slope * layers)


def test_what_the_table_says_is_in_their_code():
    """Two lines of their code on which PARITY.md rests, and which one process cannot show."""
    reduced = inspect.getsource(inspect.getmodule(vqp.LFQ).maybe_distributed_mean)
    assert "dist_nn.all_reduce(t)\n" in reduced  # the result is dropped
    assert "frac_gradient" in inspect.getsource(their_residual.ResidualVQ.forward)
