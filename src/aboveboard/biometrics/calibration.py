"""What a comparison score means: similarity 0-100 is a statement about the false match rate (FMR) of one recogniser.

The scale has four anchors, linear in log10(FMR) between them (docs/how-good.md says why these). A `Calibration` maps the
scores of one model version to FMR through a named set of photographs, and carries where it comes from and where it ends.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.evidence import Evidence, Owners, Ratios, Support, posterior

ANCHORS: tuple[tuple[float, float], ...] = ((0.0, 0.5), (80.0, 2e-6), (99.0, 1e-8), (100.0, 1e-12))
_SIMILARITY = np.array([anchor[0] for anchor in ANCHORS])
_LOG_FMR = np.array([math.log10(anchor[1]) for anchor in ANCHORS])


def fmr_at(similarity: float) -> float:
    """The false match rate per comparison that a similarity of 0-100 stands for."""
    return float(10 ** np.interp(similarity, _SIMILARITY, _LOG_FMR))


def similarity_at(fmr: float) -> float:
    """The similarity (0-100) that stands for a false match rate; rates outside the anchors give 0 or 100."""
    return _similarity_of_log(math.log10(fmr)) if fmr > 0 else 100.0


def _similarity_of_log(log10_fmr: float) -> float:
    return float(np.interp(-log10_fmr, -_LOG_FMR, _SIMILARITY))


def expected_false(fmr: float, gallery_size: int) -> float:
    """E = N x FMR: how many false candidates a search of N faces brings on average."""
    return gallery_size * fmr


def fpir(fmr: float, gallery_size: int) -> float:
    """FPIR = 1 - (1 - FMR)^N (ISO/IEC 19795-1): the chance that a person who is not enrolled brings any candidate.

    Comparisons are taken as independent; kin and look-alikes in the gallery make the true rate higher.
    """
    return -math.expm1(gallery_size * math.log1p(-fmr)) if fmr < 1 else float(gallery_size > 0)


def fmr_for_fpir(fpir: float, gallery_size: int) -> float:
    """The FMR per comparison that gives an FPIR in a gallery of N: the inverse of `fpir`, 1 - (1 - FPIR)^(1/N)."""
    return -math.expm1(math.log1p(-fpir) / gallery_size) if fpir < 1 else 1.0


def similarity_for(expected: float, gallery_size: int) -> float:
    """The similarity at which a search of N faces brings `expected` false candidates on average (100 if the scale ends first)."""
    return similarity_at(expected / gallery_size) if gallery_size else 0.0


def alone(similarity: float, comparisons: int) -> float:
    """The similarity that one comparison must reach for the best of m to stand for `similarity`."""
    return similarity if comparisons <= 1 else similarity_at(fmr_for_fpir(fmr_at(similarity), comparisons))


Curve = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Score -> FMR -> similarity for one model version, with provenance. Build it with `from_json`.

    `scores` rise strictly while `log10_fmr` falls; `mated_scores` and `fnmr` are the miss curve of the same photographs;
    `measured_limit` is the smallest FMR with at least 30 errors: beyond it the curve is the tail fit. `ratios` are None in files
    made before there were any. `text` is the file, `sha256` its hash.
    """

    id: str
    model_version: str
    scores: Curve
    log10_fmr: Curve
    mated_scores: Curve
    mated_fnmr: Curve
    measured_limit: float
    ratios: Ratios | None
    text: str
    sha256: str
    provenance: dict[str, Any]

    @staticmethod
    def from_json(text: str) -> Calibration:
        """Read a calibration file; a curve that is not monotone or not of this form raises ValueError."""
        try:
            document = json.loads(text)
            curve, misses = document["curve"], document["misses"]
            calibration = Calibration(
                text=text,
                id=str(document["id"]),
                model_version=str(document["model_version"]),
                scores=np.array([float(point["score"]) for point in curve]),
                log10_fmr=np.array([math.log10(point["fmr"]) for point in curve]),
                mated_scores=np.array([float(point["score"]) for point in misses]),
                mated_fnmr=np.array([float(point["fnmr"]) for point in misses]),
                measured_limit=float(document["measured_limit"]),
                ratios=_ratios(document) if "ratios" in document else None,
                sha256=hashlib.sha256(text.encode()).hexdigest(),
                provenance={key: value for key, value in document.items() if key not in ("curve", "misses", "ratios")},
            )
            operator.index(document.get("non_mated", 0))
        except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"not a calibration file ({error!r}); make one with: aboveboard calibrate") from error
        falling, rising = np.all(np.diff(calibration.log10_fmr) < 0), np.all(np.diff(calibration.scores) > 0)
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", calibration.id):
            raise ValueError("not a calibration file: its id must be 1 to 64 letters, digits or the signs . _ -")
        if len(calibration.scores) < 2 or not falling or not rising or not len(calibration.mated_scores):
            raise ValueError("not a calibration file (its curve is not monotone); make one with: aboveboard calibrate")
        shares = [*calibration.mated_fnmr, calibration.measured_limit, 10 ** calibration.log10_fmr[0]]
        if not all(0 <= share <= 1 for share in shares) or not np.isfinite([*calibration.scores, *calibration.mated_scores]).all():
            raise ValueError(
                "not a calibration file (a rate is not within 0 to 1, or a score no number); make one with: aboveboard calibrate"
            )
        if calibration.ratios is not None and not calibration.ratios.is_sound:
            raise ValueError(
                "not a calibration file (its likelihood ratios do not rise, or not within their intervals); make one with: "
                "aboveboard calibrate"
            )
        return calibration

    def similarity(self, comparison_score: float) -> float:
        """The similarity 0-100 of a comparison score; scores beyond the curve's end are 100, below its start 0."""
        if comparison_score >= self.scores[-1]:
            return _similarity_of_log(self.log10_fmr[-1])
        return _similarity_of_log(float(np.interp(comparison_score, self.scores, self.log10_fmr)))

    def similarity_of_best(self, comparison_score: float, comparisons: int) -> float:
        """The similarity of the best of m comparisons with one person: the one that stands for FMR_person = 1 - (1 - FMR)^m.

        So a similarity promises the same for a person with many faces as for one with a single face (docs/how-good.md). Beyond the
        curve's end, which is notional, it is what one comparison's is.
        """
        one = self.similarity(comparison_score)
        return one if comparisons == 1 or comparison_score >= self.scores[-1] else similarity_at(fpir(fmr_at(one), comparisons))

    def alone(self, comparison_score: float, comparisons: int) -> float:
        """A score at or below the one that a single comparison must give to be worth as much as this score as the best of m."""
        return self.score_at(self.similarity_of_best(comparison_score, comparisons)) - 1e-9

    def score_at(self, similarity: float) -> float:
        """The comparison score at which a similarity is reached; the lowest score for 0."""
        if similarity <= 0:
            return -1.0
        log10_fmr = math.log10(fmr_at(similarity))
        return float(np.interp(-log10_fmr, -self.log10_fmr, self.scores))

    def fnmr(self, similarity: float) -> float:
        """The share of mated comparisons of the calibration set that fall below a similarity."""
        return float(np.interp(self.score_at(similarity), self.mated_scores, self.mated_fnmr))

    def extrapolated(self, similarity: float) -> bool:
        """Whether a similarity lies beyond the smallest FMR that was measured (with a grain for rounding)."""
        return fmr_at(similarity) < self.measured_limit * (1 - 1e-9)

    def evidence(
        self,
        scores: Sequence[float],
        beyond: float,
        gallery_size: int,
        prior: float | None,
        factor: float = 1.0,
        factor_interval: tuple[float, float] = (1.0, 1.0),
        owners: Owners | None = None,
    ) -> tuple[Evidence, ...]:
        """What each candidate's comparison score says, and, for the `prior` that the person is enrolled at all, its posterior.

        `beyond`: the similarity below which everybody else of the gallery lies. A gallery `factor` above 1 divides each ratio, its bound
        too: so much more often do two people score like that there; the ends of the ratio's interval by those of the factor's, so that
        it holds both. With `owners` the `gallery_size` counts people, as `posterior` has it. Raises ValueError without ratios.
        """
        if self.ratios is None:
            raise ValueError(f"calibration {self.id} has no likelihood ratios")
        whole, is_open = np.exp(self.ratios.at(scores)), self.ratios.is_open(scores).tolist()
        is_most = (whole >= self.ratios.most * (1 - 1e-9)).tolist()
        ratios = whole / max(1.0, factor)
        chances = [None] * len(ratios) if prior is None else posterior(prior, gallery_size, ratios, self.fnmr(beyond), owners).tolist()
        said = zip(ratios.tolist(), is_most, is_open, chances, strict=True)
        if self.ratios.support is None:
            return tuple(Evidence(*one) for one in said)
        low, high = np.exp(self.ratios.ends(scores))
        ends = (low / max(1.0, factor_interval[1]), high / max(1.0, factor_interval[0]), *self.ratios.pairs(scores))
        return tuple(Evidence(*one, *rests) for one, *rests in zip(said, *(part.tolist() for part in ends), strict=True))


def _ratios(document: dict[str, Any]) -> Ratios:
    """Its ratios; ValueError where one is beyond what its comparisons can tell (30 / m to n / 30, with a grain for rounding)."""
    points = document["ratios"]["points"]
    llr = np.array([math.log(10) * float(point["log10_lr"]) for point in points])
    least, most = -math.log(max(operator.index(document["mated"]) / 30, 1)), math.log(max(operator.index(document["non_mated"]) / 30, 1))
    if (llr < least - 1e-3).any() or (llr > most + 1e-3).any():
        raise ValueError("a likelihood ratio is beyond what so many comparisons can tell")
    support = None
    if points and "mated" in points[0]:
        low, high = (np.array([math.log(10) * float(point[end]) for point in points]) for end in ("log10_low", "log10_high"))
        support = Support(low, high, *(np.array([operator.index(point[kind]) for point in points]) for kind in ("mated", "non_mated")))
        if (support.mated > document["mated"]).any() or (support.non_mated > document["non_mated"]).any():
            raise ValueError("a likelihood ratio rests on more comparisons than there were")
    return Ratios(np.array([float(point["score"]) for point in points]), llr, support)
