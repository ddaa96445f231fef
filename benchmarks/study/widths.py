"""Widths that give an architecture the multiply-accumulates of another."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from ctan.config import NetworkConfig

_STEP = 4  # channels, between widths of the deeper stages that are tried


def matched(config: NetworkConfig, wanted: int, macs: Callable[[NetworkConfig], int]) -> NetworkConfig:
    """Return the settings with the first width, and the largest, that come nearest to a number of operations.

    Of settings within 1% the one whose widths are most nearly in the old proportion is taken.

    Args:
        config: what is changed.
        wanted: multiply-accumulates of a case.
        macs: counts them.
    """
    base, top = config.base_width, config.max_width
    bases = range(max(1, round(base * 0.6)), round(base * 1.5) + 1)
    tried = {}
    for first, last in product(bases, range(_STEP * max(1, top // 2 // _STEP), round(top * 1.6) + 1, _STEP)):
        deepest = first * 2 ** (config.num_stages - 1)
        if last > deepest and last != top:
            continue  # no stage is as wide: the same network as with the deepest one's width
        own = config.model_copy(update={"base_width": first, "max_width": last})
        tried[first, last] = (abs(macs(own) / wanted - 1), abs(last / first - top / base) * base / top, own)
    nearest = min(error for error, _, _ in tried.values())
    fits = [(shape, own) for error, shape, own in tried.values() if error <= max(0.01, nearest)]
    return min(fits, key=lambda found: found[0])[1]
