"""FLOPs from jaxprs: closed forms."""

import jax
import jax.numpy as jnp
import pytest

from jaxtok.train import flops


def of(fn, *shapes):
    return flops.of(fn, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))


def test_products_and_loops():
    product = 2 * 3 * 4 * 5
    assert of(jnp.dot, (3, 4), (4, 5)) == product
    assert of(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (7, 3, 4), (7, 4, 5)) == 7 * product
    assert of(lambda a, b: jax.lax.scan(lambda c, _: (c, a @ b), 0, None, length=6)[1], (3, 4), (4, 5)) == 6 * product
    assert (
        of(lambda a, b: jax.lax.fori_loop(0, 6, lambda i, c: c + a @ b, jnp.zeros((3, 5))), (3, 4), (4, 5))
        == 6 * product
    )
    assert of(lambda a, b: jax.lax.cond(True, lambda: a @ b, lambda: jnp.zeros((3, 5))), (3, 4), (4, 5)) == product
    assert of(jax.jit(lambda a, b: jax.jit(jnp.dot)(a, b) + 1), (3, 4), (4, 5)) == product


def test_gradients_and_rematerialisation():
    def loss(a, b):
        return jnp.sum(jnp.tanh(a @ b))

    product = 2 * 3 * 4 * 5
    assert of(jax.grad(loss, argnums=(0, 1)), (3, 4), (4, 5)) == 3 * product
    # tanh' needs tanh, which a checkpoint computes again.
    assert of(jax.grad(jax.checkpoint(loss), argnums=(0, 1)), (3, 4), (4, 5)) == 4 * product


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(groups):
    def conv(x, w, stride=1):
        layout = dict(dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups)
        return jax.lax.conv_general_dilated(x, w, (stride,), "SAME", **layout)

    dense = 2 * (2 * 16 * 6) * (3 * 4 // groups)
    assert of(conv, (2, 16, 4), (3, 4 // groups, 6)) == dense
    assert of(lambda x, w: conv(x, w, 2), (2, 16, 4), (3, 4 // groups, 6)) == dense / 2
    # A gradient towards one side costs what the convolution costs (which is counted too), although the one towards
    # the input is written with zeros between its rows.
    strided = lambda x, w: jnp.sum(conv(x, w, 2))  # noqa: E731
    assert of(jax.grad(strided), (2, 16, 4), (3, 4 // groups, 6)) == pytest.approx(dense, rel=0.1)
    assert of(jax.grad(strided, 1), (2, 16, 4), (3, 4 // groups, 6)) == pytest.approx(dense, rel=0.1)


def test_unknown_devices_have_no_peak():
    assert flops.peak(jax.devices()[0]) is None
    assert flops.PEAKS["TPU v5 lite"] == 197e12
