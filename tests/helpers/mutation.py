"""Damage as it happens to files: bits and bytes that change, pieces that are lost, doubled, exchanged or zero."""

from __future__ import annotations

import random


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one change; sometimes the very same bytes, where a piece is replaced by its like."""
    size = len(content)
    at, length = rng.randrange(size), rng.choice((1, 2, 4, 16, 100, 1000))
    end = min(size, at + length)
    piece = content[at:end]
    kind = rng.randrange(9)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[end:]
    if kind == 2:
        return content[:end] + piece + content[end:]
    if kind == 3:
        return content[:at] + bytes(len(piece)) + content[end:]
    if kind == 4:
        return content[:at] + rng.randbytes(len(piece)) + content[end:]
    if kind == 5:
        other = rng.randrange(size)
        return content[:at] + content[other : other + len(piece)] + content[end:]
    if kind == 6:
        return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
    if kind == 7:
        digit = rng.choice(b"0123456789-.eE\"'{}[],:nNtf")
        return content[:at] + bytes([digit]) + content[at + 1 :]
    return content + rng.randbytes(length)
