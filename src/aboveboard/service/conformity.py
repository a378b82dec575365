"""Compare a deployment with its policy packs, changing nothing: which rules it departs from, and how to mend it.

Operators and collections are named, as the ledger names them; nobody who is enrolled is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from aboveboard.accountability.catalogue import AUTHORITIES, Policies
from aboveboard.accountability.packs import Pack, moment
from aboveboard.accountability.policy import POLICY_TAG, Certificate, uncertified
from aboveboard.accountability.rules import Mode, ReportRule
from aboveboard.accountability.standing import ITSELF, Standing
from aboveboard.accountability.verify_ledger import read_key
from aboveboard.errors import BadRequest, NoSuch, Unavailable
from aboveboard.service.examine import Finding, State
from aboveboard.service.keep import DATABASE
from aboveboard.settings import Settings
from aboveboard.storage.database import Database, now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.schema import ACCESS_KEYS, COLLECTIONS, LEDGER, OPERATORS, RECORDS, TAGS

SOON_DAYS = 30
"""Days before its end from which on it is said that a pack will not be in force any more."""


@dataclass(frozen=True)
class _Gallery:
    n: int
    id: str
    tag: str | None
    pack: Pack


def compare(settings: Settings) -> Iterator[Finding]:
    """What departs from the packs; a finding is `wrong` where the rule is enforced. What cannot be read is told by `examine`."""
    yield from _authorities(settings)
    try:
        policies = Policies(settings.default_policy, settings.minimum_policy, settings.policies)
    except (NoSuch, BadRequest) as error:
        mend = "correct the settings default_policy, minimum_policy and policies, or the pack"
        yield Finding("policy", "wrong", error.message, mend, settings.default_policy)
        return
    time = now()
    default = policies.default(time)
    found, packs = list[Finding](), {default.sha256: default}
    try:
        if (settings.data / DATABASE).is_file():
            with closing(Database(settings.data / DATABASE, read_only=True)) as database, database.read() as connection:
                galleries = list(_galleries(connection, policies, time, found))
                packs |= {one.pack.sha256: one.pack for one in galleries}
                found += _people(connection, database, packs.values(), time)
                found += _suspensions(database)
                found += _records(connection, galleries, time)
                found += _reports(connection, packs.values(), time)
        found += _dates(policies, packs.values(), time)
    except (Unavailable, TypeError, ValueError, OverflowError) as error:
        # Mostly a file that is damaged, or of another release, of which `examine` tells more; its content is not repeated here.
        why = error.message if isinstance(error, Unavailable) else type(error).__name__
        found.append(Finding("policy", "wrong", f"not all of it could be compared with the packs: {why}", "mend what else was found wrong"))
    yield from found
    if not any(one.state == "wrong" for one in found):
        names = ", ".join(sorted(f"'{one.id}' version {one.version}" for one in packs.values()))
        yield Finding("policy", "well", f"the deployment keeps what {names} enforces")


def _authorities(settings: Settings) -> Iterator[Finding]:
    file = settings.policies / AUTHORITIES
    lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            try:
                read_key(line)
            except ValueError as error:
                yield Finding("authorities", "note", f"{file}, line {number}: {error}", "write the key anew", "signatures")


def _dates(policies: Policies, packs: Iterable[Pack], time: str) -> Iterator[Finding]:
    for pack in packs:
        rule = f"{pack.id}/effective"
        if not pack.is_effective(time):
            text = (
                f"'{pack.id}' is not in force now ({pack.effective_from or 'ever'} to {pack.effective_to or 'ever'}): every look is refused"
            )
            yield Finding("policy", "wrong", text, "put the collections, or the deployment, under a pack that is", rule)
            continue
        is_soon = bool(pack.effective_to) and moment(pack.effective_to) <= moment(time) + timedelta(days=SOON_DAYS)
        if is_soon and not policies.get(pack.id, pack.effective_to).is_effective(pack.effective_to):
            text = f"'{pack.id}' ends at {pack.effective_to}, and no version of it follows: every look will be refused"
            yield Finding("policy", "note", text, "add its next version to the folder of packs", rule)


def _galleries(connection: sa.Connection, policies: Policies, time: str, found: list[Finding]) -> Iterator[_Gallery]:
    """The collections with the pack that each stands under; what has none is among what is found."""
    tagged = sa.and_(TAGS.c.collection == COLLECTIONS.c.n, TAGS.c.key == POLICY_TAG)
    chosen = sa.select(COLLECTIONS.c.n, COLLECTIONS.c.id, TAGS.c.value).join_from(COLLECTIONS, TAGS, tagged, isouter=True)
    for row in connection.execute(chosen.where(COLLECTIONS.c.deleted_at.is_(None)).order_by(COLLECTIONS.c.n)).all():
        try:
            pack = policies.of(row.value, time)
        except Unavailable as error:
            mend = "put its pack, and the signature, back into the folder of packs"
            found.append(Finding("policy", "wrong", f"the collection {row.id}: {error.message}", mend, str(row.value)))
            continue
        if row.value not in (None, pack.id):
            text = f"the collection {row.id} has the tag '{row.value}', which is looser than the minimum; it stands under '{pack.id}'"
            found.append(Finding("policy", "note", text, f"give it a tag that is as strict as '{pack.id}'", f"{pack.id}/policy.tighten"))
        yield _Gallery(row.n, row.id, row.value, pack)


def _people(connection: sa.Connection, database: Database, packs: Iterable[Pack], time: str) -> Iterator[Finding]:
    """Investigators with a key that can be used: whom no pack in force would let search."""
    usable = sa.select(ACCESS_KEYS.c.operator).where(ACCESS_KEYS.c.revoked_at.is_(None), ACCESS_KEYS.c.case.is_(None))
    rows = connection.execute(sa.select(OPERATORS).where(OPERATORS.c.name.in_(usable)).order_by(OPERATORS.c.name)).all()
    held = Standing(database, Ledger(database)).certificates()
    people = {row.name: tuple(row.roles) for row in rows if "investigator" in row.roles}
    for pack in packs:
        yield from _roles(pack, people)
        yield from _certificates(pack, people, held, time)


def _roles(pack: Pack, people: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    for pair in pack.roles.separate:
        if both := [name for name, roles in people.items() if set(pair) <= set(roles)]:
            text = f"under '{pack.id}' nobody searches who is {pair[0]} and {pair[1]}: {', '.join(both)}"
            yield _broken("roles", pack, pack.roles.mode, text, "add operators who hold one of these roles alone, and revoke these keys")


def _certificates(pack: Pack, people: Iterable[str], held: Mapping[str, Certificate], time: str) -> Iterator[Finding]:
    if pack.certificate.required:
        for name in people:
            if text := uncertified(pack.certificate, held.get(name), time):
                yield _broken("certificate", pack, pack.certificate.mode, f"{name}: {text}", f"aboveboard operator certify {name}")


def _suspensions(database: Database) -> Iterator[Finding]:
    for one in Standing(database, Ledger(database)).all():
        if not one.lifted_at:
            text = f"{one.scope} {one.target}".strip()
            mend = f"two people lift it with: aboveboard suspension lift {one.n}"
            rule = one.because.partition(":")[0] if one.by == ITSELF else ""
            yield Finding("suspension", "note", f"suspended since {one.made_at}: {text}", mend, rule)


def _records(connection: sa.Connection, galleries: Iterable[_Gallery], time: str) -> Iterator[Finding]:
    for one in galleries:
        rule = one.pack.retention
        if rule.expired_days:
            last = (moment(time) - timedelta(days=rule.expired_days)).date().isoformat()
            late = sa.select(sa.func.count()).where(RECORDS.c.collection == one.n, RECORDS.c.expires_on < last)
            if count := connection.scalar(late):
                text = f"the collection {one.id}: {count:,} enrolled photographs expired more than {rule.expired_days} days ago"
                yield _broken("retention", one.pack, rule.mode, text, "remove their faces; records-office.md says how they are found")


def _reports(connection: sa.Connection, packs: Iterable[Pack], time: str) -> Iterator[Finding]:
    """A report is made for a day when its period ends after the same day of the year before."""
    rules = {(rule.title, rule.due): (pack, rule) for pack in packs for rule in pack.reports}
    if not rules:
        return
    first = connection.scalar(sa.select(LEDGER.c.entry).where(LEDGER.c.seq == 0))
    began = json.loads(first)["time"] if first else time
    named = sa.func.instr(LEDGER.c.entry, b'"type":"report.made"') > 0
    made = [json.loads(entry) for entry in connection.scalars(sa.select(LEDGER.c.entry).where(named))]
    for pack, rule in rules.values():
        due, before = _due(rule, time)
        ends = [moment(str(one["to"])) for one in made if one.get("type") == "report.made" and one.get("title") == rule.title]
        if moment(began) < due and not any(end > before for end in ends):
            text = f"the report '{rule.title}' to {rule.to} was due on {due.date()}, and none was made"
            yield _broken("report", pack, rule.mode, text, "make it: aboveboard report transparency", "reports")


def _due(rule: ReportRule, time: str) -> tuple[datetime, datetime]:
    """When a report was due last, and when the time before."""
    year = moment(time).year
    days = [datetime.fromisoformat(f"{one}-{rule.due}").replace(tzinfo=UTC) for one in (year, year - 1, year - 2)]
    return (days[0], days[1]) if days[0] <= moment(time) else (days[1], days[2])


def _broken(check: str, pack: Pack, mode: Mode, text: str, mend: str, rule: str = "") -> Finding:
    state: State = "wrong" if mode == "enforce" else "note"
    return Finding(check, state, text, mend, f"{pack.id}/{rule or check}")
