"""What is trained: a task gives the loop its parameters, its losses and its evaluation.

A task is a frozen dataclass with

- ``init(rng, batch) -> (params, state, frozen)``: nested dicts of arrays; ``frozen`` weights are not checkpointed;
- ``losses(params, state, batch, rng, step, *, frozen, ema) -> ({player: (scalar, metrics)}, state)``: pure; scalars are
  means over the global batch; every random draw comes from a per-example key;
- ``evaluate(params, state, batch, rng, *, frozen) -> {name: [B] array}``: numbers per example;
- ``programs(params, batch) -> {name: (function, arguments)}``: further steps worth compiling ahead of time.

``accumulable`` is False where a loss needs statistics of the whole batch, so that gradient accumulation is refused.
"""
