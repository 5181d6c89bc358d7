"""Samplers, grids, tables, guidance and weights against diffusers, with one denoiser and the same noise.

Every state of whole trajectories agrees to 1e-5 of its scale. What differs on purpose:

- Ours are functions of a grid of times; a scheduler is an object that holds one. Here the grids are compared first, and
  each side then runs on its own.
- ``times.indices(spacing="leading")`` has offset 1, Stable Diffusion's; schedulers default to ``steps_offset`` 0.
- ``DPMSolverMultistepScheduler`` and its kin make grids of one index more and drop the last:
  ``indices(steps + 1)[:-1]``. They interpolate levels by sigma and set the last one to 0: index -1 of ours.
- ``DDIMScheduler`` steps from k to k - 1000 // steps, whatever its timesteps are; with linspace spacing that is not the
  next timestep, so the chain jumps between levels. Ours goes from each time of the grid to the next. Its last step goes
  to data (``set_alpha_to_one``) by default, as ours does at -1; the other choice is index 0 at the end of our grid.
- Schedulers clip data estimates to [-1, 1] by default (DDPM, DDIM); ours never do. The clip is off here.
- Our tables are float64 until the last cast; theirs are float32 products. They are replaced by ours here, after a
  comparison at 1e-4.
- ``DDPMScheduler`` leaves the noise out at k = 0 alone; ours in the last step, whatever its k. With the posterior's
  variance, which is 0 there, that is the same; the other variances are compared on timesteps that end at 0.
- ``EDMEulerScheduler`` is ``euler`` in EDM's clock on ``edm_denoiser``; ``HeunDiscreteScheduler`` and
  ``EulerDiscreteScheduler`` keep states x/a, so that they too run on the path ``Sigma``.
- ``EulerAncestralDiscreteScheduler`` is ``ddim`` with eta 1 on ``Sigma``; ``DDPMScheduler`` is ``ancestral``.
- ``HeunDiscreteScheduler`` without churn only; ``churned_heun`` has no counterpart (a closed form holds it instead).
- Flow matching: a step count gives diffusers a grid that is shifted twice (``flow_match_grid``); callers that pass even
  sigmas have it shifted once (``shift(uniform_grid(steps), q)``).
- CFG-Zero*: diffusers counts its zero steps by number, ``zero_start`` by the grid's times.
- Adaptive projected guidance: diffusers' defaults keep the parallel part whole (eta 1) and do not cut; ours drop it and
  cut at 15. No momentum here.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import consistency, guidance, objectives, paths, predictions, samplers, stochastic, times

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
diffusers = pytest.importorskip("diffusers", reason="needs the extra 'parity'")

torch.set_num_threads(1)

START = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLES = {"linear": (paths.linear_betas(), {}), "sd": (paths.sqrt_linear_betas(), SD),
          "cosine": (paths.cosine_betas(), {"beta_schedule": "squaredcos_cap_v2"})}  # fmt: skip


def noise_of(number, shape):
    """The same on both sides, by the step's number."""
    return np.random.default_rng(100 + int(number)).standard_normal(shape).astype(np.float32)


def bumpy(x, level, xp):
    """A smooth prediction that is no linear map of the state."""
    return 0.4 * x / (0.3 + level) + 0.3 * xp.sin(2.0 * x + 3.0 * level)


@pytest.fixture
def shared_noise(monkeypatch):
    """Both sides draw :func:`noise_of`."""

    def fresh(keys, number, x):
        del keys
        return jnp.asarray(noise_of(number, x.shape))

    for module in (samplers, stochastic):
        monkeypatch.setattr(module, "fresh", fresh)


def feed(monkeypatch, module):
    """A scheduler's draws, one per step, from :func:`noise_of`."""
    counter = itertools.count()
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **_: torch.tensor(noise_of(next(counter), tuple(shape))))


def ours(sampler, *args, **options):
    """The states after each step, by Python: every operation on its own."""
    states = []

    def on_step(number, x, data):
        del number, data
        states.append(np.asarray(x))
        return x

    with jax.disable_jit():
        sampler(*args, on_step=on_step, **options)
    return states


def theirs(scheduler, model, x, **options):
    """The states after each step of a scheduler; ``options`` are functions of the step's number."""
    states, x = [], torch.tensor(x)
    for number, t in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, t)  # their states are of the form that the model here takes
        made = {name: make(number) for name, make in options.items()}
        x = scheduler.step(model(x, t, scheduler), t, x, return_dict=False, **made)[0]
        states.append(x.numpy())
    return states


def agree(found, expected, tolerance=1e-5):
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected)):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(), err_msg=f"after step {number}")


def scheduler_of(name, table="sd", **options):
    """A scheduler on our table; its own is compared with ours first."""
    betas, settings = TABLES[table]
    made = getattr(diffusers, name)(**settings, **options)
    level = torch.tensor(paths.Discrete(betas).alpha_bar)
    torch.testing.assert_close(made.alphas_cumprod.double(), level, rtol=1e-4, atol=1e-9)
    made.alphas_cumprod = level
    return made, paths.Discrete(betas)


def bumpy_noise(x, k):
    return bumpy(x, jnp.asarray(k) / 1000.0, jnp)


def bumpy_model(x, k, scheduler):
    del scheduler
    return bumpy(x, float(k) / 1000.0, torch)


# ---- grids ----


@pytest.mark.parametrize("steps", [4, 28])
def test_grids(steps):
    for spacing in ("leading", "trailing", "linspace"):
        scheduler, _ = scheduler_of("DDIMScheduler", timestep_spacing=spacing, steps_offset=int(spacing == "leading"))
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == times.indices(steps, spacing=spacing).tolist()
        scheduler, _ = scheduler_of("DPMSolverMultistepScheduler", timestep_spacing=spacing,
                                    steps_offset=int(spacing == "leading"))  # fmt: skip
        scheduler.set_timesteps(steps)
        one_more = steps + (spacing != "trailing")
        assert scheduler.timesteps.tolist() == times.indices(one_more, spacing=spacing)[:steps].tolist()
    for amount in (1.0, 3.0):
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=amount)
        scheduler.set_timesteps(steps)
        np.testing.assert_allclose(times.flow_match_grid(steps, amount), scheduler.sigmas, atol=1e-6)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
        np.testing.assert_allclose(times.shift(times.uniform_grid(steps), amount), scheduler.sigmas, atol=1e-6)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.1, use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=1.15)
    grid = times.shift(times.uniform_grid(steps), times.shift_of_tokens(4096))
    np.testing.assert_allclose(times.stretch(grid, 0.1), scheduler.sigmas, atol=1e-6)
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(times.karras_sigmas(steps), scheduler.sigmas, rtol=1e-6)
    scheduler, _ = scheduler_of("LCMScheduler")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == times.lcm_indices(steps).tolist()


def test_a_table_that_ends_in_pure_noise():
    scheduler = diffusers.DDIMScheduler(**SD, rescale_betas_zero_snr=True)
    level = paths.Discrete(paths.zero_terminal(paths.sqrt_linear_betas())).alpha_bar
    np.testing.assert_allclose(level, scheduler.alphas_cumprod, atol=1e-5)


# ---- tables of indices ----


@pytest.mark.parametrize("kind", ["noise", "data", "v"])
def test_ddim(kind, shared_noise):
    named = {"noise": "epsilon", "data": "sample", "v": "v_prediction"}[kind]
    for spacing, eta in (("trailing", 0.0), ("leading", 0.0), ("trailing", 0.7)):
        scheduler, path = scheduler_of("DDIMScheduler", clip_sample=False, prediction_type=named,
                                       timestep_spacing=spacing, steps_offset=int(spacing == "leading"))  # fmt: skip
        scheduler.set_timesteps(8)
        noises = (lambda n: torch.tensor(noise_of(n, START.shape))) if eta else lambda n: None
        expected = theirs(scheduler, bumpy_model, START, eta=lambda n, eta=eta: eta, variance_noise=noises)
        grid = np.append(times.indices(8, spacing=spacing), -1)
        estimate = predictions.estimator(bumpy_noise, kind, path)
        agree(ours(samplers.ddim, estimate, START, grid, path, eta=eta, keys=()), expected)


def test_ddim_with_linspace_spacing_jumps_in_theirs():
    """Their level after a step is not that of the next timestep; on their levels we agree at the first step."""
    scheduler, path = scheduler_of("DDIMScheduler", clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(8)
    expected = theirs(scheduler, bumpy_model, START)
    estimate = predictions.estimator(bumpy_noise, "noise", path)
    indices = times.indices(8, spacing="linspace")
    assert indices[:3].tolist() == scheduler.timesteps[:3].tolist() == [999, 856, 714]
    agree(ours(samplers.ddim, estimate, START, np.array([999, 999 - 125]), path), expected[:1])


@pytest.mark.parametrize("table", ["linear", "sd"])
def test_ddpm(table, shared_noise, monkeypatch):
    """The posterior's variance, beta, and a learned one between."""
    import diffusers.schedulers.scheduling_ddpm as module

    for variance, custom in (("fixed_small", None), ("fixed_large", "respaced"), ("learned_range", "respaced")):
        scheduler, path = scheduler_of("DDPMScheduler", table, clip_sample=False, variance_type=variance,
                                       timestep_spacing="trailing")  # fmt: skip
        chosen = times.indices(8, spacing=custom or "trailing")
        scheduler.set_timesteps(**({"timesteps": chosen.tolist()} if custom else {"num_inference_steps": 8}))
        feed(monkeypatch, module)
        learned = variance == "learned_range"

        def model(x, k, scheduler, learned=learned):
            e = bumpy_model(x, k, scheduler)
            return torch.cat([e, torch.sin(x)], 1) if learned else e

        expected = theirs(scheduler, model, START)

        def estimate(x, k, path=path, variance=variance):
            both = predictions.data_and_noise("noise", path, bumpy_noise(x, k), x, k)
            between = {"fixed_small": (), "fixed_large": (jnp.ones(()),), "learned_range": ((jnp.sin(x) + 1) / 2,)}
            return (*both, *between[variance])

        agree(ours(samplers.ancestral, estimate, START, chosen, path, ()), expected)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("stochastic_form", [False, True])
def test_dpm_solver(order, stochastic_form, shared_noise):
    """8 steps (the last of order 1) and 16; from the whole table, and on the flow path by its sigmas."""
    kind = "sde-dpmsolver++" if stochastic_form else "dpmsolver++"
    options = {"variance_noise": lambda n: torch.tensor(noise_of(n, START.shape))} if stochastic_form else {}
    keys = () if stochastic_form else None
    for steps in (8, 16):
        scheduler, path = scheduler_of("DPMSolverMultistepScheduler", solver_order=order, algorithm_type=kind)
        scheduler.set_timesteps(steps)
        expected = theirs(scheduler, bumpy_model, START, **options)
        grid = np.append(times.indices(steps + 1, spacing="linspace")[:-1], -1)
        estimate = predictions.estimator(bumpy_noise, "noise", path)
        found = ours(samplers.dpm_solver, estimate, START, grid, path, order=order, keys=keys)
        agree(found, expected)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        solver_order=order, algorithm_type=kind, use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    scheduler.set_timesteps(8)
    sigmas = scheduler.sigmas.numpy()
    shown = dict(zip(scheduler.timesteps.tolist(), sigmas.tolist()))  # their timesteps are cut to integers
    expected = theirs(scheduler, lambda x, t, s: bumpy(x, shown[int(t)], torch), START, **options)
    path = paths.Linear()
    estimate = predictions.estimator(lambda x, t: bumpy(x, t, jnp), "flow", path)
    agree(ours(samplers.dpm_solver, estimate, START, sigmas, path, order=order, keys=keys), expected)


def test_latent_consistency(shared_noise, monkeypatch):
    import diffusers.schedulers.scheduling_lcm as module

    for steps in (1, 4):
        scheduler, path = scheduler_of("LCMScheduler")
        scheduler.set_timesteps(steps)
        feed(monkeypatch, module)
        expected = theirs(scheduler, bumpy_model, START)
        function = consistency.consistent(predictions.estimator(bumpy_noise, "noise", path))
        agree(ours(samplers.consistency, function, START, times.lcm_indices(steps), path, ()), expected)
    for k in (0, 19, 999):
        theirs_at = scheduler.get_scalings_for_boundary_condition_discrete(k)
        np.testing.assert_allclose(consistency.boundary_scales(jnp.asarray(k)), theirs_at, rtol=1e-6)
    sigma = torch.tensor([0.002, 0.5, 80.0])
    theirs_at = diffusers.CMStochasticIterativeScheduler().get_scalings_for_boundary_condition(sigma)
    found = consistency.edm_boundary_scales(jnp.asarray(sigma.numpy()))
    for a, b in zip(found, theirs_at):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


# ---- EDM's clock ----


def sigma_velocity(x, sigma):
    return bumpy(x, sigma / (1 + sigma), jnp)


def sigma_model(x, t, scheduler):
    """Their prediction of noise is dx/d sigma; the second call of a Heun step comes at its end."""
    sigma = scheduler.sigmas[scheduler.step_index]
    return bumpy(x, sigma / (1 + sigma), torch)


def sigma_estimate(x, sigma):
    v = sigma_velocity(x, sigma)
    return x - sigma * v, v


def test_euler_and_its_ancestral_form(shared_noise, monkeypatch):
    import diffusers.schedulers.scheduling_euler_ancestral_discrete as module

    scheduler, _ = scheduler_of("EulerDiscreteScheduler", use_karras_sigmas=True)
    scheduler.set_timesteps(8)
    sigmas, x = scheduler.sigmas.numpy(), 14 * START
    np.testing.assert_allclose(sigmas, times.karras_sigmas(8, low=sigmas[-2], high=sigmas[0]), rtol=1e-5)
    agree(ours(samplers.euler, sigma_velocity, x, sigmas), theirs(scheduler, sigma_model, x))

    scheduler, _ = scheduler_of("EulerAncestralDiscreteScheduler")
    scheduler.set_timesteps(8)
    feed(monkeypatch, module)
    expected = theirs(scheduler, sigma_model, x)
    path = paths.Sigma()
    agree(ours(samplers.ddim, sigma_estimate, x, scheduler.sigmas.numpy(), path, eta=1.0, keys=()), expected)


def test_heun():
    scheduler, _ = scheduler_of("HeunDiscreteScheduler")
    scheduler.set_timesteps(8)
    x, sigmas = 14 * START, np.unique(scheduler.sigmas.numpy())[::-1].copy()
    twice = theirs(scheduler, sigma_model, x)  # two states per step, and one of the last
    agree(ours(samplers.heun, sigma_velocity, x, sigmas, last_euler=True), twice[1:-1:2] + twice[-1:])


def test_edm(shared_noise):
    """Preconditioned: Euler, and DPM-Solver++ of second order, from 80."""
    x, grid = 80 * START, times.karras_sigmas(8)

    def network(x, level):
        return bumpy(x, level, jnp)

    denoise = predictions.edm_denoiser(network)

    def estimate(x, sigma):
        data = denoise(x, sigma)
        return data, (x - data) / sigma

    def model(x, t, scheduler):
        return bumpy(scheduler.precondition_inputs(x, scheduler.sigmas[scheduler.step_index]), t, torch)

    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(8)
    agree(ours(samplers.euler, lambda x, t: estimate(x, t)[1], x, grid), theirs(scheduler, model, x))
    scheduler = diffusers.EDMDPMSolverMultistepScheduler()
    scheduler.set_timesteps(8)
    np.testing.assert_allclose(scheduler.sigmas, grid, rtol=1e-6)
    agree(ours(samplers.dpm_solver, estimate, x, grid, paths.Sigma()), theirs(scheduler, model, x))


# ---- flow matching ----


@pytest.mark.parametrize("amount", [1.0, 3.0])
def test_flow_matching(amount):
    def model(x, t, scheduler):
        return bumpy(x, t / 1000.0, torch)

    def velocity(x, t):
        return bumpy(x, t, jnp)

    grid = times.flow_match_grid(8, amount)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=amount)
    scheduler.set_timesteps(8)
    agree(ours(samplers.euler, velocity, START, grid), theirs(scheduler, model, START))
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(shift=amount)
    scheduler.set_timesteps(8)
    twice = theirs(scheduler, model, START)
    found = ours(samplers.heun, velocity, START, grid, last_euler=True)
    agree(found, twice[1:-1:2] + twice[-1:])


# ---- weights and guidance ----


def test_min_snr():
    from diffusers.training_utils import compute_snr

    scheduler, path = scheduler_of("DDPMScheduler")
    k = np.arange(0, 1000, 37)
    snr = compute_snr(scheduler, torch.tensor(k)).numpy()
    log_snr = paths.log_snr(path, jnp.asarray(k))
    np.testing.assert_allclose(jnp.exp(log_snr), snr, rtol=2e-5)
    found = predictions.min_snr_weight("noise", log_snr)
    np.testing.assert_allclose(found, np.minimum(snr, 5) / snr, rtol=2e-5)
    found = predictions.min_snr_weight("v", log_snr)
    np.testing.assert_allclose(found, np.minimum(snr, 5) / (snr + 1), rtol=2e-5)


def test_weights_of_times():
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    t = np.linspace(0.1, 0.9, 5, dtype=np.float32)
    expected = compute_loss_weighting_for_sd3("cosmap", torch.tensor(t))
    np.testing.assert_allclose(objectives.cosmap_weight(jnp.asarray(t)), expected, rtol=1e-5)


def test_guidance_rules():
    from diffusers.guiders import adaptive_projected_guidance as projected
    from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    rng = np.random.default_rng(3)
    c, u = rng.standard_normal((2, 2, 3, 4)).astype(np.float32)
    tc, tu = torch.tensor(c), torch.tensor(u)
    plain = guidance.classifier_free(jnp.asarray(c), jnp.asarray(u), 4.0)
    expected = rescale_noise_cfg(tu + 4 * (tc - tu), tc, 0.75)
    np.testing.assert_allclose(guidance.rescale(plain, jnp.asarray(c), 0.75), expected, rtol=1e-5, atol=1e-6)
    share = cfg_zero_star_scale(tc.flatten(1), tu.flatten(1)).view(2, 1, 1)
    expected = share * tu + 4 * (tc - share * tu)
    np.testing.assert_allclose(guidance.zero_star(jnp.asarray(c), jnp.asarray(u), 4.0), expected, rtol=1e-5, atol=1e-6)
    for parallel, longest in ((1.0, 0.0), (0.0, 2.0), (0.3, 2.0)):
        rule = functools.partial(guidance.projected, parallel=parallel, longest=longest or np.inf)
        expected = projected.normalized_guidance(tc, tu, 4.0, eta=parallel, norm_threshold=longest)
        np.testing.assert_allclose(rule(jnp.asarray(c), jnp.asarray(u), 4.0), expected, rtol=1e-4, atol=1e-5)
