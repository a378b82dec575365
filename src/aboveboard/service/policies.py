"""May an operator search a collection, for a purpose, at a time? Asked of the rules alone: nothing is looked at."""

from __future__ import annotations

from dataclasses import replace

from aboveboard.accountability.operators import Session
from aboveboard.accountability.packs import Pack
from aboveboard.accountability.policy import Asked
from aboveboard.errors import NoSuch
from aboveboard.service.app import App


def in_deployment(app: App, session: Session, collection: str, name: str, asked: Asked) -> tuple[Pack, Asked]:
    """The pack that a collection stands under at the time that is asked about, and what is asked as this operator asks it.

    His roles, certificate and suspension are those of now; the collection has the faces that it has now. Raises NoSuch.
    """
    app.gate.authorise(session, "policy.explain")
    found = app.collections.get(collection)
    operator = next((one for one in app.operators.all() if one.name == name), None)
    if operator is None:
        raise NoSuch(f"there is no operator '{name}'; see who there is with: aboveboard operator list")
    suspended, held = app.standing.of(operator, str(found.n), with_certificate=True)
    facts = replace(asked, roles=operator.roles, comparisons=found.face_count, certificate=held, suspended=suspended)
    return app.gate.policy_of(found, asked.at), facts
