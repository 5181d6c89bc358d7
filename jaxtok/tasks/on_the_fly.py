"""Training a generator on tokens of images or speech, made in every step by a tokenizer that stays as it is."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.build import symbol
from jaxtok.data import tokens

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class OnTheFly:
    """Another task whose batches get tokens in place of what the tokenizer reads.

    Those are ``codes`` [B, h, w, Q] or ``latents`` [B, h, w, D] for ``image``, and ``codes`` [B, N, Q] with their
    ``codes_mask`` for ``audio``.

    Beside a set of stored tokens (``jaxtok encode --source``) this costs the encoder in every step, and takes any crop
    and no disk. The tokenizer's weights are the task's frozen ones: a run that goes on with others is refused.

    Attributes:
      model: the generator's network.
      task: makes the generator's task, ``task(model=model)``; in a config ``dict(ref=..., ...)``.
      tokenizer: the directory of a tokenizer of images or of speech (see ``jaxtok.load``).
      statistics: ``tokens:FOLDER``, a set of that tokenizer's latents, by whose mean and deviation latents are
        normalised; codes need none.
    """

    model: Any
    task: Callable[..., Any]
    tokenizer: str
    statistics: str = ""

    @functools.cached_property
    def generator(self) -> Any:
        """The generator's task."""
        return self.task(model=self.model)

    @functools.cached_property
    def _loaded(self) -> Any:
        with jax.ensure_compile_time_eval():  # the first use may be within a trace
            return symbol("jaxtok.model:load")(self.tokenizer)

    @functools.cached_property
    def _moments(self) -> tuple[Any, Any]:
        """By which latents are normalised.

        Raises:
          ValueError: where none are named, or another tokenizer made them.
        """
        if not self.statistics:
            raise ValueError("task: latents need 'statistics', a set of tokens of this tokenizer, found none")
        manifest = tokens.describe(self.statistics)
        with jax.ensure_compile_time_eval():
            tokens.check(manifest, symbol("jaxtok.fingerprint:of_run")(self.tokenizer))
        return tokens.statistics(manifest)

    @property
    def accumulable(self) -> bool:
        """The generator's task's."""
        return self.generator.accumulable

    @property
    def classes(self) -> int:
        """Labels that the network knows."""
        return self.generator.classes

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """The generator's parameters and state; the tokenizer's arrays are frozen."""
        params, state, frozen = self.generator.init(rng, self._encoded(self._loaded.variables, batch))
        return params, state, frozen | {"tokenizer": self._loaded.variables}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The generator's losses of the batch's tokens."""
        batch = self._encoded(frozen["tokenizer"], batch)
        return self.generator.losses(params, state, batch, rng, step, frozen=frozen, ema=ema)

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """The generator's evaluation of the batch's tokens."""
        batch = self._encoded(frozen["tokenizer"], batch)
        return self.generator.evaluate(params, state, batch, rng, frozen=frozen)

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """The generator's, for a batch's shapes."""
        return self.generator.programs(params, jax.eval_shape(self._encoded, self._loaded.variables, dict(batch)))

    def _encoded(self, variables: Any, batch: Batch) -> dict[str, jax.Array]:
        """The batch with tokens, computed as ``jaxtok encode`` computes them."""
        found = self._loaded.tokenize(variables, batch)
        if "latents" not in found:
            return found
        mean, deviation = self._moments
        return found | {"latents": (found["latents"] - jnp.asarray(mean)) / jnp.asarray(deviation)}
