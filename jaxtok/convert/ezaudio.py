"""EzAudio's released VAE: what stands under "state_dict" in its checkpoint.

What its training has beside the tokenizer, discriminators and buffers of losses, is left out by name, as its own loader
leaves it; every other key is accounted for.
"""

from typing import Any

import numpy as np

from jaxtok.convert import oobleck

PREFIX = "autoencoder."
_TRAINING = ("discriminator.", "autoencoder_ema.", "losses_gen.", "losses_disc.", "sdstft.", "lrstft.")


def params_from(state_dict: dict[str, np.ndarray], module: Any) -> dict[str, Any]:
    """Parameters of a ``WaveformTokenizer`` of Oobleck's encoder and decoder.

    Raises:
      ValueError: for a missing, unknown or misshapen key, by name.
    """
    kept = {name: value for name, value in state_dict.items() if not name.startswith(_TRAINING)}
    return oobleck.params_from(kept, module, oobleck.STABLE_AUDIO, PREFIX)
