"""The laboratory's drawings: DET on normal-deviate axes, CMC, score histograms, FPIR against N, groups with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from scipy import stats

from aboveboard.evaluation.rates import Found, Rate
from aboveboard.evaluation.report import Threshold, Unrenderable, text
from aboveboard.reporting.figures import COLOURS, FAINT, INK, MARKERS, blank, finish, style
from aboveboard.reporting.page import Figure
from aboveboard.reporting.tables import percent

Floats = NDArray[np.float64]
_DEVIATES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 0.99)


def det(
    name: str,
    caption: str,
    false: Floats,
    missed: Floats,
    names: tuple[str, str],
    trials: tuple[int, int],
    marks: Mapping[str, tuple[float, float]],
) -> Figure:
    """Misses (n,) against false matches (n,) over all thresholds, on normal-deviate axes; `marks` are (false, missed) of thresholds.

    `trials` are how many of each were counted: rates of fewer than 30 errors lie in grey.
    """
    with style():
        drawing, axes = blank(6.0, 5.4)
        ends = [0.3 / count for count in trials]
        x, y = (stats.norm.ppf(np.clip(values, end, 1 - end)) for values, end in zip((false, missed), ends, strict=True))
        limits = [(float(stats.norm.ppf(end)), float(stats.norm.ppf(0.6))) for end in ends]
        axes.axvspan(limits[0][0], stats.norm.ppf(min(30 / trials[0], 0.5)), color="#f3f3f3", lw=0)
        axes.axhspan(limits[1][0], stats.norm.ppf(min(30 / trials[1], 0.5)), color="#f3f3f3", lw=0)
        axes.plot(x, y, color=COLOURS[0], lw=1.8, drawstyle="steps-post")
        for axis, (low, high) in zip((axes.xaxis, axes.yaxis), limits, strict=True):
            ticks = [rate for rate in _DEVIATES if low <= stats.norm.ppf(rate) <= high]
            axis.set_ticks([float(stats.norm.ppf(rate)) for rate in ticks], [f"{100 * rate:g}" for rate in ticks])
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        points = axes.get_window_extent().height * 72 / drawing.dpi
        upwards, above = points / (limits[1][1] - limits[1][0]), -np.inf
        for (label, at), marker in zip(sorted(marks.items(), key=lambda one: one[1][1]), cycle(MARKERS)):
            place = (_deviate(at[0], ends[0]), _deviate(at[1], ends[1]))
            axes.plot(*place, marker=marker, color=COLOURS[1], ls="none", ms=7, clip_on=False, zorder=5)
            height = upwards * (place[1] - limits[1][0])
            above = max(height + 4, above + 12)  # names of marks close together stand above each other
            axes.annotate(label, place, xytext=(8, above - height), textcoords="offset points", color=INK, annotation_clip=False)
        axes.set_xlabel(f"{names[0]}, % (of {trials[0]:,})")
        axes.set_ylabel(f"{names[1]}, % (of {trials[1]:,})")
        return finish(drawing, name, caption, f"Curve of {names[1]} against {names[0]} over all thresholds, on normal-deviate axes.")


def _deviate(rate: float, end: float) -> float:
    return float(stats.norm.ppf(min(max(rate, end), 1 - end)))


def cmc(name: str, caption: str, ranks: Sequence[int], searches: int, length: int) -> Figure:
    """The share of `searches` whose mate is among the first r candidates, r = 1..length; `ranks` (n,) of the mates that were found."""
    with style():
        drawing, axes = blank(6.4, 3.8)
        depth = np.arange(1, length + 1)
        found = [Rate.of(int(np.count_nonzero(np.asarray(ranks) <= rank)), searches) for rank in depth]
        axes.fill_between(
            depth, [100 * rate.low for rate in found], [100 * rate.high for rate in found], color=COLOURS[0], alpha=0.18, lw=0
        )
        axes.plot(depth, [100 * rate.value for rate in found], color=COLOURS[0], marker="o", ms=3.5)
        least = min(rate.low for rate in found)
        axes.set_ylim(max(0.0, 100 * least - 2), 100.4)
        axes.set_xlim(1, max(2, length))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("rank")
        axes.set_ylabel(f"mate among the first, % (of {searches:,})")
        return finish(
            drawing, name, caption, f"At rank 1 {percent(found[0].value)} % of the mates, at rank {length} {percent(found[-1].value)} %."
        )


def histogram(
    name: str, caption: str, series: Mapping[str, Floats], thresholds: Sequence[Threshold], low: float = 0.0, high: float = 100.0
) -> Figure:
    """Distributions of similarities (n,) each, as shares of their own number, with the thresholds marked."""
    with style():
        drawing, axes = blank(7.2, 3.8)
        edges = np.linspace(low, high, 51).tolist()
        for (label, values), colour in zip(series.items(), COLOURS, strict=False):
            weights = np.full(values.size, 100 / max(values.size, 1))
            label = f"{label} (n = {values.size:,})"
            axes.hist(np.clip(values, low, high), edges, weights=weights, color=colour, alpha=0.35, label=label, histtype="stepfilled")
            axes.hist(np.clip(values, low, high), edges, weights=weights, color=colour, histtype="step", lw=1.2)
        axes.set_xlim(low, high)
        mark(axes, {threshold.name: threshold.similarity for threshold in thresholds if threshold.similarity is not None})
        axes.set_xlabel("similarity")
        axes.set_ylabel("share of the searches, %")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.0))
        known = ", ".join(threshold.name for threshold in thresholds if threshold.similarity is not None)
        return finish(drawing, name, caption, f"Histogram of {' and '.join(series)}; thresholds at {known or 'none'}.")


def mark(axes: Axes, thresholds: Mapping[str, float]) -> None:
    """A dashed line at each threshold, its name above it; of two that are close together the upper one's name stands higher."""
    low, high = axes.get_xlim()
    before, lines = -np.inf, 0
    for name, value in sorted(thresholds.items(), key=lambda one: one[1]):
        axes.axvline(value, color=INK, lw=1, ls=(0, (4, 2)))
        lines = lines + 1 if value - before < 0.035 * (high - low) else 0
        place = (value, 1.0)
        axes.annotate(name, place, xycoords=("data", "axes fraction"), xytext=(0, 3 + 12 * lines), textcoords="offset points", ha="center")
        before = value


def fpir_by_size(name: str, caption: str, sizes: Sequence[int], lines: Mapping[str, Sequence[Rate]], misses: Mapping[str, Found]) -> Figure:
    """FPIR over gallery sizes (n,) for each threshold, with its band; `misses` has the FNIR at each, which stands in the legend.

    Raises Unrenderable where one is missing.
    """
    if set(lines) - set(misses):
        raise Unrenderable(f"FPIR without FNIR at {', '.join(sorted(set(lines) - set(misses)))}")
    with style():
        drawing, axes = blank(7.6, 4.6)
        for number, ((label, rates), colour, marker) in enumerate(zip(lines.items(), cycle(COLOURS), cycle(MARKERS))):
            said = f"{label}: FNIR {text(misses[label])}"
            if not rates[0].errors:  # nothing was counted: what is known is an upper bound
                axes.plot(
                    sizes,
                    [100 * rate.high for rate in rates],
                    color=colour,
                    lw=1.4,
                    ls=(5 * number, (3, 7)),
                    label=f"{said}; FPIR at most the line",
                )
                continue
            axes.fill_between(
                sizes, [100 * rate.low for rate in rates], [100 * rate.high for rate in rates], color=colour, alpha=0.16, lw=0
            )
            axes.plot(sizes, [100 * rate.value for rate in rates], color=colour, lw=1.8, marker=marker, ms=4, label=said)
        axes.set_xscale("log")
        axes.set_yscale("log")
        # A whole decade at least, so that the axis has two numbers.
        axes.set_ylim(min(axes.get_ylim()[0], 9), 130)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("faces in the gallery, N")
        axes.set_ylabel("FPIR, %")
        axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), fontsize=9)
        return finish(drawing, name, caption, f"FPIR rises with the size of the gallery, for {', '.join(lines)}.")


def groups(name: str, caption: str, panels: Mapping[str, Mapping[str, Found]], label: str) -> Figure:
    """One rate for each group with its interval, a panel for each column of labels; hollow where there are fewer than 30 errors."""
    shown = [(panel, {group: rate for group, rate in rates.items() if isinstance(rate, Rate)}) for panel, rates in panels.items()]
    rows = sum(len(rates) + 1 for _, rates in shown)
    with style():
        drawing, axes = blank(7.6, 1.1 + 0.3 * rows)
        place, ticks, names = 0, [], []
        for panel, rates in shown:
            axes.annotate(
                panel, (0, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", weight="bold", va="center"
            )
            for group, rate in rates.items():
                place += 1
                fill = "white" if rate.is_insufficient else COLOURS[0]
                axes.plot([100 * rate.low, 100 * rate.high], [place, place], color=COLOURS[0], lw=1.8, solid_capstyle="butt")
                axes.plot(100 * rate.value, place, marker="o", color=COLOURS[0], markerfacecolor=fill, ms=6.5, clip_on=False, zorder=4)
                ticks.append(place)
                names.append(f"{group} ({rate.errors:,} of {rate.trials:,})")
            place += 1
            axes.axhline(place - 0.5, color=FAINT, lw=0.8)
        axes.set_yticks(ticks, names)
        axes.set_ylim(place - 0.4, -0.7)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(f"{label}, %; hollow: fewer than 30 errors")
        said = "; ".join(f"{group} {text(rate)}" for _, rates in shown for group, rate in rates.items())
        return finish(drawing, name, caption, f"{label} by group: {said}")
