"""The offered operations: one function each, found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, cast

from aboveboard.accountability.operators import Session
from aboveboard.biometrics.gallery import Factor
from aboveboard.biometrics.vocabulary import Basis, Candidates
from aboveboard.rekognition.codec import service_model
from aboveboard.service.app import App

Headers = Mapping[str, str]
R = TypeVar("R")
FIRST = 10
"""Of how many candidates headers say something; there is room for no more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An operation's answer: what the model has members for, and beside it what travels in headers."""

    body: Mapping[str, Any]
    headers: Headers


Handler = Callable[[App, Session, Any], Answer]


def operation(name: str) -> Callable[[R], R]:
    """Mark a function as an operation of the model; a name that the model lacks is refused at import."""
    if name not in service_model().operation_names:
        raise LookupError(f"Amazon Rekognition has no operation {name}")

    def mark(handler: R) -> R:
        handler.__dict__["operation"] = name
        return handler

    return mark


def offered() -> Mapping[str, Handler]:
    """Operation name -> function, of every operation that this server offers."""
    from aboveboard.rekognition.operations import galleries, images, labels, users

    found = [item for module in (images, labels, galleries, users) for item in vars(module).values() if hasattr(item, "operation")]
    return MappingProxyType({cast(str, handler.operation): cast(Handler, handler) for handler in found})


def basis_headers(audit_id: str, basis: Basis | None) -> dict[str, str]:
    """What an answer rests on, as headers: AWS's model has no members for it. Without a basis nothing was compared."""
    if basis is None:
        return {"x-aboveboard-audit-id": audit_id}
    factor = basis.gallery_factor
    own = {} if factor is None else {"x-aboveboard-gallery-factor": _factor(factor)}
    return {
        "x-aboveboard-audit-id": audit_id,
        "x-aboveboard-policy": basis.policy,
        "x-aboveboard-threshold": f"{basis.threshold:.10g}",
        "x-aboveboard-threshold-origin": basis.threshold_origin,
        "x-aboveboard-floor": f"{basis.floor:g}",
        "x-aboveboard-gallery-size": str(basis.gallery_size),
        "x-aboveboard-fmr": f"{basis.fmr:.3g}",
        "x-aboveboard-expected-false": f"{basis.expected_false:.3g}",
        "x-aboveboard-fpir": f"{basis.fpir:.3g}",
        "x-aboveboard-fnir": f"{basis.fnir:.3g}",
        "x-aboveboard-calibration": basis.calibration,
        "x-aboveboard-extrapolated": "true" if basis.extrapolated else "false",
        **own,
    }


def candidates_headers(candidates: Candidates) -> dict[str, str]:
    """The headers of a search: its basis, and of its first candidates which share of the gallery's own pairs scores as high."""
    shares = [one.own_share for one in candidates.items[:FIRST] if one.own_share is not None]
    told = ", ".join(f"{'<' if share.is_bound else ''}{share.value:.3g}" for share in shares)
    return basis_headers(candidates.audit_id, candidates.basis) | ({"x-aboveboard-own-shares": told} if told else {})


def _factor(factor: Factor) -> str:
    """As a structured field (RFC 9651), whose decimals know no exponent: the value; its interval and where it was counted as parameters."""
    value, low, high = (f"{one:.3f}".rstrip("0").rstrip(".") for one in (factor.value, factor.low, factor.high))
    return f"{value};low={low};high={high};similarity={factor.similarity}"
