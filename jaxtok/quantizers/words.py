"""Signs to integer codes and back, for quantizers whose channels are bits (LFQ, BSQ)."""

import jax
import jax.numpy as jnp

from jaxtok.quantizers import codes as codes_lib


def check_bits(name: str, bits: int, word: int, group: int, order: str) -> None:
    """Refuses widths that do not divide.

    Raises:
      ValueError: naming the field.
    """
    word = word or bits
    if bits < 1 or bits % word or word > 31:
        raise ValueError(f"{name}: bits must be a multiple of word, and word at most 31, found {bits}, {word}")
    if group < 0 or bits % (group or bits):
        raise ValueError(f"{name}: group must divide bits, found {group} and {bits}")
    if (group or bits) > 24:
        raise ValueError(f"{name}: expected a group of at most 24 bits (the joint distribution), found {group or bits}")
    if order not in codes_lib.ORDERS:
        raise ValueError(f"{name}: order must be one of {codes_lib.ORDERS}, found {order!r}")


def to_codes(bits: jax.Array, word: int, order: str) -> jax.Array:
    """bool [..., d] to int32 [..., d / word]; a word of 0 is d."""
    return codes_lib.pack(bits.reshape(*bits.shape[:-1], -1, word or bits.shape[-1]), order)


def to_signs(codes: jax.Array, bits: int, word: int, order: str, name: str) -> jax.Array:
    """int32 [..., d / word] to float32 [..., d] of +1 and -1."""
    word = word or bits
    codes_lib.check(codes, 1 << word, bits // word, name)
    return jnp.where(codes_lib.unpack(codes, word, order).reshape(*codes.shape[:-1], bits), 1.0, -1.0)
