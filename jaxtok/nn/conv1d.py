"""Convolutions over time, channels last: ``[B, T, C] -> [B, T', C']``, on whole signals and on streams.

Both are layers in the sense of :mod:`jaxtok.nn.stream`. Padding is laid around the signal before a convolution without
any: XLA's gradient of a kernel takes up to fifty times as long on a CPU where the convolution pads by itself.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxtok.nn.conv2d import uniform, uniform_bias
from jaxtok.nn.stream import Held, inside

MODES = ("zeros", "reflect")

# PyTorch's default for transposed convolutions: it counts what one input is spread to.
_uniform_out = nn.initializers.variance_scaling(1 / 3, "fan_out", "uniform")


def scaled(draw: nn.initializers.Initializer, gain: float) -> nn.initializers.Initializer:
    """What ``draw`` draws, times ``gain``."""
    return lambda key, shape, dtype=jnp.float32: gain * draw(key, shape, dtype)


def pad(
    x: jax.Array, left: int, right: int, mode: str = "zeros", lengths: jax.Array | None = None, rights: Any = None
) -> jax.Array:
    """Padding along time: ``[B, T, C] -> [B, left + T + right, C]``.

    "reflect" mirrors the signal at its ends, which are not repeated. A signal that is too short for it, T <= max(left,
    right), is first made long enough by zeros behind it; mirrored there, it loses as many positions at the end again
    (EnCodec's rule, arXiv 2210.13438).

    Args:
      x: signals.
      left: positions before.
      right: positions behind.
      mode: of ``MODES``.
      lengths: [B], a row's real positions; the row is padded from there on, T + right - length positions.
      rights: [B], with ``lengths``, the padding that each row needs behind; decides which rows are too short.
    """
    x = inside(x, lengths)
    around = ((0, 0), (left, right), (0, 0))
    if mode == "zeros":
        return jnp.pad(x, around)
    size, most = x.shape[1], max(left, right)
    if lengths is None:
        short = max(0, most + 1 - size) if most else 0
        x = jnp.pad(x, ((0, 0), (0, short), (0, 0)))
        return jnp.pad(x, around, mode="reflect")[:, : left + size + right]
    end = jnp.maximum(lengths, jnp.maximum(left, rights) + 1)[:, None] - 1  # [B, 1], where the mirror stands
    source = jnp.abs(jnp.arange(-left, size + right))[None]
    source = jnp.clip(jnp.where(source > end, 2 * end - source, source), 0, size + most - 1)
    x = jnp.pad(x, ((0, 0), (0, most), (0, 0)))
    return jnp.take_along_axis(x, source[..., None], axis=1)


def _correlate(x: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1) -> jax.Array:
    """Windows of x times the kernel [size, in, out], without padding; none is no error."""
    if x.shape[1] <= (len(kernel) - 1) * dilation:
        return jnp.zeros((len(x), 0, kernel.shape[-1]), x.dtype)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride,), "VALID", rhs_dilation=(dilation,), dimension_numbers=("NWC", "WIO", "NWC")
    )


class Conv1D(nn.Module):
    """A convolution over time with PyTorch's default initialisation.

    Attributes:
      features: channels out.
      kernel_size: positions of a window.
      stride: positions between windows.
      dilation: positions between a window's positions.
      padding: positions before and behind the signal.
      whole: pads behind so much more that the last window is whole and no position is lost.
      mode: of ``MODES``.
      use_bias: whether there is a ``bias [features]`` beside the ``kernel [kernel_size, C, features]``.
      gain: what kernels are multiplied by at the start.
    """

    features: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    padding: tuple[int, int] = (0, 0)
    whole: bool = False
    mode: str = "zeros"
    use_bias: bool = True
    gain: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if self.mode not in MODES:
            raise ValueError(f"Conv1D: expected mode of {MODES}, found {self.mode!r}")
        super().__post_init__()

    @property
    def span(self) -> int:
        """Positions from a window's first to its last."""
        return (self.kernel_size - 1) * self.dilation + 1

    def behind(self, length: Any) -> Any:
        """Padding behind a signal of ``length`` positions, a number or an array."""
        extra = (self.span - length - sum(self.padding)) % self.stride if self.whole else 0
        return self.padding[1] + extra

    def frames(self, length: Any) -> Any:
        """Windows of a signal of ``length`` positions, a number or an array."""
        return (length + self.padding[0] + self.behind(length) - self.span) // self.stride + 1

    @nn.compact
    def convolve(self, padded: jax.Array) -> jax.Array:
        """All windows of a padded signal."""
        inputs = padded.shape[-1]
        shape = (self.kernel_size, inputs, self.features)
        kernel = self.param("kernel", scaled(uniform, self.gain), shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", uniform_bias(inputs * self.kernel_size), (self.features,), self.param_dtype)
        padded, kernel, bias = promote_dtype(padded, kernel, bias, dtype=self.dtype)
        y = _correlate(padded, kernel, self.stride, self.dilation)
        return y if bias is None else y + bias

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, frames(T), features]; rows of fewer real positions give what they give alone."""
        rights = None if lengths is None else self.behind(lengths)
        return self.convolve(pad(x, self.padding[0], self.behind(x.shape[1]), self.mode, lengths, rights))

    def stream(self, x: jax.Array, state: Held | None = None, last: bool = False) -> tuple[jax.Array, Held]:
        """The windows that are whole by now, and what the next ones need.

        A reflected beginning needs ``padding[0] + 1`` positions: before, nothing comes out.

        Raises:
          ValueError: where the end would have to be reflected from positions that are gone.
        """
        left, right = self.padding
        reflect = self.mode == "reflect"
        if self.span < self.stride or (reflect and (right or (self.whole and self.span < 2 * self.stride - 1))):
            raise ValueError(
                "Conv1D: a stream expected windows of at least the stride and, with reflected padding, no padding "
                f"behind and windows of 2 stride - 1, found span {self.span}, stride {self.stride}, padding "
                f"{self.padding} {self.mode!r}"
            )
        started = state is not None and state.started
        if state is not None:
            x = jnp.concatenate([state.inputs.astype(x.dtype), x], axis=1)
        length = x.shape[1] - (left if started else 0)
        if not started and not last and reflect and length <= max(left, self.stride - 1):
            return self.convolve(x[:, :0]), Held(x, False)
        padded = pad(x, 0 if started else left, self.behind(length) if last else 0, self.mode)
        y = self.convolve(padded)
        return y, Held(padded[:, y.shape[1] * self.stride :], True)


class ConvTranspose1D(nn.Module):
    """A transposed convolution over time: each position spreads the kernel over ``stride`` new ones and the following.

    Computed as a convolution to ``stride`` times the channels, with PyTorch's default initialisation.

    Attributes:
      features: channels out.
      kernel_size: positions that an input is spread to.
      stride: positions out per position in.
      trim: positions taken off at the beginning and the end of the ``(T - 1) stride + kernel_size``.
      gain: what kernels are multiplied by at the start.
    """

    features: int
    kernel_size: int
    stride: int
    trim: tuple[int, int] = (0, 0)
    gain: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def _reach(self) -> int:
        """Earlier positions that a new one depends on."""
        return -(-self.kernel_size // self.stride) - 1

    def frames(self, length: Any) -> Any:
        """Positions out of ``length`` positions, a number or an array."""
        return (length - 1) * self.stride + self.kernel_size - sum(self.trim)

    @nn.compact
    def expand(self, padded: jax.Array) -> jax.Array:
        """[B, reach + T, C] -> [B, stride T, features]."""
        inputs, taps, size = padded.shape[-1], self._reach + 1, self.kernel_size
        shape = (size, inputs, self.features)
        kernel = self.param("kernel", scaled(_uniform_out, self.gain), shape, self.param_dtype)
        bias = self.param("bias", uniform_bias(self.features * size), (self.features,), self.param_dtype)
        padded, kernel, bias = promote_dtype(padded, kernel, bias, dtype=self.dtype)
        kernel = jnp.pad(kernel, ((0, taps * self.stride - size), (0, 0), (0, 0)))
        kernel = kernel.reshape(taps, self.stride, inputs, self.features)[::-1].transpose(0, 2, 1, 3)
        y = _correlate(padded, kernel.reshape(taps, inputs, self.stride * self.features))
        return y.reshape(len(y), y.shape[1] * self.stride, self.features) + bias

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, frames(T), features]; rows of fewer real positions give what they give alone."""
        y = self.expand(pad(x, self._reach, self._reach, lengths=lengths))
        return y[:, self.trim[0] : self.trim[0] + self.frames(x.shape[1])]

    def stream(self, x: jax.Array, state: jax.Array | None = None, last: bool = False) -> tuple[jax.Array, jax.Array]:
        """``stride`` positions for each of x, and the inputs [B, reach, C] that the next ones depend on.

        Raises:
          ValueError: where not just what the stride leaves over is taken off, at the end.
        """
        del last
        if self.trim != (0, self.kernel_size - self.stride):
            raise ValueError(
                f"ConvTranspose1D: a stream expected trim (0, {self.kernel_size - self.stride}), found {self.trim}"
            )
        x = pad(x, self._reach, 0) if state is None else jnp.concatenate([state.astype(x.dtype), x], axis=1)
        return self.expand(x), x[:, x.shape[1] - self._reach :]
