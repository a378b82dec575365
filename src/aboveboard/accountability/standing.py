"""How an operator stands: his certificates, and what is suspended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from aboveboard.accountability.operators import Operator
from aboveboard.accountability.packs import Pack, moment
from aboveboard.accountability.policy import CASEWORK, Certificate
from aboveboard.accountability.rules import SuspensionRule
from aboveboard.errors import BadRequest, Exists, NoSuch, Refused
from aboveboard.storage.database import Database, now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.schema import CERTIFICATES, COLLECTIONS, OPERATORS, SUSPENSIONS, VIOLATIONS

Scope = Literal["operator", "unit", "collection", "system"]
SCOPES: tuple[Scope, ...] = ("operator", "unit", "collection", "system")
ITSELF = "aboveboard"
"""Who suspends where a pack's trigger does."""

_IN_FORCE = sa.select(SUSPENSIONS.c.scope, SUSPENSIONS.c.target).where(SUSPENSIONS.c.lifted_at.is_(None))
_CERTIFICATE = (
    sa.select(CERTIFICATES.c.made_at, CERTIFICATES.c.until, CERTIFICATES.c.score)
    .where(CERTIFICATES.c.operator == sa.bindparam("name"), CERTIFICATES.c.revoked_at.is_(None))
    .order_by(CERTIFICATES.c.n.desc())
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Suspension:
    """What is suspended, why, by whom; `lift_asked_by` is who wants it lifted, until another one agrees."""

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
        """Record that an operator passed a test. The newest certificate counts. Raises NoSuch, BadRequest."""
        made_at = now()
        try:
            end = moment(until)
        except ValueError as error:
            raise BadRequest(f"'{until}' is no date; write one like 2027-06-30") from error
        if not 0 <= score <= 1:
            raise BadRequest("the score is the share that was right, 0 to 1")
        if end <= moment(made_at):
            raise BadRequest(f"the certificate would have ended before it began, at {until}")
        if not examiner.strip() or examiner == name:
            raise BadRequest("the examiner is another person than the one who is certified; name him")
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

    def certificate(self, name: str, connection: sa.Connection | None = None) -> Certificate | None:
        """The certificate that counts for an operator, whether or not it still holds."""
        if connection is None:
            with self._database.read() as own:
                return self.certificate(name, own)
        row = connection.execute(_CERTIFICATE, {"name": name}).first()
        return None if row is None else Certificate(row.made_at, row.until, row.score)

    def suspend(self, scope: Scope, target: str, because: str, by: str) -> Suspension:
        """Suspend from the next request on; looks under way are withheld. Raises NoSuch, Exists where it is suspended already."""
        with self._database.write() as connection:
            target = _known(connection, scope, target)
            if (scope, target) in {tuple(row) for row in connection.execute(_IN_FORCE)}:
                raise Exists(f"{_named(scope, target)} is suspended already")
            return self._suspend(connection, scope, target, because, by)

    def lift(self, n: int, by: str) -> Suspension:
        """Ask for a suspension to be lifted or, as the second person, lift it. Raises NoSuch, Refused, on record, who may not."""
        with self._database.write() as connection:
            row = connection.execute(sa.select(SUSPENSIONS).where(SUSPENSIONS.c.n == n, SUSPENSIONS.c.lifted_at.is_(None))).first()
            if row is None:
                raise NoSuch(f"there is no suspension {n} in force; see which there are with: aboveboard suspension list")
            refusal = _may_not_lift(connection, row, by)
            if not refusal:
                first = row.lift_asked_by is None
                values = {"lift_asked_by": by} if first else {"lifted_by": by, "lifted_at": now()}
                connection.execute(sa.update(SUSPENSIONS).where(SUSPENSIONS.c.n == n).values(**values))
                facts = {"suspension": n, "scope": row.scope, "target": row.target, "by": by}
                self._ledger.append(connection, "suspension.lift.asked" if first else "suspension.lifted", facts)
        if refusal:
            self._ledger.record("refused", {"operator": by, "duty": "suspension.lift", "rule": "suspension/second-person"})
            raise Refused(f"Refused by rule suspension/second-person: {refusal}.", rule="suspension/second-person")
        return next(one for one in self.all() if one.n == n)

    def all(self) -> list[Suspension]:
        """Every suspension, the oldest first; those in force have no `lifted_at`."""
        with self._database.read() as connection:
            return [Suspension(**row._mapping) for row in connection.execute(sa.select(SUSPENSIONS).order_by(SUSPENSIONS.c.n))]

    def suspended(self, operator: Operator, collection: str, connection: sa.Connection | None = None) -> str:
        """What of an operator, his unit, a collection's row (as text) and the system is suspended, in words; empty where nothing is."""
        if connection is None:
            with self._database.read() as own:
                return self.suspended(operator, collection, own)
        concerned = {("operator", operator.name), ("unit", operator.unit), ("collection", collection), ("system", "")}
        found = [tuple(row) for row in connection.execute(_IN_FORCE)]
        return next((_named(*one) for one in found if one in concerned and (one[1] or one[0] == "system")), "")

    def refused(self, operator: Operator, duty: str, rule: str, pack: Pack, facts: Mapping[str, Any]) -> None:
        """Record a refusal; the one that reaches a pack's number suspends, in the same transaction."""
        trigger = pack.suspension
        with self._database.write() as connection:
            self._ledger.append(connection, "refused", facts)
            if duty in CASEWORK and trigger.refusals and trigger.mode == "enforce" and not rule.endswith("/suspended"):
                self._count(connection, operator, rule, f"{pack.id}/suspension", trigger)

    def suspend_by_itself(self, because: str) -> None:
        """Suspend the system, unless it is; the way back takes two people."""
        with self._database.write() as connection:
            if ("system", "") not in {tuple(row) for row in connection.execute(_IN_FORCE)}:
                self._suspend(connection, "system", "", because, ITSELF)

    def _count(self, connection: sa.Connection, operator: Operator, rule: str, name: str, trigger: SuspensionRule) -> None:
        time = now()
        connection.execute(sa.insert(VIOLATIONS).values(operator=operator.name, unit=operator.unit, rule=rule, at=time))
        by_unit = trigger.scope == "unit" and bool(operator.unit)
        scope: Scope = "unit" if by_unit else "operator"
        target = operator.unit if by_unit else operator.name
        since = datetime.now(UTC) - timedelta(hours=trigger.hours)
        column = VIOLATIONS.c.unit if by_unit else VIOLATIONS.c.operator
        # What led to a suspension before does not lead to the next.
        lifted = sa.select(sa.func.max(SUSPENSIONS.c.lifted_at)).where(SUSPENSIONS.c.scope == scope, SUSPENSIONS.c.target == target)
        after = max(since.isoformat(timespec="milliseconds").replace("+00:00", "Z"), connection.scalar(lifted) or "")
        count = connection.scalar(sa.select(sa.func.count()).where(column == target, VIOLATIONS.c.at > after)) or 0
        is_suspended = (scope, target) in {tuple(row) for row in connection.execute(_IN_FORCE)}
        if count >= trigger.refusals and not is_suspended:
            self._suspend(connection, scope, target, name, ITSELF)

    def _suspend(self, connection: sa.Connection, scope: Scope, target: str, because: str, by: str) -> Suspension:
        time = now()
        row = {"scope": scope, "target": target, "because": because, "by": by, "made_at": time}
        done = connection.execute(sa.insert(SUSPENSIONS).values(**row)).inserted_primary_key
        n = int(done[0]) if done else 0
        facts: dict[str, Any] = {"suspension": n, "scope": scope, "target": target, "by": by}
        if scope == "collection":  # entries know it by its id
            facts["collection"] = connection.scalar(sa.select(COLLECTIONS.c.id).where(COLLECTIONS.c.n == int(target)))
        # Words of a person stay beside the record; a trigger's rule is in it.
        self._ledger.append(connection, "suspension.made", {**facts, "because": because if by == ITSELF else "by hand"})
        return Suspension(n, scope, target, because, by, time, None, None, None)


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


def _may_not_lift(connection: sa.Connection, row: Any, by: str) -> str:
    """Why somebody may not (yet) lift a suspension; empty where he may."""
    unit = connection.scalar(sa.select(OPERATORS.c.unit).where(OPERATORS.c.name == by)) or ""
    if (row.scope, row.target) in {("operator", by), ("unit", unit)}:
        return "nobody lifts his own suspension; ask two others"
    return "another person than the one who asked for it must agree" if row.lift_asked_by == by else ""


def _named(scope: str, target: str) -> str:
    return {"system": "the system", "collection": "this collection"}.get(scope, f"the {scope} '{target}'")
