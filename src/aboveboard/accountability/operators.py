"""Operators: the people and programs at the keyboard, their roles and their access keys."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from aboveboard.accountability.packs import Pack, check_roles
from aboveboard.accountability.rules import ROLES
from aboveboard.errors import BadRequest, Exists, NoSuch, Refused, Unavailable
from aboveboard.storage.database import Database, now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.schema import ACCESS_KEYS, OPERATORS
from aboveboard.storage.secrets import Keyring

if TYPE_CHECKING:
    from aboveboard.accountability.cases import CaseSession

_SEALED = "access-key"
_KEY_ID = re.compile(r"ABKEY[A-Z2-7]{15}")
_BY_KEY = (
    sa.select(OPERATORS.c.name, OPERATORS.c.roles, OPERATORS.c.unit, ACCESS_KEYS)
    .join(OPERATORS, OPERATORS.c.name == ACCESS_KEYS.c.operator)
    .where(ACCESS_KEYS.c.id == sa.bindparam("id"), ACCESS_KEYS.c.revoked_at.is_(None))
)
_LASTING = sa.select(ACCESS_KEYS).where(ACCESS_KEYS.c.case.is_(None))
"""The keys that end only when they are revoked; those of cases come and go."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts, and as what; `unit`: of which part of the agency, empty where that is not said."""

    name: str
    roles: tuple[str, ...]
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Session:
    """One request of an operator: `via` is his access key's id or `cli`; the request ids tie the record to the caller's own logs.

    `buckets` are the buckets that may be read for him, `*` for all. `case` is the case that he acts in.
    """

    operator: Operator
    via: str
    request_id: str
    invocation_id: str = ""
    buckets: tuple[str, ...] = ()
    case: CaseSession | None = None


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key pair. The secret is shown once, when it is made; afterwards it exists sealed only."""

    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What may be told of an access key: times are the ledger's; `revoked_at` is empty while it can be used."""

    id: str
    created_at: str
    revoked_at: str
    buckets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credential:
    """What an access key that is not revoked stands for: whose it is, its secret, the buckets that may be read for it.

    A key of a case has the case's row, what its looks declare, and when it ends (RFC 3339).
    """

    operator: Operator
    secret: str
    buckets: tuple[str, ...]
    case: int | None = None
    declared: Mapping[str, Any] | None = None
    expires_at: str = ""


class Operators:
    """Operators and their keys in the database; each change is in the ledger."""

    def __init__(self, database: Database, keyring: Keyring, ledger: Ledger) -> None:
        self._database, self._keyring, self._ledger = database, keyring, ledger

    def add(self, name: str, roles: Sequence[str], by: str, pack: Pack, buckets: Sequence[str] = (), unit: str = "") -> AccessKey:
        """Make an operator and his access key under the deployment's pack; the key may have `buckets` read for it, `*` for all.

        Raises Exists, BadRequest for a name or role that cannot be, Refused for roles that the pack keeps apart.
        """
        check_roles(roles)
        if pair := pack.roles.conflict(roles):
            rule = f"{pack.id}/roles"
            text = f"Refused by rule {rule}: one operator may not hold the roles {pair[0]} and {pair[1]}; add two operators."
            self._ledger.record("refused", {"operator": by, "duty": "operator.add", "rule": rule})
            raise Refused(text, rule=rule)
        if not roles:
            raise BadRequest(f"an operator needs at least one role of {', '.join(ROLES)}")
        if not re.fullmatch(r"[A-Za-z0-9_.@+=,-]{1,64}", name) or _KEY_ID.fullmatch(name):
            raise BadRequest(
                "an operator's name is 1 to 64 letters, digits or the signs _ . @ + = , - and does not look like an access key"
            )
        if not re.fullmatch(r"[A-Za-z0-9_.@+=,-]{0,64}", unit):
            raise BadRequest("a unit's name is at most 64 letters, digits or the signs _ . @ + = , -")
        ordered = [role for role in ROLES if role in roles]
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(OPERATORS).values(name=name, roles=ordered, created_at=now(), unit=unit))
                key = self._make_key(connection, name, buckets)
                facts = {"operator": name, "roles": ordered, "access_key": key.id, "buckets": list(buckets), "by": by}
                facts |= {"unit": unit} if unit else {}
                self._ledger.append(connection, "operator.added", facts)
        except sa.exc.IntegrityError as error:
            raise Exists(f"there is an operator '{name}' already; choose another name") from error
        return key

    def rotate(self, name: str, by: str, buckets: Sequence[str] | None = None, *, revoke_old: bool = False) -> tuple[AccessKey, list[str]]:
        """A new key of an operator, and the ids of those that `revoke_old` has ended with it.

        Without `buckets` it has those of his newest key, one that can be used before one that is revoked. Raises NoSuch, BadRequest.
        """
        with self._database.write() as connection:
            keys = self._keys_of(connection, name)
            chosen = list(max(keys, key=lambda key: (not key.revoked_at, key.created_at)).buckets) if buckets is None else list(buckets)
            # Who changes his keys because one may be stolen ends those that it may have made, too.
            ended = self._end(connection, ACCESS_KEYS.c.operator == name) if revoke_old else []
            key = self._make_key(connection, name, chosen)
            facts = {"operator": name, "access_key": key.id, "buckets": chosen, "revoked": ended, "by": by}
            self._ledger.append(connection, "operator.rotated", facts)
        return key, ended

    def revoke(self, target: str, by: str) -> list[str]:
        """End every key of an operator, or the one key of this id, from the next request on; the ids of those that could still be used.

        Raises NoSuch. Ending what has ended changes nothing and leaves no entry.
        """
        with self._database.write() as connection:
            name = _owner(connection, target)
            if name is None:
                raise _no_such(target)
            ended = self._end(connection, (ACCESS_KEYS.c.operator if target == name else ACCESS_KEYS.c.id) == target)
            if ended:
                self._ledger.append(connection, "operator.revoked", {"operator": name, "access_keys": ended, "by": by})
        return ended

    def owner(self, target: str) -> str | None:
        """Whose key this id is, or the name itself where it is an operator's; None where it is neither."""
        with self._database.read() as connection:
            return _owner(connection, target)

    def keys(self) -> dict[str, list[KeyFacts]]:
        """Every operator's keys, the oldest first; never their secrets."""
        with self._database.read() as connection:
            found: dict[str, list[KeyFacts]] = {name: [] for name in connection.scalars(sa.select(OPERATORS.c.name))}
            for row in connection.execute(_LASTING.order_by(ACCESS_KEYS.c.created_at, ACCESS_KEYS.c.id)):
                found[row.operator].append(KeyFacts(row.id, row.created_at, row.revoked_at or "", tuple(row.buckets)))
        return found

    def unopened(self) -> list[str]:
        """Ids of the access keys whose secrets do not open with this deployment's master key: none, unless one of both is another's."""
        found = []
        with self._database.read() as connection:
            for row in connection.execute(sa.select(ACCESS_KEYS.c.id, ACCESS_KEYS.c.sealed_secret).order_by(ACCESS_KEYS.c.id)):
                try:
                    self._keyring.unseal(row.sealed_secret, _SEALED, row.id)
                except Unavailable:
                    found.append(row.id)
        return found

    def has_admin_key(self) -> bool:
        """Whether any admin can still sign a request."""
        keys = self.keys()
        return any("admin" in one.roles and any(not key.revoked_at for key in keys[one.name]) for one in self.all())

    def all(self) -> list[Operator]:
        """Every operator, in the order of names."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(OPERATORS).order_by(OPERATORS.c.name))
            return [Operator(row.name, tuple(row.roles), row.unit) for row in rows]

    def named(self, name: str) -> Operator:
        """The operator of this name; raises NoSuch."""
        for operator in self.all():
            if operator.name == name:
                return operator
        raise NoSuch(f"there is no operator '{name}'; add one with: aboveboard operator add {name} --role ROLE")

    def by_key(self, key_id: str) -> Credential | None:
        """What an access key stands for; None for one that is unknown or revoked."""
        with self._database.read() as connection:
            row = connection.execute(_BY_KEY, {"id": key_id}).first()
        if row is None:
            return None
        secret = self._keyring.unseal(row.sealed_secret, _SEALED, key_id).decode()
        operator = Operator(row.name, tuple(row.roles), row.unit)
        return Credential(operator, secret, tuple(row.buckets), row.case, row.declared, row.expires_at or "")

    def case_key(self, connection: sa.Connection, name: str, case: int, expires_at: str, declared: Mapping[str, Any]) -> AccessKey:
        """A key of an operator that works inside a case until it ends, for the buckets of his newest lasting key. The caller records it.

        Raises BadRequest where he has no key that can be used: whose keys were ended does not come in by another door.
        """
        usable = [key for key in self._keys_of(connection, name) if not key.revoked_at]
        if not usable:
            raise BadRequest(
                f"the operator '{name}' has no access key that can be used; an admin makes one with: aboveboard operator rotate {name}"
            )
        # Those that ended a day ago and more are known to nobody any more; the ledger has that they were made.
        old = (datetime.now(UTC) - timedelta(days=1)).isoformat(timespec="seconds").replace("+00:00", "Z")
        connection.execute(sa.delete(ACCESS_KEYS).where(ACCESS_KEYS.c.case.is_not(None), ACCESS_KEYS.c.expires_at < old))
        key = self._make_key(connection, name, max(usable, key=lambda one: one.created_at).buckets)
        connection.execute(
            sa.update(ACCESS_KEYS).where(ACCESS_KEYS.c.id == key.id).values(case=case, expires_at=expires_at, declared=dict(declared))
        )
        return key

    def first(self, pack: Pack) -> tuple[Operator, AccessKey] | None:
        """On a new deployment, make its first operator: with all roles, or, where the pack keeps roles apart, admin alone."""
        if self.all():
            return None
        roles = ("admin",) if pack.roles.separate else ROLES
        try:
            return Operator("first", roles), self.add("first", roles, "aboveboard", pack, ("*",))
        except Exists:  # another process started at the same time
            return None

    def _make_key(self, connection: sa.Connection, name: str, buckets: Sequence[str]) -> AccessKey:
        for bucket in buckets:
            if not re.fullmatch(r"\*|[0-9A-Za-z._-]{3,255}", bucket):
                raise BadRequest(f"'{bucket}' cannot name a bucket; use 3 to 255 letters, digits or the signs . _ - or * for all")
        key = AccessKey("ABKEY" + base64.b32encode(os.urandom(10)).decode()[:15], base64.b64encode(os.urandom(30)).decode())
        sealed = self._keyring.seal(key.secret.encode(), _SEALED, key.id)
        row = {"id": key.id, "operator": name, "sealed_secret": sealed, "buckets": list(buckets), "created_at": now()}
        connection.execute(sa.insert(ACCESS_KEYS).values(**row))
        return key

    @staticmethod
    def _keys_of(connection: sa.Connection, name: str) -> list[KeyFacts]:
        """An operator's lasting keys; raises NoSuch where there is none."""
        rows = connection.execute(_LASTING.where(ACCESS_KEYS.c.operator == name).order_by(ACCESS_KEYS.c.created_at)).all()
        if not rows:
            raise _no_such(name)
        return [KeyFacts(row.id, row.created_at, row.revoked_at or "", tuple(row.buckets)) for row in rows]

    @staticmethod
    def _end(connection: sa.Connection, chosen: sa.ColumnElement[bool]) -> list[str]:
        """End the chosen keys that could still be used: lasting ones, and those of cases that have not ended by themselves."""
        usable = chosen, ACCESS_KEYS.c.revoked_at.is_(None), sa.or_(ACCESS_KEYS.c.expires_at.is_(None), ACCESS_KEYS.c.expires_at > now())
        ended = list(connection.scalars(sa.select(ACCESS_KEYS.c.id).where(*usable).order_by(ACCESS_KEYS.c.created_at)))
        connection.execute(sa.update(ACCESS_KEYS).where(*usable).values(revoked_at=now()))
        return ended


def _no_such(name: str) -> NoSuch:
    return NoSuch(f"there is no operator and no access key '{name}'; see which there are with: aboveboard operator list")


def _owner(connection: sa.Connection, target: str) -> str | None:
    by_id = sa.select(ACCESS_KEYS.c.operator).where(ACCESS_KEYS.c.id == target)
    return connection.scalar(by_id.union(sa.select(OPERATORS.c.name).where(OPERATORS.c.name == target)))
