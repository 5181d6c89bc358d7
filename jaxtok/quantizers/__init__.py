"""Bottlenecks: ``quantizer(z) -> Quantized(latents, codes, loss, metrics)``, ``encode``, ``decode``."""

from jaxtok.quantizers.bsq import BSQ as BSQ
from jaxtok.quantizers.quantized import Quantized as Quantized
