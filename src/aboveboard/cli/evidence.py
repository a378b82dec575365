"""What a candidate's score says, for people: its likelihood ratio with its bound, and a posterior for the prior that was stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.text import Text

from aboveboard.biometrics.calibration import Calibration
from aboveboard.biometrics.evidence import Evidence, Owners
from aboveboard.biometrics.vocabulary import Candidates
from aboveboard.cli.common import number, percent
from aboveboard.errors import BadRequest

Prior = Annotated[
    float | None,
    typer.Option(
        "--prior",
        min=0,
        max=1,
        metavar="P",
        help="How probable you hold it, before the search, that the person is there at all, 0-1: shows each candidate's posterior.",
    ),
]


@dataclass(frozen=True, slots=True)
class Told:
    """The evidence of an answer: of each candidate, in their order, under `prior`; empty where the calibration has no ratios.

    `factor`: what ratios and bounds were divided by, for the gallery's sake; `people`, `references`: how many of them were searched."""

    each: Sequence[Evidence]
    prior: float | None
    calibration: Calibration | None
    factor: float = 1.0
    people: int | None = None
    references: int = 0

    def of(self, rank: int) -> dict[str, Any]:
        """A candidate's part of a document."""
        one = self.each[rank - 1] if self.each else None
        return {
            "likelihood_ratio": one and one.ratio,
            "likelihood_ratio_low": one and one.low,
            "likelihood_ratio_high": one and one.high,
            "mated_pairs": one and one.mated,
            "non_mated_pairs": one and one.non_mated,
            "is_most": one and one.is_most,
            "is_open": one and one.is_open,
            "posterior": one and one.posterior,
        }

    def under(self, similarity: Text, rank: int) -> Text:
        """A similarity with what it says below it."""
        if self.each:
            one = self.each[rank - 1]
            similarity.append(f"\nLR {rounded(one.ratio)}{' (open)' if one.is_open else ''}", "not bold dim")
            if one.low is not None and one.high is not None:
                similarity.append(f"\n{rounded(one.low)} to {rounded(one.high)}", "not bold dim")
                similarity.append(f"\n{one.mated:,} : {one.non_mated:,} pairs", "not bold dim")
            if one.posterior is not None:
                similarity.append(f"\nP {percent(one.posterior)}", "not bold dim")
        return similarity

    def bounds(self) -> dict[str, Any] | None:
        """What the ratios rest on, as a document."""
        ratios = self.calibration.ratios if self.calibration else None
        if self.calibration is None or ratios is None:
            return None
        known: dict[str, Any] = {"non_mated": self.calibration.provenance.get("non_mated"), "divided_by": self.factor, "prior": self.prior}
        known |= {
            "prior_counts": "faces" if self.people is None else "people",
            "n": self.references if self.people is None else self.people,
        }
        return {"least": ratios.least / self.factor, "most": ratios.most / self.factor, **known}

    def notes(self) -> list[tuple[str, str]]:
        """The same in words, for below the table."""
        bounds = self.bounds()
        if not self.each or bounds is None:
            return []
        known = f"{bounds['non_mated']:,} comparisons of two people" if bounds["non_mated"] else "the calibration's comparisons"
        most = f"at most {rounded(bounds['most'])}, as far as {known} can tell"
        divided = f"; divided by the gallery factor {number(self.factor)}" if self.factor > 1 else ""
        notes = [("likelihood ratio", f"LR: how many times likelier such a score is of one person than of two; {most}{divided}")]
        if self.each[0].low is not None:
            drawn = "95 %, by drawing the calibration's people; other people than those may differ more"
            notes.append(("its interval", f"{drawn}. Pairs of one person : of two people that it rests on; of few pairs little is known"))
        else:
            notes.append(("its interval", "not known: this calibration was made before there were any; make it anew"))
        if any(one.is_open for one in self.each):
            notes.append(("open", "between scores of the calibration, with none near: the ratio may be ten times less, or more"))
        if self.prior is not None:
            stated = f"for your prior of {percent(self.prior)} that the person is in this gallery at all"
            if self.people is None:
                shared = "it counts faces: somebody with more of them here than others gets too much if his are added up"
            else:
                shared = (
                    f"it counts the {self.people:,} people here, not their {self.references:,} faces, and is the person's at each of his"
                )
            notes.append(("posterior", f"P: how probable it is that this is the person, {stated}; {shared}"))
        return notes


def check(prior: float | None, calibration: Calibration | None) -> None:
    """Raise BadRequest, before anything is compared, for a prior that nothing can be made of."""
    if prior is not None and (calibration is None or calibration.ratios is None):
        raise BadRequest("--prior: the calibration in use has no likelihood ratios; make a new one with: aboveboard calibrate")


def told(candidates: Candidates, calibration: Calibration | None, prior: float | None) -> Told:
    """The evidence of an answer."""
    if calibration is None or calibration.ratios is None or not candidates:
        return Told((), prior, calibration)
    scores, found = [candidate.comparison_score for candidate in candidates], candidates.basis.gallery_factor
    factor, interval = (max(1.0, found.value), (found.low, found.high)) if found else (1.0, (1.0, 1.0))
    size, owners, people = candidates.references, None, candidates.people
    if people is not None:
        size, owners = people, Owners([one.person for one in candidates], [one.faces for one in candidates])
    each = calibration.evidence(scores, candidates.beyond, size, prior, factor, interval, owners)
    return Told(each, prior, calibration, factor, people, candidates.references)


def rounded(ratio: float) -> str:
    """A ratio to two digits: more would say more than is known."""
    return number(float(f"{ratio:.2g}"))
