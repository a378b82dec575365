"""Which faces are good enough: the bars of QualityFilter, and what a face lacks to pass one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aboveboard.biometrics.quality import UnifiedQuality
from aboveboard.biometrics.vocabulary import Face

Shortcoming = Literal["small", "unsure", "poor", "pose", "dark", "blurred", "crowded", "no_template", "ambiguous", "bystander"]
"""Why a face is not enrolled or not searched."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The least that a face must have: box side in px, detector confidence 0-100, degrees of yaw or pitch, brightness, sharpness."""

    size_px: float
    confidence: float
    turn_degrees: float
    brightness: float
    sharpness: float


_LOW = Bar(20, 65, 75, 8, 3)
BARS: Mapping[str, Bar] = {"AUTO": _LOW, "LOW": _LOW, "MEDIUM": Bar(36, 75, 55, 15, 10), "HIGH": Bar(60, 85, 40, 20, 25)}
"""The plain bars, set by hand: what a pack without a fitted quality has, and what names the component where a fitted one is too low."""


def lacks(face: Face, bar: str, fitted: UnifiedQuality | None) -> tuple[Shortcoming, ...]:
    """What a face lacks to pass a bar (NONE, AUTO, LOW, MEDIUM or HIGH), the gravest first; () where it passes.

    Where the pack has a fitted quality, that decides whether the face can be matched, and the plain bars name the component. Whether it
    is a face at all the detector knows, and neither. `face` must have been assessed (`analyse.Found.assessed`).
    """
    if bar == "NONE":
        return ()
    least, values = bounds(bar, None), measured(face)
    short = [lack for lack, value in least.items() if (values[lack] > value if lack == "pose" else values[lack] < value)][:1]
    if fitted is None or short == ["unsure"]:
        return tuple(short)
    assert face.unified is not None
    return () if face.unified >= fitted.bars[bar] else ("poor", *short)


def measured(face: Face) -> dict[Shortcoming, float]:
    """What each bound of a quality bar is held against, in its unit, the gravest first."""
    values: dict[Shortcoming, float] = {
        "unsure": face.confidence,
        "small": face.size_px,
        "pose": max(abs(face.pose.yaw), abs(face.pose.pitch)),
        "dark": face.quality.brightness,
        "blurred": face.quality.sharpness,
    }
    return values if face.unified is None else {**values, "poor": face.unified}


def bounds(bar: str, fitted: UnifiedQuality | None) -> dict[Shortcoming, float]:
    """The bounds of a quality bar: the most for the pose, the least for everything else."""
    least = BARS[bar]
    values: dict[Shortcoming, float] = {
        "unsure": least.confidence,
        "small": least.size_px,
        "pose": least.turn_degrees,
        "dark": least.brightness,
        "blurred": least.sharpness,
    }
    return values if fitted is None else {**values, "poor": fitted.bars[bar]}
