"""Policy packs, and the one decision that stands before every look. Pure: no clock, no disk, no state."""

from __future__ import annotations

import hashlib
from collections.abc import Collection as Some
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import resources
from typing import Any, Literal

import rfc8785

from aboveboard import strict
from aboveboard.errors import BadRequest, NoSuch

ROLES = ("admin", "enroller", "investigator", "reviewer", "auditor")
Origin = Literal["request", "policy", "default", "gallery", "none"]
"""Where a threshold comes from; `gallery`: from how many faces are compared with each other."""

DUTIES: Mapping[str, tuple[str, ...]] = {
    "detect": ROLES,
    "collection.list": ROLES,
    "collection.create": ("admin",),
    "collection.delete": ("admin",),
    "collection.tag": ("admin",),
    "collection.reindex": ("admin",),
    "collection.check": ("admin", "enroller"),
    "collection.scores": ("admin", "auditor"),
    "face.list": ROLES,
    "face.enrol": ("enroller",),
    "face.remove": ("enroller",),
    "subject.list": ROLES,
    "subject.create": ("enroller",),
    "subject.delete": ("enroller",),
    "subject.associate": ("enroller",),
    "subject.disassociate": ("enroller",),
    "compare": ("investigator",),
    "search.face": ("investigator",),
    "search.image": ("investigator",),
    "search.subjects": ("investigator",),
    "search.subjects.image": ("investigator",),
    "operator.add": ("admin",),
    "operator.list": ("admin", "auditor"),
    "operator.rotate": ("admin",),
    "operator.rotate.own": ROLES,
    "operator.revoke": ("admin",),
    "operator.revoke.own": ROLES,
    "ledger.read": ("admin", "auditor"),
    "backup.make": ("admin",),
    "backup.restore": ("admin",),
}
"""Which roles may do what; one of them suffices."""
LOOKS = frozenset(
    {"collection.check", "subject.associate", "compare", "search.face", "search.image", "search.subjects", "search.subjects.image"}
)
"""The duties that compare templates: a threshold applies to them."""


@dataclass(frozen=True, slots=True)
class ThresholdRule:
    """The lowest similarity that may be asked for, what an absent one means, and whether 0 (no threshold) is allowed."""

    floor: float
    absent: float
    absent_origin: Origin
    allow_none: bool
    citation: str


@dataclass(frozen=True, slots=True)
class CandidatesRule:
    """The longest candidate list."""

    maximum: int
    citation: str


@dataclass(frozen=True, slots=True)
class ReviewRule:
    """`enforce`: no identity leaves before people have reviewed the candidate. `none`: nothing is withheld."""

    mode: Literal["none", "enforce"]
    citation: str


@dataclass(frozen=True, slots=True)
class RolesRule:
    """Pairs of roles that no operator may hold together who searches, or who is added where this is the default pack."""

    separate: tuple[tuple[str, str], ...]
    citation: str

    def conflict(self, roles: Some[str]) -> tuple[str, str] | None:
        """The first of the pairs that `roles` holds both of."""
        return next((pair for pair in self.separate if set(pair) <= set(roles)), None)


@dataclass(frozen=True)
class Pack:
    """A policy pack. Its `sha256` is that of its canonical JSON (RFC 8785), so that a record says which rules were in force."""

    id: str
    version: str
    title: str
    authority: str
    threshold: ThresholdRule
    candidates: CandidatesRule
    review: ReviewRule
    roles: RolesRule

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(rfc8785.dumps(_plain(asdict(self)))).hexdigest()

    def is_at_least_as_strict_as(self, other: Pack) -> bool:
        """Whether nothing that `other` forbids is allowed here."""
        return (
            self.threshold.floor >= other.threshold.floor
            and self.threshold.absent >= other.threshold.absent
            and self.threshold.allow_none <= other.threshold.allow_none
            and self.candidates.maximum <= other.candidates.maximum
            and (self.review.mode == "enforce" or other.review.mode == "none")
            and set(self.roles.separate) >= set(other.roles.separate)
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to do. `threshold` None means that the request named none.

    `usual` is what none means for this duty where the pack leaves it at the API's default, if that is not the pack's own number.
    `least` is the threshold below which none never lies, because of how many comparisons are made.
    """

    duty: str
    roles: Some[str]
    threshold: float | None = None
    limit: int = 0
    usual: float | None = None
    least: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """Allowed with these bounds, or refused by `rule` with a message that says how to comply."""

    rule: str = ""
    message: str = ""
    threshold: float = 0.0
    origin: Origin = "none"
    floor: float = 0.0
    limit: int = 0
    withhold_identities: bool = False

    @property
    def is_allowed(self) -> bool:
        return not self.rule


def decide(pack: Pack, asked: Asked) -> Decision:
    """Whether the pack allows what is asked, and within which bounds."""
    allowed_roles = DUTIES[asked.duty]
    if not set(asked.roles) & set(allowed_roles):
        return _refusal(pack, "roles", f"'{asked.duty}' needs the role {' or '.join(allowed_roles)}; ask an admin for it")
    if asked.duty not in LOOKS:
        return Decision(withhold_identities=pack.review.mode == "enforce")
    if pair := pack.roles.conflict(asked.roles):
        text = (
            f"one operator may not hold the roles {pair[0]} and {pair[1]}; act as an operator who holds {' or '.join(allowed_roles)} alone"
        )
        return _refusal(pack, "roles", text)
    rule = pack.threshold
    absent = rule.absent if asked.usual is None or rule.absent_origin != "default" else max(asked.usual, rule.floor)
    absent_origin: Origin = rule.absent_origin if asked.least <= absent else "gallery"
    absent = max(absent, asked.least)
    threshold = absent if asked.threshold is None else asked.threshold
    origin: Origin = absent_origin if asked.threshold is None else "request" if asked.threshold > 0 else "none"
    if origin == "none" and not rule.allow_none:
        return _refusal(
            pack,
            "threshold.none",
            f"a search needs a threshold; send {rule.floor:g} or more, or none for {absent:g}",
        )
    if origin != "none" and threshold < rule.floor:
        text = f"threshold {threshold:.10g} is below the floor of {rule.floor:g}; send {rule.floor:g} or more, or none for {absent:g}"
        return _refusal(pack, "threshold.floor", text)
    return Decision(
        threshold=threshold,
        origin=origin,
        floor=rule.floor,
        limit=min(asked.limit, pack.candidates.maximum),
        withhold_identities=pack.review.mode == "enforce",
    )


def _refusal(pack: Pack, rule: str, text: str) -> Decision:
    return Decision(rule=f"{pack.id}/{rule}", message=f"Refused by rule {pack.id}/{rule}: {text}.")


def read_pack(text: str, where: str) -> Pack:
    """A pack from TOML; an unknown or missing key, a role that does not exist or a number out of range raises BadRequest naming it."""
    pack = strict.table(Pack, strict.parse(text, where), where)
    for pair in pack.roles.separate:
        check_roles(pair)
    if not 0 <= pack.threshold.floor <= pack.threshold.absent <= 100:
        raise BadRequest(f"{where}: the floor must be 0-100 and 'absent' not below it")
    return pack


def check_roles(roles: Iterable[str]) -> None:
    """Raise BadRequest for a role that does not exist."""
    if unknown := sorted(set(roles) - set(ROLES)):
        raise BadRequest(f"there is no role '{unknown[0]}'; the roles are {', '.join(ROLES)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


class Policies:
    """The packs that ship with Aboveboard, the deployment's default and its minimum."""

    def __init__(self, default: str, minimum: str) -> None:
        folder = resources.files("aboveboard.accountability") / "policies"
        packs = (read_pack(file.read_text(), file.name) for file in folder.iterdir() if file.name.endswith(".toml"))
        self._packs = {pack.id: pack for pack in packs}
        self.default, self.minimum = self.get(default), self.get(minimum)
        if not self.default.is_at_least_as_strict_as(self.minimum):
            raise BadRequest(f"settings: default_policy '{default}' is looser than minimum_policy '{minimum}'; choose a stricter default")

    def get(self, pack: str) -> Pack:
        """The pack of this id; raises NoSuch."""
        if pack not in self._packs:
            raise NoSuch(f"there is no policy pack '{pack}'; known are {', '.join(sorted(self._packs))}")
        return self._packs[pack]

    def of(self, tag: str | None) -> Pack:
        """The pack that a collection stands under: its tag's, else the default. A tag looser than the minimum yields the minimum."""
        pack = self.default if tag is None else self.get(tag)
        return pack if pack.is_at_least_as_strict_as(self.minimum) else self.minimum
