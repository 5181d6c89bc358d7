"""Deterministic samplers on the exact denoiser of Gaussian data of deviation 1/2, and what all samplers share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import paths, predictions, samplers, stochastic, times

LINEAR, SIGMA, COSINE = paths.Linear(), paths.Sigma(), paths.Cosine()


def _ends(run, grids, start):
    """The ends of grids of several lengths from one number, in one program: the shorter ones are padded by repeats."""
    most = max(len(grid) for grid in grids)
    padded = np.stack([np.pad(grid, (0, most - len(grid)), mode="edge") for grid in grids])
    return np.asarray(jax.jit(jax.vmap(lambda grid: run(jnp.full((1, 1), start), grid)[0, 0]))(padded))


def _orders(errors):
    errors = np.abs(errors)
    return np.log2(errors[:-1] / errors[1:])


# ---- order of convergence ----


def test_solvers_of_the_flow_converge_at_their_orders(gaussian):
    """From 1.7 at noise to 0.85 on the linear path; the tabled errors of 10, 20, 40, 80 steps."""
    velocity, grids = gaussian().velocity, [np.linspace(1, 0, n + 1, dtype=np.float32) for n in (10, 20, 40, 80)]

    def error(sampler, grids=grids, **options):
        return _ends(lambda x, grid: sampler(velocity, x, grid, **options), grids, 1.7) - 0.85

    euler = error(samplers.euler)
    np.testing.assert_allclose(euler, [-0.11767, -0.06078, -0.03092, -0.01560], atol=1e-5)
    heun = error(samplers.heun)
    np.testing.assert_allclose(heun, [0.002924, 0.000864, 0.000233, 0.0000602], atol=2e-6)
    middle, two_step = error(samplers.euler, middle=True), error(samplers.adams_bashforth)
    for found, order in ((euler, 1), (middle, 1), (heun, 2), (two_step, 2)):
        np.testing.assert_allclose(_orders(found)[-1], order, atol=0.3)


def test_the_classical_method_is_of_fourth_order():
    """dx/dt = 3 x from 1 at t = 1 to exp(-3); the Gaussian's field leaves it no error to measure in float32."""
    grids = [np.linspace(1, 0, n + 1, dtype=np.float32) for n in (4, 8, 16)]
    found = _ends(lambda x, grid: samplers.runge_kutta(lambda x, t: 3 * x, x, grid), grids, 1.0) - np.exp(-3)
    np.testing.assert_allclose(_orders(found)[-1], 4, atol=0.3)


def test_solvers_of_the_estimates_converge_at_their_orders(gaussian):
    """The cosine path in even steps of log(a/s) from -3 to 4, from 1 to 0.500716; the tabled errors."""
    estimate = gaussian(COSINE).estimate
    grids = [2 / np.pi * np.arctan(np.exp(-np.linspace(-3, 4, n + 1))) for n in (10, 20, 40, 80)]
    a, s = np.cos(np.pi / 2 * grids[0][[0, -1]]), np.sin(np.pi / 2 * grids[0][[0, -1]])
    exact = np.sqrt((a[1] ** 2 / 4 + s[1] ** 2) / (a[0] ** 2 / 4 + s[0] ** 2))
    np.testing.assert_allclose(exact, 0.500716, atol=1e-6)
    grids = [grid.astype(np.float32) for grid in grids]

    def error(sampler, **options):
        return _ends(lambda x, grid: sampler(estimate, x, grid, COSINE, **options), grids, 1.0) - exact

    first = error(samplers.ddim)
    np.testing.assert_allclose(first, [-0.08025, -0.04187, -0.02139, -0.01081], atol=1e-5)
    np.testing.assert_allclose(error(samplers.dpm_solver, order=1), first, atol=2e-6)
    second = error(samplers.dpm_solver, last_first=False)
    np.testing.assert_allclose(np.abs(second), [0.01143, 0.00360, 0.000937, 0.000236], atol=1e-5)
    np.testing.assert_allclose([_orders(first)[-1], _orders(second)[-1]], [1, 2], atol=0.1)
    # below 15 steps the last one is of order 1
    short, whole = error(samplers.dpm_solver)[:2]
    assert abs(short - second[0]) > 1e-3 and whole == second[1]


def test_edm_heun(gaussian):
    """From 80 with 9, 18, 36 steps; exact 0.49999."""
    velocity = gaussian(SIGMA).velocity
    grids = [times.karras_sigmas(n) for n in (9, 18, 36)]
    found = _ends(lambda x, grid: samplers.heun(velocity, x, grid, last_euler=True), grids, 80.0)
    np.testing.assert_allclose(found, [0.6391, 0.5276, 0.5061], atol=1e-4)
    calls = []

    def counting(x, sigma):
        jax.debug.callback(lambda s: calls.append(float(s)), sigma)
        return velocity(x, sigma)

    jax.jit(lambda x: samplers.heun(counting, x, grids[0], last_euler=True))(np.full((1, 1), 80.0)).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == 2 * 9 - 1 and min(calls) > 0


# ---- closed forms ----


def test_a_constant_velocity_is_followed_exactly(compute):
    x, e = np.float32([[0.3, -2.0]]), np.float32([[1.5, 0.2]])

    def ends(x, e):
        _, v = paths.interpolate(paths.Linear(floor=1e-5), x, e, np.float32([0.4]))
        return [samplers.euler(lambda x_t, t: v, e, times.uniform_grid(steps), middle=True) for steps in (1, 7)]

    for end in compute(ends, x, e):
        np.testing.assert_allclose(end, x + 1e-5 * e, atol=2e-6)


def test_ddim_on_the_linear_path_is_euler_and_dpm_begins_at_pure_noise(gaussian, compute):
    exact, grid = gaussian(), np.linspace(1, 0, 11, dtype=np.float32)

    def both(x):
        return samplers.euler(exact.velocity, x, grid), samplers.ddim(exact.estimate, x, grid, LINEAR)

    euler, ddim = compute(both, np.float32([[1.7]]))
    np.testing.assert_allclose(ddim, euler, atol=1e-5)
    grids = [np.linspace(1, 0, n + 1, dtype=np.float32) for n in (10, 40)]
    ends = _ends(lambda x, grid: samplers.dpm_solver(exact.estimate, x, grid, LINEAR), grids, 1.7)
    assert abs(ends[0] - 0.85) < 0.05 and abs(ends[1] - 0.85) < 0.01


def test_a_ddim_step_by_hand(compute, make_keys):
    path = paths.Discrete(paths.sqrt_linear_betas())
    estimate = predictions.estimator(lambda x, t: jnp.full_like(x, 0.5), "noise", path)

    def all_of(x, keys):
        still = samplers.ddim(estimate, x, np.array([500, 480]), path)
        return estimate(x, 500)[0], still, samplers.ddim(estimate, x, np.array([500, 480]), path, eta=1.0, keys=keys)

    data, still, noised = compute(all_of, np.ones((4000, 1), np.float32), make_keys(4000))
    np.testing.assert_allclose([data[0, 0], still[0, 0]], [1.093182, 1.019660], atol=1e-5)
    np.testing.assert_allclose(noised.std(), 0.294430, atol=0.01)


def test_the_middle_of_each_step_and_inputs_per_step(compute):
    grid = times.uniform_grid(4)
    values = np.float32([1.0, 10.0, 100.0, 1000.0])

    def velocity(x, t, extra):
        return (extra * t) * jnp.ones_like(x)

    def all_of(x):
        end = samplers.euler(velocity, x, grid, per_step=values, middle=True)
        return end, samplers.network_times(grid, middle=True), samplers.network_times(grid)

    end, middle, first = compute(all_of, np.zeros(1, np.float32))
    np.testing.assert_allclose(end, [-(0.875 + 6.25 + 37.5 + 125) / 4])
    np.testing.assert_allclose([middle, first], [[0.875, 0.625, 0.375, 0.125], [1.0, 0.75, 0.5, 0.25]])


# ---- what all samplers share ----

TABLE = paths.Discrete(tuple(np.linspace(0.02, 0.3, 20)))
KEYS = ()  # the cheap noise below has no use for them


def _data(x, t):
    return x / 4


def _cheap(keys, number, x):
    """Noise that knows its step and its place alone; compiles at once."""
    return jnp.sin(3.0 * number + jnp.arange(x.size).reshape(x.shape))


@pytest.fixture
def cheap_noise(monkeypatch):
    monkeypatch.setattr(samplers, "fresh", _cheap)
    monkeypatch.setattr(stochastic, "fresh", _cheap)


SAMPLERS = {
    "euler": (LINEAR, lambda g, x, t, **o: samplers.euler(g.velocity, x, t, **o)),
    "heun": (LINEAR, lambda g, x, t, **o: samplers.heun(g.velocity, x, t, **o)),
    "heun, last Euler": (LINEAR, lambda g, x, t, **o: samplers.heun(g.velocity, x, t, last_euler=True, **o)),
    "adams_bashforth": (LINEAR, lambda g, x, t, **o: samplers.adams_bashforth(g.velocity, x, t, **o)),
    "runge_kutta": (LINEAR, lambda g, x, t, **o: samplers.runge_kutta(g.velocity, x, t, **o)),
    "ddim": (COSINE, lambda g, x, t, **o: samplers.ddim(g.estimate, x, t, g.path, **o)),
    "ddim, eta": (COSINE, lambda g, x, t, **o: samplers.ddim(g.estimate, x, t, g.path, eta=0.7, keys=KEYS, **o)),
    "dpm_solver": (COSINE, lambda g, x, t, **o: samplers.dpm_solver(g.estimate, x, t, g.path, **o)),
    "dpm_solver, sde": (COSINE, lambda g, x, t, **o: samplers.dpm_solver(g.estimate, x, t, g.path, keys=KEYS, **o)),
    "euler_maruyama": (LINEAR, lambda g, x, t, **o: samplers.euler_maruyama(g.velocity, g.score, x, t, KEYS, **o)),
    "churned_heun": (SIGMA, lambda g, x, t, **o: samplers.churned_heun(g.velocity, x, t, KEYS, churn=1.0, **o)),
    "ancestral": (TABLE, lambda g, x, t, **o: samplers.ancestral(g.estimate, x, t, g.path, KEYS, **o)),
    "consistency": (TABLE, lambda g, x, t, **o: samplers.consistency(_data, x, t, g.path, KEYS, **o)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_program_serves_several_counts_of_steps(name, gaussian, cheap_noise):
    """A grid padded from a traced count gives what the grid gives, though the denoiser is not finite at its end."""
    path, sampler = SAMPLERS[name]
    exact = gaussian(path)
    table = path is TABLE
    make = (lambda n: times.indices(n, 20)) if table else times.uniform_grid
    last = 0 if table else 0.0
    if name not in ("heun", "runge_kutta") and not table:  # these two call the velocity at the end

        class Singular(type(exact)):
            def estimate(self, x, t):
                return tuple(jnp.where(t == last, jnp.nan, y) for y in super().estimate(x, t))

        exact = Singular(path)
    x = np.float32([[1.7, -0.4], [0.3, 2.0]])
    both = jax.jit(lambda n: (sampler(exact, x, times.padded_grid(n, 5, make)), sampler(exact, x, make(3))))
    padded, plain = both(3)
    np.testing.assert_allclose(padded, plain, rtol=0, atol=1e-6)
    assert np.isfinite(both(5)[0]).all()


@pytest.mark.parametrize("name", ["heun", "adams_bashforth", "dpm_solver"])
def test_tokens_have_times_of_their_own(name, gaussian, compute):
    """A known prefix stays bit by bit, and late tokens get what their own grid gives; the denoiser is elementwise."""
    path, sampler = SAMPLERS[name]
    exact, steps = gaussian(path), 4
    x = np.float32([[[0.3], [1.7], [-0.4]], [[2.0], [0.1], [1.0]]])
    plain = times.uniform_grid(steps)
    early, late = np.append(plain, [0.0, 0.0]), np.append([1.0, 1.0], plain)
    grid = np.stack([np.zeros(steps + 3), early, late], 1)[:, None].repeat(2, 1).astype(np.float32)  # [N + 1, B, T]
    found, alone = compute(lambda x: (sampler(exact, x, grid), sampler(exact, x[:, 1:], plain)), x)
    np.testing.assert_array_equal(found[:, 0], x[:, 0])
    np.testing.assert_allclose(found[:, 1:], alone, atol=1e-6)


def test_steps_at_rest_cost_no_call(gaussian):
    calls = []

    def velocity(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t, ordered=True)
        return gaussian().velocity(x, t)

    jax.jit(lambda n: samplers.euler(velocity, np.ones((1, 1)), times.padded_grid(n, 9)))(3).block_until_ready()
    jax.effects_barrier()
    np.testing.assert_allclose(calls, [1, 2 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_callback_sees_and_changes_every_step(name, gaussian, cheap_noise):
    """It gets the number and the data estimate; here it replaces the state by the number, so that the end is N - 1."""
    path, sampler = SAMPLERS[name]
    x = np.float32([[1.7, -0.4], [0.3, 2.0]])
    grid = np.array([15, 9, 4]) if path is TABLE else np.float32([1.0, 0.6, 0.1])
    seen = []

    def on_step(number, x, data):
        jax.debug.callback(lambda n, d: seen.append((int(n), np.asarray(d))), number, data, ordered=True)
        return jnp.zeros_like(x) + number

    end = jax.jit(lambda x: sampler(gaussian(path), x, grid, on_step=on_step))(x)
    jax.effects_barrier()
    count = {"ancestral": 3, "consistency": 3}.get(name, 2)
    assert [number for number, _ in seen] == list(range(count))
    np.testing.assert_array_equal(end, np.full((2, 2), count - 1.0))
    level = TABLE.alpha_bar[15]
    share = {"consistency": 0.25, "ancestral": np.sqrt(level) / 4 / (level / 4 + 1 - level)}.get(name, 0.0)
    if name != "churned_heun":  # which adds noise first; at pure noise the data estimate is 0
        np.testing.assert_allclose(seen[0][1], share * x, atol=1e-6)


def test_known_parts_are_held(gaussian, compute):
    """Clean (a prompt), or at their own noise level (inpainting); the rest is sampled as if it were alone."""
    exact, grid = gaussian(), times.uniform_grid(5)
    known, noise = np.float32([[[0.5], [0.0], [0.0]]]), np.float32([[[1.1], [1.7], [-0.3]]])
    mask, seen = np.array([[True, False, False]]), []

    def watched(hold):
        def on_step(number, x, data):
            x = hold(number, x, data)
            jax.debug.callback(lambda x: seen.append(float(x)), x[0, 0, 0], ordered=True)
            return x

        return on_step

    def all_of(noise):
        clean = samplers.clamp(known, mask)
        noised = samplers.clamp(known, mask, path=LINEAR, times=grid, noise=noise)
        ends = [samplers.euler(exact.velocity, noise, grid, on_step=watched(hold)) for hold in (clean, noised)]
        return samplers.euler(exact.velocity, noise, grid), *ends

    free, *ends = compute(all_of, noise)
    jax.effects_barrier()
    levels = np.stack([np.zeros(5), grid[1:]])
    np.testing.assert_allclose(np.reshape(seen, (2, 5)), (1 - levels) * 0.5 + levels * 1.1, atol=1e-6)
    for end in ends:
        np.testing.assert_allclose(end[:, 1:], free[:, 1:], atol=1e-6)
        np.testing.assert_allclose(end[0, 0, 0], 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.heun(None, jnp.ones(1), jnp.ones(1)), "at least 2 times"),
        (lambda: samplers.euler(None, jnp.ones((2, 1)), np.ones((3, 4))), "times must be"),
        (lambda: samplers.ddim(None, jnp.ones(1), jnp.ones(3), LINEAR, eta=1.0), "eta needs keys"),
        (lambda: samplers.dpm_solver(None, jnp.ones(1), jnp.ones(3), LINEAR, order=3), "order must be 1 or 2"),
        (lambda: samplers.clamp(jnp.ones(1), jnp.ones(1), path=LINEAR), "given together"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
