"""How an operator stands: his certificates, and what is suspended."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import sqlalchemy as sa

from aboveboard.accountability.operators import Operator
from aboveboard.accountability.packs import Pack, moment
from aboveboard.accountability.policy import CASEWORK, Certificate
from aboveboard.accountability.rules import SuspensionRule
from aboveboard.errors import BadRequest, Exists, NoSuch, Refused
from aboveboard.storage.database import Database, driver, now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.schema import CERTIFICATES, COLLECTIONS, OPERATORS, SUSPENSIONS, VIOLATIONS

Scope = Literal["operator", "unit", "collection", "system"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ITSELF = "aboveboard"
"""Who suspends where a pack's trigger does."""
_NOT_HIS = ("effective", "suspended")
"""Refusals that say nothing about who is refused: under an expired pack, or one who is suspended already."""

# Straight to sqlite3: every look asks both.
_IN_FORCE = "SELECT scope, target FROM suspensions WHERE lifted_at IS NULL"
_CERTIFICATE = "SELECT made_at, until, score FROM certificates WHERE operator = ? AND revoked_at IS NULL ORDER BY n DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Suspension:
    """What is suspended, why, by whom; `lift_asked_by` is who wants it lifted, until another one agrees.

    `target`: a name; of a collection its id, or after its deletion its number; of the system empty.
    """

    n: int
    scope: Scope
    target: str
    because: str
    by: str
    made_at: str
    lift_asked_by: str | None
    lifted_by: str | None
    lifted_at: str | None


class Standing:
    """Certificates and suspensions in the database; each change is in the ledger."""

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database, self._ledger = database, ledger

    def certify(self, name: str, examiner: str, score: float, until: str, by: str) -> Certificate:
        """Record that an operator passed a test; nobody enters his own. The newest certificate counts. Raises NoSuch, BadRequest."""
        made_at = now()
        try:
            end = moment(until)
        except ValueError as error:
            raise BadRequest(f"'{until}' is no date; write one like 2027-06-30") from error
        if not 0 <= score <= 1:
            raise BadRequest("the score is the share that was right, 0 to 1")
        if end <= moment(made_at):
            raise BadRequest(f"the certificate would have ended before it began, at {until}")
        if not re.fullmatch(r"[A-Za-z0-9_.@+=,-]{1,64}", examiner):
            raise BadRequest("the examiner is named as the ledger may show him: 1 to 64 letters, digits or the signs _ . @ + = , -")
        if name in (examiner, by):
            raise BadRequest("nobody examines himself or enters his own certificate; another admin does")
        with self._database.write() as connection:
            _known(connection, "operator", name)
            row = {"operator": name, "examiner": examiner, "score": score, "made_at": made_at, "until": until}
            connection.execute(sa.insert(CERTIFICATES).values(**row))
            facts = {**row, "by": by}
            self._ledger.append(connection, "operator.certified", facts)
        return Certificate(made_at, until, score)

    def uncertify(self, name: str, by: str) -> None:
        """End an operator's certificates; raises NoSuch where he has none."""
        with self._database.write() as connection:
            _known(connection, "operator", name)
            held = CERTIFICATES.c.operator == name, CERTIFICATES.c.revoked_at.is_(None)
            if not connection.execute(sa.update(CERTIFICATES).where(*held).values(revoked_at=now())).rowcount:
                raise NoSuch(f"the operator '{name}' holds no certificate")
            self._ledger.append(connection, "operator.uncertified", {"operator": name, "by": by})

    def certificates(self) -> dict[str, Certificate]:
        """The certificate that counts of each operator who has one, whether or not it still holds."""
        with self._database.read() as connection:
            names = connection.scalars(sa.select(CERTIFICATES.c.operator).where(CERTIFICATES.c.revoked_at.is_(None)).distinct()).all()
            return {name: held for name in names if (held := _certificate(connection, name))}

    def suspend(self, scope: Scope, target: str, because: str, by: str) -> Suspension:
        """Suspend from the next request on; looks under way are withheld.

        Raises NoSuch, Exists where it is suspended already, BadRequest where no admin would be left who is not.
        """
        if not because.strip() or len(because) > 1000:
            raise BadRequest("say why, in 1 to 1,000 characters")
        with self._database.write() as connection:
            target = _known(connection, scope, target)
            if (scope, target) in _in_force(connection):
                raise Exists(f"{_named(scope, target)} is suspended already")
            if scope in ("operator", "unit") and not _has_admin(connection, but=(scope, target)):
                raise BadRequest("no admin would be left who could have this lifted; add another admin first: aboveboard operator add")
            return self._suspend(connection, scope, target, because, by)

    def lift(self, n: int, by: Operator) -> Suspension:
        """Ask for a suspension to be lifted or, as the second person, lift it; neither may be suspended himself, or with his unit.

        Raises NoSuch, and Refused, on record, for who may not.
        """
        with self._database.write() as connection:
            row = connection.execute(sa.select(SUSPENSIONS).where(SUSPENSIONS.c.n == n, SUSPENSIONS.c.lifted_at.is_(None))).first()
            if row is None:
                raise NoSuch(f"there is no suspension {n} in force; see which there are with: aboveboard suspension list")
            refusal = _may_not_lift(connection, row, by)
            if not refusal:
                # Who asked, and has been suspended himself since, is no second person.
                first = row.lift_asked_by is None or bool(_himself(connection, _operator(connection, row.lift_asked_by)))
                values = {"lift_asked_by": by.name} if first else {"lifted_by": by.name, "lifted_at": now()}
                connection.execute(sa.update(SUSPENSIONS).where(SUSPENSIONS.c.n == n).values(**values))
                facts = {"suspension": n, "scope": row.scope, "target": _shown(connection, row.scope, row.target), "by": by.name}
                self._ledger.append(connection, "suspension.lift.asked" if first else "suspension.lifted", facts)
        if refusal:
            rule = "suspension/second-person"
            self._ledger.record("refused", {"operator": by.name, "duty": "suspension.lift", "rule": rule, "suspension": n})
            raise Refused(f"Refused by rule {rule}: {refusal}.", rule=rule)
        return next(one for one in self.all() if one.n == n)

    def all(self) -> list[Suspension]:
        """Every suspension, the oldest first; those in force have no `lifted_at`."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(SUSPENSIONS).order_by(SUSPENSIONS.c.n)).all()
            return [Suspension(**{**row._mapping, "target": _shown(connection, row.scope, row.target)}) for row in rows]

    def of(self, operator: Operator, collection: str, *, with_certificate: bool) -> tuple[str, Certificate | None]:
        """As one moment has it: what is suspended, as `suspended` says it, and the operator's certificate, held or lapsed."""
        with self._database.read() as connection:
            held = _certificate(connection, operator.name) if with_certificate else None
            return self.suspended(operator, collection, connection), held

    def suspended(self, operator: Operator, collection: str, connection: sa.Connection) -> str:
        """What of an operator, his unit, a collection's row (as text) and the system is suspended, in words; empty where nothing is."""
        found = _in_force(connection)
        concerned: tuple[tuple[str, str], ...] = ("operator", operator.name), ("unit", operator.unit), ("collection", collection)
        return next((_named(*one) for one in (*concerned, ("system", "")) if one in found), "")

    def himself_suspended(self, operator: Operator) -> str:
        """Whether an operator or his unit is suspended, in words; empty where neither is."""
        with self._database.read() as connection:
            return _himself(connection, operator)

    def refused(self, operator: Operator, duty: str, rule: str, pack: Pack, facts: Mapping[str, Any]) -> None:
        """Record a refusal by a pack; the one that reaches its number suspends, in the same transaction."""
        trigger = pack.suspension
        with self._database.write() as connection:
            self._ledger.append(connection, "refused", facts)
            if duty in CASEWORK and trigger.refusals and trigger.mode == "enforce" and rule.rpartition("/")[2] not in _NOT_HIS:
                self._count(connection, operator, rule, f"{pack.id}/suspension", trigger)

    def suspend_by_itself(self, because: str) -> None:
        """Suspend the system, unless it is, or was for the same: two people have looked into that."""
        before = sa.select(SUSPENSIONS.c.n).where(SUSPENSIONS.c.by == ITSELF, SUSPENSIONS.c.because == because)
        with self._database.write() as connection:
            if ("system", "") not in _in_force(connection) and connection.scalar(before) is None:
                self._suspend(connection, "system", "", because, ITSELF)

    def _count(self, connection: sa.Connection, operator: Operator, rule: str, name: str, trigger: SuspensionRule) -> None:
        """Count a refusal; enough of them suspend, unless no admin were left who could have that lifted."""
        time = now()
        by_unit = trigger.scope == "unit" and bool(operator.unit)
        scope: Scope = "unit" if by_unit else "operator"
        target = operator.unit if by_unit else operator.name
        if (scope, target) in _in_force(connection):
            return
        connection.execute(sa.insert(VIOLATIONS).values(operator=operator.name, unit=operator.unit, rule=rule, at=time))
        since = datetime.now(UTC) - timedelta(hours=trigger.hours)
        column = VIOLATIONS.c.unit if by_unit else VIOLATIONS.c.operator
        after = since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        connection.execute(sa.delete(VIOLATIONS).where(column == target, VIOLATIONS.c.at <= after))
        count = connection.scalar(sa.select(sa.func.count()).where(column == target)) or 0
        if count >= trigger.refusals and _has_admin(connection, but=(scope, target)):
            self._suspend(connection, scope, target, name, ITSELF)
            # They have had their effect: what comes after a lift is counted anew.
            connection.execute(sa.delete(VIOLATIONS).where(column == target))

    def _suspend(self, connection: sa.Connection, scope: Scope, target: str, because: str, by: str) -> Suspension:
        time = now()
        row = {"scope": scope, "target": target, "because": because, "by": by, "made_at": time}
        done = connection.execute(sa.insert(SUSPENSIONS).values(**row)).inserted_primary_key
        n = int(done[0]) if done else 0
        shown = _shown(connection, scope, target)
        facts: dict[str, Any] = {"suspension": n, "scope": scope, "target": shown, "by": by}
        if scope == "collection":  # where every other entry has it
            facts["collection"] = shown
        # Words of a person stay beside the record; a trigger's rule is in it.
        self._ledger.append(connection, "suspension.made", {**facts, "because": because.partition(":")[0] if by == ITSELF else "by hand"})
        return Suspension(n, scope, shown, because, by, time, None, None, None)


def _in_force(connection: sa.Connection) -> set[tuple[str, str]]:
    return set(driver(connection).execute(_IN_FORCE))


def _certificate(connection: sa.Connection, name: str) -> Certificate | None:
    row = driver(connection).execute(_CERTIFICATE, (name,)).fetchone()
    return Certificate(*row) if row else None


def _himself(connection: sa.Connection, operator: Operator) -> str:
    found = _in_force(connection)
    return next((_named(*one) for one in (("operator", operator.name), ("unit", operator.unit)) if one in found), "")


def _operator(connection: sa.Connection, name: str) -> Operator:
    row = connection.execute(sa.select(OPERATORS).where(OPERATORS.c.name == name)).one()
    return Operator(row.name, tuple(row.roles), row.unit)


def _has_admin(connection: sa.Connection, but: tuple[str, str]) -> bool:
    """Whether an admin would be left who is not suspended himself, were this scope and target suspended, too."""
    found = {*_in_force(connection), but}
    rows = connection.execute(sa.select(OPERATORS)).all()
    return any("admin" in row.roles and not {("operator", row.name), ("unit", row.unit)} & found for row in rows)


def _shown(connection: sa.Connection, scope: str, target: str) -> str:
    """A suspension's target as people know it."""
    if scope != "collection":
        return target
    known = sa.select(COLLECTIONS.c.id).where(COLLECTIONS.c.n == int(target), COLLECTIONS.c.deleted_at.is_(None))
    return connection.scalar(known) or f"number {target}, deleted"


def _known(connection: sa.Connection, scope: str, target: str) -> str:
    """How a suspension names its target; raises NoSuch for one that is not there. A collection is known by its row: names come again."""
    if scope == "system":
        return ""
    columns = {"operator": OPERATORS.c.name, "unit": OPERATORS.c.unit, "collection": COLLECTIONS.c.id}
    if not target or connection.scalar(sa.select(columns[scope]).where(columns[scope] == target).limit(1)) is None:
        raise NoSuch(f"there is no {scope} '{target}'")
    if scope == "collection":
        return str(connection.scalar(sa.select(COLLECTIONS.c.n).where(COLLECTIONS.c.id == target)))
    return target


def _may_not_lift(connection: sa.Connection, row: Any, by: Operator) -> str:
    """Why somebody may not (yet) lift a suspension; empty where he may."""
    if himself := _himself(connection, by):
        return f"{himself} is suspended; two others lift this"
    return "another person than the one who asked for it must agree" if row.lift_asked_by == by.name else ""


def _named(scope: str, target: str) -> str:
    return {"system": "the system", "collection": "this collection"}.get(scope, f"the {scope} '{target}'")
