"""Certificates and suspensions, each change by somebody who may make it."""

from __future__ import annotations

from aboveboard.accountability.operators import Session
from aboveboard.accountability.policy import Certificate
from aboveboard.accountability.standing import Scope, Suspension
from aboveboard.service.app import App


def certify(app: App, session: Session, name: str, examiner: str, score: float, until: str) -> Certificate:
    """Enter that another operator passed a test. Raises NoSuch, BadRequest."""
    app.gate.authorise(session, "operator.certify")
    return app.standing.certify(name, examiner, score, until, session.operator.name)


def uncertify(app: App, session: Session, name: str) -> None:
    """End an operator's certificates from the next look on. Raises NoSuch."""
    app.gate.authorise(session, "operator.certify")
    app.standing.uncertify(name, session.operator.name)


def suspend(app: App, session: Session, scope: Scope, target: str, because: str) -> Suspension:
    """Suspend from the next request on. Raises NoSuch, Exists, BadRequest."""
    app.gate.authorise(session, "suspension.make")
    return app.standing.suspend(scope, target, because, session.operator.name)


def lift(app: App, session: Session, n: int) -> Suspension:
    """Ask for a suspension to be lifted or, as the second person, lift it. Raises NoSuch, Refused."""
    app.gate.authorise(session, "suspension.lift")
    return app.standing.lift(n, session.operator)


def suspensions(app: App, session: Session) -> list[Suspension]:
    """Every suspension, the oldest first."""
    app.gate.authorise(session, "suspension.list")
    return app.standing.all()
