"""Gaussian data of a known deviation, whose exact denoiser, velocity and score are known on every path."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from jaxtok.diffusion import paths


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """x = a v/(a^2 v + s^2) x_t with v the variance; the exact flow scales a state by sqrt(a^2 v + s^2)."""

    path: Any = paths.Linear()
    variance: float = 0.25

    def estimate(self, x, t):
        a, s = self.path.coefficients(paths.expand(t, x.ndim))
        total = a**2 * self.variance + s**2
        return a * self.variance / total * x, s / total * x

    def velocity(self, x, t):
        data, noise = self.estimate(x, t)
        da, ds = self.path.derivatives(paths.expand(t, x.ndim))
        return da * data + ds * noise

    def score(self, x, t):
        return -self.estimate(x, t)[1] / self.path.coefficients(paths.expand(t, x.ndim))[1]


@pytest.fixture
def compute():
    """A function's results as numpy arrays, by one compiled program: cheaper than operation by operation."""
    return lambda function, *args: jax.tree.map(np.asarray, jax.jit(function)(*args))


@pytest.fixture
def make_keys():
    """(count, order) -> keys, from the same numbers each time; no program to compile."""

    def make(count, order=slice(None)):
        data = np.random.default_rng(0).integers(0, 2**32, (count, 2), dtype=np.uint32)
        return jax.random.wrap_key_data(data[order])

    return make


@pytest.fixture
def gaussian():
    return Gaussian


@pytest.fixture
def start(make_keys):
    """Unit noise of 20000 examples of one number, and their keys."""
    return np.random.default_rng(1).standard_normal((20000, 1), dtype=np.float32), make_keys(20000)
