"""What goes into models of sound and comes out of them: audio and tokens."""

from typing import Any

import flax.struct
import jax

Audio = Any  # a numpy or jax array [L], or a list of them


@flax.struct.dataclass
class Tokens:
    """What ``encode`` gives: one row per utterance, padded to the longest.

    Attributes:
      codes: int32 [B, N, Q], or None for continuous tokens.
      latents: float32 [B, N, D], what is decoded: the codes' vectors, or what stood before they were rounded.
      mask: bool [B, N], True on tokens that exist.
      samples: int32 [B], the utterances' lengths at the model's rate; ``decode`` cuts its audio to them.
      text: the transcripts given to ``encode``, or None.
      single: True when one array was encoded rather than a list.
    """

    codes: Any
    latents: jax.Array
    mask: jax.Array
    samples: jax.Array
    text: tuple[str, ...] | None = flax.struct.field(pytree_node=False, default=None)
    single: bool = flax.struct.field(pytree_node=False, default=False)
