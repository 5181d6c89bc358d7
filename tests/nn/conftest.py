"""Parameters without the cost of compiling an initialisation."""

import jax
import numpy as np
import pytest

KEY = jax.random.key(0, impl="unsafe_rbg")


def _filled(module, *arguments, deviation=0.2, **keywords):
    shapes = jax.eval_shape(lambda: module.init(KEY, *arguments, **keywords))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: deviation * rng.standard_normal(leaf.shape, dtype=np.float32), shapes)


def _count(module, *arguments, **keywords):
    shapes = jax.eval_shape(lambda: module.init(KEY, *arguments, **keywords))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _first(module, leaf, *arguments, **keywords):
    def one():
        found = module.init(KEY, *arguments, **keywords)["params"]
        for name in leaf.split("/"):
            found = found[name]
        return found

    return jax.tree.map(np.asarray, jax.jit(one)())


@pytest.fixture
def filled():
    """``filled(module, *arguments, deviation=0.2)``: variables, all normally distributed."""
    return _filled


@pytest.fixture
def count():
    """``count(module, *arguments)``: how many parameters it has."""
    return _count


@pytest.fixture
def first():
    """``first(module, "head/last_linear", *arguments)``: a leaf or branch of the parameters as they are initialised."""
    return _first
