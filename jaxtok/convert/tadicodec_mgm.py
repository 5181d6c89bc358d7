"""The released layout of TaDiCodec's masked generative model."""

from typing import Any

import numpy as np

from jaxtok.convert.keys import StrictReader
from jaxtok.convert.tadicodec import llama, mlp, norm_scales
from jaxtok.papers.tadicodec_mgm import MaskedSpeech


def params_from(state_dict: dict[str, np.ndarray], module: MaskedSpeech) -> dict[str, Any]:
    """Parameters of a :class:`MaskedSpeech` from the reference's names.

    Raises:
      ValueError: for a missing, unknown or misshapen key, by name.
    """
    keys, width = StrictReader(state_dict), module.width
    params = {
        "text_embed": {"embedding": keys.take("phone_emb.weight", (module.vocabulary, width))},
        "code_embed": {"embedding": keys.take("cond_emb.weight", (module.codes, width))},
        "mask_embed": keys.take("mask_emb.weight", (1, width))[0],
        "head": keys.linear("to_logit", width, module.codes),
        "text_mlp": mlp(keys, "diff_estimator.cond_mlp", width),
        "time_mlp": mlp(keys, "diff_estimator.diff_step_mlp", width),
        "norm_scales": norm_scales(keys, "diff_estimator", module),
        "transformer": llama(keys, "diff_estimator", module),
    }
    keys.finish()
    return params
