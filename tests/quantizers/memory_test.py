"""Memory of large codebooks, by what the compiler says of the train step; nothing runs."""

import jax
import jax.numpy as jnp
import optax

import jaxtok.quantizers as jq


def test_train_step_of_262144_codes_is_under_one_and_a_half_gigabytes():
    q, adam = jq.VQ(size=262144, width=64), optax.adam(1e-3)

    def step(params, moments, z):
        def loss(params, z):
            y = q.apply({"params": params}, z, train=True)
            return y.loss + (y.latents**2).sum()

        slope, by_z = jax.grad(loss, (0, 1))(params, z)
        update, moments = adam.update(slope, moments)
        return optax.apply_updates(params, update), moments, by_z

    z = jax.ShapeDtypeStruct((8192, 64), jnp.float32)
    params = jax.eval_shape(q.init, jax.random.key(0), z)["params"]
    moments = jax.eval_shape(adam.init, params)
    found = jax.jit(step, donate_argnums=(0, 1)).lower(params, moments, z).compile().memory_analysis()
    tables = 3 * 262144 * 64 * 4  # the codebook and Adam's two moments
    assert tables < found.argument_size_in_bytes < 1.05 * tables
    assert found.argument_size_in_bytes + found.temp_size_in_bytes < 1.5e9
