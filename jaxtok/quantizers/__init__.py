"""Bottlenecks: ``quantizer(z) -> Quantized(latents, codes, loss, metrics)``, ``encode``, ``decode``.

Each is a Linen module that needs jax and flax alone. Which one, at what cost, with what traps: README.md beside this
file. Learned codebooks are parameters; moving ones (EMAVQ) and frozen ones (SimVQ) lie in the collection "codebook".
"""

from jaxtok.quantizers.bridge import FVQ as FVQ
from jaxtok.quantizers.bridge import VQBridge as VQBridge
from jaxtok.quantizers.bsq import BSQ as BSQ
from jaxtok.quantizers.ema_vq import EMAVQ as EMAVQ
from jaxtok.quantizers.fsq import FSQ as FSQ
from jaxtok.quantizers.gaussian import Gaussian as Gaussian
from jaxtok.quantizers.ibq import IBQ as IBQ
from jaxtok.quantizers.l2_vq import FactorizedVQ as FactorizedVQ
from jaxtok.quantizers.l2_vq import Projected as Projected
from jaxtok.quantizers.lfq import LFQ as LFQ
from jaxtok.quantizers.quantized import Quantized as Quantized
from jaxtok.quantizers.residual import GroupedVQ as GroupedVQ
from jaxtok.quantizers.residual import ResidualVQ as ResidualVQ
from jaxtok.quantizers.residual_fsq import ResidualFSQ as ResidualFSQ
from jaxtok.quantizers.scalar import Continuous as Continuous
from jaxtok.quantizers.scalar import Perturbed as Perturbed
from jaxtok.quantizers.scalar import ScalarRound as ScalarRound
from jaxtok.quantizers.simvq import SimVQ as SimVQ
from jaxtok.quantizers.standardized import Standardized as Standardized
from jaxtok.quantizers.vq import VQ as VQ
from jaxtok.quantizers.vq import export as export
