"""Meshes and rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxtok.train import sharding


def test_the_automatic_rule():
    mesh = sharding.make_mesh(dict(data=2, fsdp=4))
    assert sharding.automatic(mesh, (256, 512)) == P(None, "fsdp")
    assert sharding.automatic(mesh, (12, 512, 256)) == P(None, "fsdp")
    assert sharding.automatic(mesh, (512, 512)) == P(None, "fsdp")
    assert sharding.automatic(mesh, (513, 256)) == P(None, "fsdp")
    assert sharding.automatic(mesh, (129, 129)) == P()  # nothing divides
    assert sharding.automatic(mesh, (64, 64)) == P()  # small
    assert sharding.automatic(sharding.make_mesh(dict(data=8)), (1024, 1024)) == P()


def test_the_mesh_fills_up():
    assert dict(sharding.make_mesh(dict(data=-1, fsdp=2)).shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    assert sharding.make_mesh(dict(data=1)).size == 1
    with pytest.raises(ValueError, match="8 devices do not divide by data=-1, fsdp=3, tensor=1"):
        sharding.make_mesh(dict(data=-1, fsdp=3))
    with pytest.raises(ValueError, match="at most one -1"):
        sharding.make_mesh(dict(data=-1, fsdp=-1))


def test_batches_lie_on_the_mesh_and_words_do_not():
    mesh = sharding.make_mesh(dict(data=2, fsdp=4))
    batch = sharding.put_batch(mesh, {"x": np.arange(16.0).reshape(16, 1), "text": np.array(["a"] * 16)})
    assert set(batch) == {"x"} and batch["x"].sharding.shard_shape((16, 1)) == (2, 1)
    with pytest.raises(ValueError, match="'x' has 12 rows in all, expected a multiple of data \\* fsdp = 8"):
        sharding.put_batch(mesh, {"x": np.zeros((12, 1))})
    flags = sharding.flags(mesh, 3)
    assert flags.tolist() == [3] * 8 and flags.sharding.shard_shape((8,)) == (1,)
    assert jax.jit(jnp.max)(flags) == 3
