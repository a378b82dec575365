"""The rules of a policy pack, and the closed lists of words in them. Pure.

Every rule has a mode and a citation. `enforce`: what breaks the rule is refused. `reason`: it is allowed to who gives a reason, and
recorded. `record`: it is allowed and recorded. A rule without a mode is an error: nothing here is a recommendation.
"""

from __future__ import annotations

from collections.abc import Collection as Some
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from aboveboard.biometrics.calibration import fmr_for_fpir, similarity_at

ROLES = ("admin", "enroller", "investigator", "reviewer", "auditor")
Mode = Literal["enforce", "reason", "record"]
Origin = Literal["request", "policy", "default", "gallery", "none"]
"""Where a threshold comes from; `gallery`: from how many faces are compared with each other."""
Kind = Literal["written_request", "court_order", "warrant"]
KINDS: tuple[Kind, ...] = ("written_request", "court_order", "warrant")
"""Authority documents, the weakest first."""
Probe = Literal["photograph", "video_still", "sketch", "look_alike", "synthetic"]
PROBES: tuple[Probe, ...] = ("photograph", "video_still", "sketch", "look_alike", "synthetic")
Edit = Literal["crop", "rotation", "exposure", "mirror", "denoising", "upscaling", "pose_correction", "composite", "generated"]
EDITS: tuple[Edit, ...] = ("crop", "rotation", "exposure", "mirror", "denoising", "upscaling", "pose_correction", "composite", "generated")
ANY = "*"

PURPOSES: Mapping[str, str] = {
    "suspect": "identify a person suspected of an offence",
    "initial_identification": "identify, for the first time, who may have committed an offence, from facts directly linked to it",
    "fugitive": "find a person who is wanted",
    "cold_case": "search again for an old case",
    "victim": "identify the victim of a crime",
    "witness": "identify a witness",
    "trafficking_victim": "find a victim of trafficking",
    "missing_person": "find a missing person",
    "deceased": "identify a person who has died",
    "incapacitated": "identify a person who cannot say who he is",
    "imminent_threat": "avert an imminent threat to life",
    "detained": "identify a person who is lawfully detained",
    "identity_fraud": "find one person behind several identities",
    "test": "test the system in operation",
    "photo_library": "find people in one's own photographs",
    "access": "let people in who have agreed to it",
    "civil_immigration": "enforce civil immigration law",
    "surveillance": "follow people, in real time or persistently",
    "protected_activity": "identify people for what they say, believe or take part in",
}
"""What a look may be for: a closed list, so that records of two agencies can be compared."""
OFFENCES: Mapping[str, str] = {
    "homicide": "murder, manslaughter",
    "sexual_offence": "rape and other sexual offences",
    "robbery": "robbery, carjacking",
    "assault": "assault in the first degree and other crimes of violence",
    "kidnapping": "kidnapping, abduction",
    "arson": "arson",
    "home_invasion": "breaking into a dwelling where somebody is",
    "human_trafficking": "trafficking in human beings",
    "child_abuse": "abuse of a child",
    "child_pornography": "child pornography",
    "hate_crime": "crime out of hatred against a group",
    "weapons": "weapons offences",
    "animal_cruelty": "aggravated cruelty to animals",
    "drug_import": "bringing large amounts of fentanyl or the like into the state",
    "drug_dealing": "dealing in drugs",
    "drug_possession": "possession of drugs",
    "stalking": "stalking",
    "public_safety_threat": "a substantial and ongoing threat to public safety or national security",
    "terrorism": "terrorism",
    "out_of_state": "a fugitive's equivalent offence in another state",
    "burglary": "burglary",
    "theft": "theft, shoplifting",
    "fraud": "fraud",
    "vandalism": "damage to property",
    "public_order": "disorder, trespass, assembly",
    "traffic": "traffic offences",
}
"""Offences, attempts included."""


@dataclass(frozen=True, slots=True)
class PurposesRule:
    """What looks may be for. `required`: each search and comparison is made in a case, which has a purpose. `deny` beats `allow`."""

    mode: Mode
    required: bool
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    citation: str

    def allows(self, purpose: str) -> bool:
        return purpose in PURPOSES and purpose not in self.deny and has(self.allow, purpose)


@dataclass(frozen=True, slots=True)
class OffencesRule:
    """For which offences looks of these purposes may be made. Other purposes need no offence."""

    mode: Mode
    purposes: tuple[str, ...]
    allow: tuple[str, ...]
    citation: str

    def allows(self, purpose: str, offence: str) -> bool:
        return not has(self.purposes, purpose) or (offence in OFFENCES and has(self.allow, offence))


@dataclass(frozen=True, slots=True)
class DocumentRule:
    """Which authority document a case of these purposes and offences needs before a look: at least of `kind`, `requested` or `granted`.

    In an emergency looks may be made before it is requested, for so many hours from when the emergency began.
    """

    mode: Mode
    purposes: tuple[str, ...]
    offences: tuple[str, ...]
    kind: Kind
    state: Literal["requested", "granted"]
    emergency_hours: int
    citation: str

    def applies(self, purpose: str, offence: str) -> bool:
        return has(self.purposes, purpose) and has(self.offences, offence)

    @property
    def demand(self) -> tuple[int, int, int]:
        """How much it demands, to be compared with another's."""
        return KINDS.index(self.kind), int(self.state == "granted"), -self.emergency_hours


@dataclass(frozen=True, slots=True)
class ProbesRule:
    """What may be searched for: kinds of picture, and edits made to it."""

    mode: Mode
    types: tuple[Probe, ...]
    edits: tuple[Edit, ...]
    citation: str


@dataclass(frozen=True, slots=True)
class Floor:
    """A floor of its own for some purposes and offences: a similarity, or the one that keeps the FPIR at this gallery's N; the higher."""

    purposes: tuple[str, ...]
    offences: tuple[str, ...]
    similarity: float
    fpir: float
    citation: str

    def applies(self, purpose: str, offence: str) -> bool:
        return has(self.purposes, purpose) and has(self.offences, offence)

    def at(self, comparisons: int) -> float:
        """The lowest similarity that may be asked for, where so many comparisons are made."""
        if not self.fpir:
            return self.similarity
        return max(self.similarity, similarity_at(fmr_for_fpir(self.fpir, max(comparisons, 1))))


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """The lowest similarity that may be asked for, what an absent one means, and whether 0 (no threshold) is allowed.

    `absent` 0 means none at all. `when_absent` refuse: each search must name one. `fpir` 0: the floor is `floor` at every N. The first of
    `floors` that applies stands before the pack's own.
    """

    mode: Mode
    floor: float
    fpir: float
    when_absent: Literal["apply", "refuse"]
    absent: float
    absent_origin: Literal["policy", "default"]
    allow_none: bool
    citation: str
    floors: tuple[Floor, ...] = ()

    def floor_for(self, purpose: str, offence: str) -> Floor:
        own = Floor((ANY,), (ANY,), self.floor, self.fpir, self.citation)
        return next((one for one in self.floors if one.applies(purpose, offence)), own)


@dataclass(frozen=True, slots=True)
class CandidatesRule:
    """The longest candidate list."""

    mode: Mode
    maximum: int
    citation: str


@dataclass(frozen=True, slots=True)
class LeadsRule:
    """How many candidates below the threshold, down to `floor`, are kept sealed, to be told in a case to who gives a reason; 0: none.

    `maximum` and `floor` bind in every mode, and the reason is demanded in every mode: `enforce` and `reason` are the same here, and
    `record` only says that the source asks for no reason. A pack with it counts as looser.
    """

    mode: Mode
    maximum: int
    floor: float
    citation: str


@dataclass(frozen=True, slots=True)
class GalleryRule:
    """The gallery factor above which a gallery's scores are not answered; 0 sets no bound."""

    mode: Mode
    max_factor: float
    citation: str


@dataclass(frozen=True, slots=True)
class ReviewRule:
    """How many people review a candidate before anybody learns who it is; 0: nothing is withheld."""

    mode: Mode
    reviewers: int
    citation: str


@dataclass(frozen=True, slots=True)
class CertificateRule:
    """Whether who looks needs a certificate, how old it may be (0: as it says itself) and the least score of its test."""

    mode: Mode
    required: bool
    max_age_days: int
    least_score: float
    citation: str


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """For how long the record must be kept at least, and within how many days what has expired must be gone; 0: no such duty."""

    mode: Mode
    ledger_days: int
    expired_days: int
    citation: str


@dataclass(frozen=True, slots=True)
class ReportRule:
    """A report that is due each year, on a day such as 02-01."""

    mode: Mode
    title: str
    due: str
    to: str
    citation: str


@dataclass(frozen=True, slots=True)
class SuspensionRule:
    """What suspends by itself: so many refused looks of one operator or unit within so many hours (0: none), a ledger that is not whole."""

    mode: Mode
    refusals: int
    hours: int
    scope: Literal["operator", "unit"]
    ledger: bool
    citation: str


@dataclass(frozen=True, slots=True)
class RolesRule:
    """Pairs of roles that no operator may hold together who searches, or who is added where this is the default pack."""

    mode: Mode
    separate: tuple[tuple[str, str], ...]
    citation: str

    def conflict(self, roles: Some[str]) -> tuple[str, str] | None:
        """The first of the pairs that `roles` holds both of, where that is enforced."""
        return next((pair for pair in self.separate if set(pair) <= set(roles)), None) if self.mode == "enforce" else None


def has(listed: Some[str], word: str) -> bool:
    """Whether a list names a word, or any."""
    return word in listed or ANY in listed
