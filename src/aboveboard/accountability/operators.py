"""Operators: the people and programs at the keyboard, their roles and their access keys."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from aboveboard.accountability.policy import ROLES, Pack, check_roles
from aboveboard.errors import BadRequest, Exists, NoSuch, Refused
from aboveboard.storage.database import ACCESS_KEYS, OPERATORS, Database, now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.secrets import Keyring

_SEALED = "access-key"
_BY_KEY = (
    sa.select(OPERATORS.c.name, OPERATORS.c.roles, ACCESS_KEYS.c.sealed_secret, ACCESS_KEYS.c.buckets)
    .join(OPERATORS, OPERATORS.c.name == ACCESS_KEYS.c.operator)
    .where(ACCESS_KEYS.c.id == sa.bindparam("id"), ACCESS_KEYS.c.revoked_at.is_(None))
)


@dataclass(frozen=True, slots=True)
class Operator:
    """Who acts, and as what."""

    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """One request of an operator: `via` is his access key's id or `cli`; the request ids tie the record to the caller's own logs.

    `buckets` are the buckets that may be read for him, `*` for all.
    """

    operator: Operator
    via: str
    request_id: str
    invocation_id: str = ""
    buckets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A key pair. The secret is shown once, when it is made; afterwards it exists sealed only."""

    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class Credential:
    """What an access key that is not revoked stands for: whose it is, its secret, the buckets that may be read for it."""

    operator: Operator
    secret: str
    buckets: tuple[str, ...]


class Operators:
    """Operators and their keys in the database; each change is in the ledger."""

    def __init__(self, database: Database, keyring: Keyring, ledger: Ledger) -> None:
        self._database, self._keyring, self._ledger = database, keyring, ledger

    def add(self, name: str, roles: Sequence[str], by: str, pack: Pack, buckets: Sequence[str] = ()) -> AccessKey:
        """Make an operator and his access key under the deployment's pack; the key may have `buckets` read for it, `*` for all.

        Raises Exists, BadRequest for a name or role that cannot be, Refused for roles that the pack keeps apart.
        """
        check_roles(roles)
        if pair := pack.roles.conflict(roles):
            rule = f"{pack.id}/roles"
            text = f"Refused by rule {rule}: one operator may not hold the roles {pair[0]} and {pair[1]}; add two operators."
            raise Refused(text, rule=rule)
        if not roles:
            raise BadRequest(f"an operator needs at least one role of {', '.join(ROLES)}")
        if not re.fullmatch(r"[A-Za-z0-9_.@+=,-]{1,64}", name):
            raise BadRequest("an operator's name is 1 to 64 letters, digits or the signs _ . @ + = , -")
        key = AccessKey("ABKEY" + base64.b32encode(os.urandom(10)).decode()[:15], base64.b64encode(os.urandom(30)).decode())
        sealed = self._keyring.seal(key.secret.encode(), _SEALED, key.id)
        ordered = [role for role in ROLES if role in roles]
        row = {"id": key.id, "operator": name, "sealed_secret": sealed, "buckets": list(buckets), "created_at": now()}
        try:
            with self._database.write() as connection:
                connection.execute(sa.insert(OPERATORS).values(name=name, roles=ordered, created_at=now()))
                connection.execute(sa.insert(ACCESS_KEYS).values(**row))
                facts = {"operator": name, "roles": ordered, "access_key": key.id, "buckets": list(buckets), "by": by}
                self._ledger.append(connection, "operator.added", facts)
        except sa.exc.IntegrityError as error:
            raise Exists(f"there is an operator '{name}' already; choose another name") from error
        return key

    def all(self) -> list[Operator]:
        """Every operator, in the order of names."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(OPERATORS.c.name, OPERATORS.c.roles).order_by(OPERATORS.c.name))
            return [Operator(row.name, tuple(row.roles)) for row in rows]

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
        return Credential(Operator(row.name, tuple(row.roles)), secret, tuple(row.buckets))

    def first(self, pack: Pack) -> tuple[Operator, AccessKey] | None:
        """On a new deployment, make its first operator: with all roles, or, where the pack keeps roles apart, admin alone."""
        if self.all():
            return None
        roles = ("admin",) if pack.roles.separate else ROLES
        try:
            return Operator("first", roles), self.add("first", roles, "aboveboard", pack, ("*",))
        except Exists:  # another process started at the same time
            return None
