"""Floating-point operations of a program, counted from its jaxpr.

The compiler's own count takes the body of a loop once; here a scan's body counts as often as it runs. Only matrix
products and convolutions count (2 per multiply-add), as is usual for model FLOPs utilisation. What rematerialisation
computes a second time is in the program and therefore counted.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax

# Dense bfloat16 peak of one device (as JAX counts devices), FLOP/s, from the vendors' data sheets.
PEAKS: Mapping[str, float] = {
    "TPU v3": 61.5e12,  # one core
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,  # one of two dies
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "Tesla T4": 65e12,
    "Tesla V100-SXM2-16GB": 125e12,
}


def peak(device: Any) -> float | None:
    """Peak FLOP/s of a device, None where it is not known (then no utilisation is reported)."""
    return PEAKS.get(device.device_kind)


def of_jaxpr(jaxpr: Any) -> float:
    """FLOPs of a jaxpr (open or closed), over all devices.

    A ``while`` without a known trip count has its body counted once; of a ``cond`` the dearest branch counts.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return float(sum(_of_equation(equation) for equation in jaxpr.eqns))


def of(fn: Any, *args: Any, **kwargs: Any) -> float:
    """FLOPs of ``fn(*args)``; arguments may be ``jax.ShapeDtypeStruct``; a jitted ``fn`` shares its trace."""
    traced = fn.trace(*args, **kwargs) if hasattr(fn, "trace") else jax.jit(fn).trace(*args, **kwargs)
    return of_jaxpr(traced.jaxpr)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contract, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contract)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "scan":
        return params["length"] * of_jaxpr(params["jaxpr"])
    if name == "while":
        return of_jaxpr(params["body_jaxpr"]) + of_jaxpr(params["cond_jaxpr"])
    if name == "cond":
        return max(of_jaxpr(branch) for branch in params["branches"])
    if name == "shard_map":  # its body is one device's share
        return params["mesh"].size * of_jaxpr(params["jaxpr"])
    if name == "pallas_call":
        estimate = params.get("cost_estimate")
        return float(estimate.flops) if estimate is not None else 0.0
    return sum(of_jaxpr(inner) for inner in _inner(params))


def _of_convolution(equation: Any) -> float:
    """2 * outputs * (kernel taps * input channels of a group), less the zeros that input dilation puts in."""
    numbers, kernel = equation.params["dimension_numbers"], equation.invars[1].aval.shape
    spec = numbers.rhs_spec  # (output channels, input channels of a group, spatial...)
    taps = math.prod(kernel[axis] for axis in spec[2:]) * kernel[spec[1]]
    dilated = math.prod(equation.params["lhs_dilation"] or (1,))
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * taps / dilated


def _inner(params: Mapping[str, Any]) -> list[Any]:
    """The jaxprs among an equation's parameters: of pjit, remat, custom_vjp and their like."""
    found = []
    for name, value in params.items():
        if name in ("fwd_jaxpr_thunk", "bwd", "jvp_jaxpr_fun"):
            continue
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns") or hasattr(getattr(item, "jaxpr", None), "eqns"):
                found.append(item)
    return found
