"""Padding, convolutions, LSTM and snake: closed forms and streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.conv1d import Conv1D, ConvTranspose1D, pad
from jaxtok.nn.lstm import LSTM
from jaxtok.nn.snake import Snake, snake
from jaxtok.nn.stream import Part, Whole, lengths_of


def signal(*values):
    return jnp.asarray(values, jnp.float32)[None, :, None]


def test_reflection_mirrors_the_ends_and_short_signals_first_get_zeros():
    np.testing.assert_array_equal(pad(signal(1, 2, 3, 4), 2, 3, "reflect")[0, :, 0], [3, 2, 1, 2, 3, 4, 3, 2, 1])
    # 1 2 with 3 before: 1 2 0 0 is mirrored to 0 0 2 [1 2 0 0] and loses the two zeros behind.
    np.testing.assert_array_equal(pad(signal(1, 2), 3, 0, "reflect")[0, :, 0], [0, 0, 2, 1, 2])
    np.testing.assert_array_equal(pad(signal(1, 2), 1, 2)[0, :, 0], [0, 1, 2, 0, 0])


def test_rows_are_padded_from_their_own_ends():
    x = jnp.arange(1.0, 9.0).reshape(1, 8, 1)
    for length, right in ((8, 2), (6, 3), (2, 3), (1, 2)):
        found = pad(x, 3, 3, "reflect", jnp.asarray([length]), jnp.asarray([right]))
        expected = pad(x[:, :length], 3, right, "reflect")
        np.testing.assert_array_equal(found[:, : 3 + length + right], expected)


@pytest.mark.parametrize("layer", [functools.partial(Conv1D, 4, 3), functools.partial(ConvTranspose1D, 4, 3, 2)])
def test_gain_multiplies_the_first_kernels_alone(layer):
    x, key = jnp.ones((1, 5, 2)), jax.random.key(3)
    plain, more = (layer(gain=gain).init(key, x)["params"] for gain in (1.0, 2.5))
    np.testing.assert_array_equal(more["kernel"], 2.5 * plain["kernel"])
    np.testing.assert_array_equal(more["bias"], plain["bias"])


def test_convolution_is_a_sum_over_windows():
    x = jax.random.normal(jax.random.key(0), (2, 11, 3))
    layer = Conv1D(4, 3, stride=2, dilation=2, padding=(3, 0), whole=True)
    variables = layer.init(jax.random.key(1), x)
    kernel, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    padded = np.pad(x, ((0, 0), (3, 1), (0, 0)))  # 11 positions: windows of 5 end at 2, 4, ..., 12
    expected = [[padded[b, t : t + 5 : 2].reshape(-1) @ kernel.reshape(-1, 4) for t in range(0, 12, 2)] for b in (0, 1)]
    np.testing.assert_allclose(layer.apply(variables, x), np.asarray(expected) + bias, atol=1e-5)
    assert layer.frames(11) == 6 and layer.frames(jnp.asarray([1, 3, 10])).tolist() == [1, 2, 5]


@pytest.mark.parametrize("size, stride, trim", [(4, 2, (0, 2)), (6, 3, (2, 2)), (5, 2, (0, 0))])
def test_transposed_convolution_spreads_the_kernel(size, stride, trim):
    x = jax.random.normal(jax.random.key(0), (1, 5, 3))
    layer = ConvTranspose1D(2, size, stride, trim)
    params = layer.init(jax.random.key(1), x)["params"]
    total = np.zeros((4 * stride + size, 2))
    for t in range(5):
        total[t * stride : t * stride + size] += np.einsum("c,kcd->kd", x[0, t], params["kernel"])
    expected = total[trim[0] : len(total) - trim[1]] + np.asarray(params["bias"])
    np.testing.assert_allclose(layer.apply({"params": params}, x)[0], expected, atol=1e-5)
    assert layer.frames(5) == len(expected)


def test_initial_values_are_pytorchs():
    kernel = Conv1D(64, 5).init(jax.random.key(0), jnp.zeros((1, 5, 20)))["params"]["kernel"]
    assert 0.099 < float(jnp.abs(kernel).max()) <= 0.1  # 1/sqrt(5 * 20)
    params = ConvTranspose1D(20, 5, 5).init(jax.random.key(0), jnp.zeros((1, 5, 64)))["params"]
    assert 0.099 < float(jnp.abs(params["kernel"]).max()) <= 0.1  # PyTorch counts the outputs there
    assert float(jnp.abs(params["bias"]).max()) <= 0.1


def test_lstm_by_hand():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4))
    params = LSTM(1).init(jax.random.key(1), x)["params"]
    layer = jax.tree.map(np.asarray, params["layers_0"])
    output = cell = np.zeros((2, 4))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    for t in range(3):
        gates = x[:, t] @ layer["kernel"] + output @ layer["recurrent_kernel"] + layer["bias"]
        i, f, g, o = np.split(gates, 4, axis=-1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        output = sigmoid(o) * np.tanh(cell)
        np.testing.assert_allclose(LSTM(1).apply({"params": params}, x)[:, t], x[:, t] + output, atol=1e-6)


def test_snake_at_known_points():
    x = jnp.pi * jnp.asarray([0.5, 1.0, -0.25])
    np.testing.assert_allclose(snake(x, jnp.asarray(1.0), jnp.asarray(2.0)), x + jnp.asarray([0.5, 0, 0.25]), atol=1e-6)
    np.testing.assert_allclose(Snake().apply({"params": {"alpha": jnp.zeros(3), "beta": jnp.log(2) * jnp.ones(3)}}, x),
                               x + jnp.asarray([0.5, 0, 0.25]), atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("layer", [
    Conv1D(2, 6, stride=3, padding=(3, 0), whole=True, mode="reflect", name="layer"),
    Conv1D(2, 3, dilation=2, padding=(2, 2), name="layer"),
    ConvTranspose1D(2, 5, 2, (0, 3), name="layer"),
    LSTM(name="layer"),
])  # fmt: skip
def test_parts_of_any_size_give_the_whole(layer):
    x = jax.random.normal(jax.random.key(0), (1, 23, 2))
    variables = layer.init(jax.random.key(1), x)
    state, parts, begin = None, [], 0
    for size in (0, 1, 3, 1, 7, 0, 11):
        last = begin + size == 23
        part, state = layer.apply(variables, x[:, begin : begin + size], state, last, method="stream")
        parts, begin = [*parts, part], begin + size
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), layer.apply(variables, x), atol=1e-6)


def test_what_cannot_be_streamed_is_refused():
    x = jnp.zeros((1, 8, 2))
    with pytest.raises(ValueError, match=r"no padding behind .* found span 3, stride 1, padding \(1, 1\) 'reflect'"):
        Conv1D(2, 3, padding=(1, 1), mode="reflect").init(jax.random.key(0), x, method="stream")
    with pytest.raises(ValueError, match=r"expected trim \(0, 2\), found \(1, 1\)"):
        ConvTranspose1D(2, 4, 2, (1, 1)).init(jax.random.key(0), x, method="stream")
    with pytest.raises(ValueError, match="expected mode of .* found 'edge'"):
        Conv1D(2, 3, mode="edge")


def test_sums_wait_for_the_later_branch():
    first = Part(None, False)
    early, late = jnp.ones((1, 3, 1)), jnp.ones((1, 1, 1))
    np.testing.assert_array_equal(first.add("sum", early, late), [[[2.0]]])
    second = Part(first.state, True)
    np.testing.assert_array_equal(second.add("sum", jnp.full((1, 1, 1), 3.0), jnp.zeros((1, 3, 1)))[0, :, 0], [1, 1, 3])
    np.testing.assert_array_equal(Whole().add("sum", early, early), 2 * early)


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"mask: expected shape \(1, 8\) .* found \(1, 7\)"):
        lengths_of(jnp.ones((1, 7), bool), jnp.zeros((1, 8, 2)))
