"""The masked generative model of TaDiCodec's tokens: a text, and perhaps the codes of a prompt, to the codes of speech.

Wang et al., arXiv 2508.16790. What is new here is the network alone: TaDiCodec's bidirectional Llama blocks, whose
norms are scaled by the share that is masked, over the text and the codes; training and sampling are in
:mod:`jaxtok.tasks.speak_masked`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn.llama import Llama
from jaxtok.nn.mlp import MLP
from jaxtok.papers.tadicodec import norm_scales, time_scales

_NORMAL = nn.initializers.normal(0.02)


class MaskedSpeech(nn.Module):
    """Codes of speech from those that are known and from a text before them, all at once.

    The text is embedded, goes through an MLP and stands before the codes; a masked code is one learned vector.
    Positions run on without a break over what exists: padding takes none, wherever it stands, so neither it nor batch
    neighbours change anything, and a prompt that is masked out leaves what follows as if it began there.

    Attributes:
      codes: of the codebook.
      vocabulary: ids of the text.
      width: D; ``depth``, ``heads``, ``hidden``, ``scan``, ``remat`` as in :class:`jaxtok.nn.llama.Llama`.
      norm_init: see :func:`jaxtok.papers.tadicodec.norm_scales`.
    """

    codes: int = 16384
    vocabulary: int = 32100
    width: int = 1024
    depth: int = 16
    heads: int = 16
    hidden: int = 4096
    norm_init: str = "stable"
    scan: bool = False
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def mask_id(self) -> int:
        """The id of a masked position, which lies outside the codebook."""
        return self.codes

    def setup(self):
        """Makes the parts."""
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        self.text_embed = nn.Embed(self.vocabulary, self.width, embedding_init=_NORMAL, **options)
        self.text_mlp = MLP(4 * self.width, self.width, kernel_init=_NORMAL, **options)
        self.code_embed = nn.Embed(self.codes, self.width, embedding_init=_NORMAL, **options)
        self.mask_embed = self.param("mask_embed", _NORMAL, (self.width,), self.param_dtype)
        self.time_mlp = MLP(4 * self.width, self.width, kernel_init=_NORMAL, param_dtype=self.param_dtype)
        self.norm_scales = norm_scales(self.depth, self.width, self.norm_init, self.param_dtype)
        self.transformer = Llama(
            self.depth, self.heads, self.hidden, scan=self.scan, remat=self.remat, attention=self.attention, **options
        )
        self.head = nn.Dense(self.codes, kernel_init=_NORMAL, **options)

    def __call__(
        self, ids: jax.Array, t: jax.Array, text_ids: jax.Array, *, mask: jax.Array, text_mask: jax.Array
    ) -> jax.Array:
        """Logits float32 [B, L, codes]; the arguments are those of :meth:`features`."""
        return self.logits(self.features(ids, t, text_ids, mask=mask, text_mask=text_mask))

    def features(
        self, ids: jax.Array, t: jax.Array, text_ids: jax.Array, *, mask: jax.Array, text_mask: jax.Array
    ) -> jax.Array:
        """What the last layer makes of the codes' positions, [B, L, D].

        Args:
          ids: int [B, L], codes or ``mask_id``.
          t: [B], 1 where all is masked.
          text_ids: int [B, N].
          mask: bool [B, L], positions that exist.
          text_mask: bool [B, N], ids that exist; nowhere True for no text.
        """
        hidden = (ids == self.mask_id)[..., None]
        x = self.code_embed(jnp.minimum(ids, self.codes - 1))
        x = jnp.where(hidden, self.mask_embed.astype(x.dtype), x)
        x = jnp.concatenate([self.text_mlp(self.text_embed(text_ids)), x], axis=1)
        keys = jnp.concatenate([text_mask, mask], axis=1)
        positions = jnp.maximum(jnp.cumsum(keys, axis=1) - 1, 0)
        scales = time_scales(self.time_mlp, self.norm_scales, t)
        x = self.transformer(x, positions=positions, mask=attention_lib.key_mask(keys), scales=scales)
        return x[:, text_ids.shape[1] :]

    def logits(self, features: jax.Array) -> jax.Array:
        """Logits float32 [B, L, codes] of :meth:`features`."""
        return self.head(features).astype(jnp.float32)
