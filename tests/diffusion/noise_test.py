import jax
import numpy as np

from jaxtok.diffusion import noise


def test_noise_depends_on_the_example_and_the_place_alone(compute):
    def draw(key):
        keys, one = (noise.per_example(key, np.array(index)) for index in ([5, 9], [9]))
        longer = noise.sequence(keys, 12, 4), noise.uniforms(keys, 12)
        return longer, (noise.sequence(one, 7, 4), noise.uniforms(one, 7))

    for both, alone in zip(*compute(draw, jax.random.key(3))):
        np.testing.assert_array_equal(both[1, :7], alone[0])
        assert not np.array_equal(both[0], both[1])
