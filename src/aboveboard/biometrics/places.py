"""Which boxes of one image, found at different times or by different detectors, are the same face."""

from __future__ import annotations

from collections.abc import Sequence

from aboveboard.biometrics.vocabulary import Box

SAME_PLACE = 0.5
"""Overlap from which on two boxes are one face's: detectors frame a face differently, but two faces of a picture share less."""


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0-1."""
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / (one.area + other.area - shared) if shared else 0.0


def paired(ones: Sequence[Box], others: Sequence[Box]) -> dict[int, int]:
    """Index in `ones` -> index in `others` of the same face: the best overlap first, each box once, none below `SAME_PLACE`."""
    near = ((overlap(one, other), i, j) for i, one in enumerate(ones) for j, other in enumerate(others))
    found: dict[int, int] = {}
    for _, i, j in sorted((pair for pair in near if pair[0] >= SAME_PLACE), key=lambda pair: (-pair[0], *pair[1:])):
        if i not in found and j not in found.values():
            found[i] = j
    return found
