"""The one family of errors. Every message says what was wrong and how to mend it; AWS codes live in rekognition/errors.py."""

from __future__ import annotations

from typing import Any


class Error(Exception):
    """An error that the caller may read. `facts` are machine-readable details (never a face, a name or a secret)."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class BadRequest(Error):
    """The request itself is wrong: malformed, out of its limits, no face in the image."""


class NoFace(BadRequest):
    """The photograph shows no face, or none good enough, where one is needed."""


class BadPageToken(BadRequest):
    """A page token that this server did not give out for this listing."""


class TokenReused(BadRequest):
    """A request token that came with another request before."""


class BadSample(Error):
    """The photograph cannot be read."""


class SampleTooLarge(BadSample):
    """The photograph has more bytes or pixels than this server reads."""


class UnsupportedSample(BadSample):
    """The photograph is of a format that this installation does not read."""


class SampleUnreachable(BadSample):
    """The photograph lies where this server cannot read it."""


class NoSuch(Error):
    """The named thing does not exist."""


class NoSuchOperation(NoSuch):
    """The API has no operation of this name."""


class Exists(Error):
    """The named thing exists already."""


class Conflict(Exists):
    """The id is taken inside its collection, or two requests changed the same thing at once."""


class Busy(Error):
    """The named thing is being changed by somebody else; the same request, sent again, is answered."""


class Refused(Error):
    """An elective refusal: a rule forbids it. The message names the rule and how to comply."""

    def __init__(self, message: str, *, rule: str, **facts: Any) -> None:
        super().__init__(message, rule=rule, **facts)
        self.rule = rule


class Unauthenticated(Error):
    """The caller could not be told: no, unknown, stale or wrong signature. `reason` is the word that callers know it by."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message, reason=reason)
        self.reason = reason


class TooMuch(Error):
    """A quota is used up."""


class TooFast(Error):
    """More requests than this caller may send, or this server works on, at once; the same request, sent later, is answered."""


class Unavailable(Error):
    """An involuntary failure: ledger, model or store is down. Nothing was looked up and nothing half-written."""
