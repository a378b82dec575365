"""The gate: decide, record, permit, look, record, answer. The only way to a similarity.

A look is a `with` block: entering it decides and starts the intent's entry; the look itself waits until that entry is on the
disk; leaving it without a look records why. A ledger that fails raises Unavailable and no template is compared.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from aboveboard.accountability.operators import Session
from aboveboard.accountability.policy import Asked, Decision, Pack, Policies, decide
from aboveboard.biometrics.calibration import Calibration, expected_false, fmr_at, fpir
from aboveboard.biometrics.matching import best_first, comparison_scores
from aboveboard.biometrics.vocabulary import Basis, Candidate, Candidates, Template
from aboveboard.errors import BadRequest, Busy, Error, Refused
from aboveboard.storage.collections import Collection, Collections
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.templates import Permit, Templates
from aboveboard.vision.packs import Card, Models

POLICY_TAG = "aboveboard:policy"


@dataclass(frozen=True, slots=True)
class Probe:
    """What is looked up: the bytes of the images (only a keyed commitment of them is recorded) or an enrolled face's id."""

    images: tuple[bytes, ...] = ()
    face_id: str = ""


class Gate:
    """Stands between the services and every score."""

    def __init__(self, policies: Policies, ledger: Ledger, collections: Collections, templates: Templates, models: Models) -> None:
        self.policies = policies
        self._ledger, self._collections, self._templates, self._models = ledger, collections, templates, models
        self._writer = ThreadPoolExecutor(max_workers=4, thread_name_prefix="ledger")

    def policy_of(self, collection: Collection | None) -> Pack:
        """The pack that a collection, or without one the deployment, stands under."""
        return self.policies.default if collection is None else self.policies.of(collection.tags.get(POLICY_TAG))

    def authorise(self, session: Session, duty: str, collection: Collection | None = None) -> Decision:
        """Whether the operator may do this; raises Refused, on record."""
        pack = self.policy_of(collection)
        decision = decide(pack, Asked(duty, session.operator.roles))
        if not decision.is_allowed:
            self.refuse(session, duty, decision.rule, decision.message, collection)
        return decision

    def refuse(self, session: Session, duty: str, rule: str, message: str, collection: Collection | None = None, **facts: Any) -> NoReturn:
        """Record a refusal and raise it."""
        named = {"collection": collection.id} if collection else {}
        self._ledger.record("refused", {**actor(session), "duty": duty, "rule": rule, **named, **facts})
        raise Refused(message, rule=rule)

    @contextmanager
    def search(self, session: Session, collection: Collection, threshold: float | None, limit: int, probe: Probe) -> Iterator[SearchLook]:
        """A look into a collection. Use the block to make the template; then ask the look for its candidates, once."""
        duty = "search.face" if probe.face_id else "search.image"
        with self._look(session, duty, collection, threshold, limit, probe) as look:
            must_agree(self._models.card, collection)
            # A grain below, for the rounding of the way back; `answer` compares similarities exactly.
            floor = look.calibration.score_at(look.decision.threshold) - 1e-9
            permit = Permit(look.audit_id, collection.n, floor, look.decision.limit)
            yield SearchLook(
                look, self._templates, permit, collection.generation, partial(self._still_stands, look, collection), probe.face_id
            )

    @contextmanager
    def compare(self, session: Session, threshold: float | None, probe: Probe) -> Iterator[CompareLook]:
        """A look at the faces of one image for the face of another."""
        with self._look(session, "compare", None, threshold, 100, probe) as look:
            yield CompareLook(look)

    def _still_stands(self, look: Look, decided_on: Collection) -> None:
        """Raise Busy where the collection was tightened or replaced since the look was decided: that decision is void."""
        collection = self._collections.get(decided_on.id)
        if collection.n != decided_on.n or self.policy_of(collection) is not look.pack:
            raise Busy("the collection's policy was changed while it was searched; ask again")

    def forget(self, collection: Collection) -> None:
        """Drop a deleted collection's templates from memory."""
        self._templates.forget(collection.n)

    @contextmanager
    def _look(
        self,
        session: Session,
        duty: str,
        collection: Collection | None,
        threshold: float | None,
        limit: int,
        probe: Probe,
    ) -> Iterator[Look]:
        pack = self.policy_of(collection)
        decision = decide(pack, Asked(duty, session.operator.roles, threshold, limit))
        requested = {} if threshold is None else {"threshold": threshold}
        if not decision.is_allowed:
            self.refuse(session, duty, decision.rule, decision.message, collection, **requested)
        calibration = self._models.calibration
        if calibration is None:
            text = f"the model pack '{self._models.card.id}' has no calibration, so it answers no similarity; run: aboveboard calibrate"
            self.refuse(session, duty, "calibration", text, collection, **requested)
        key = os.urandom(32)
        audit_id = str(uuid.uuid4())
        intent = self._intent(session, duty, audit_id, pack, decision, calibration, collection, probe, key)
        future = self._writer.submit(self._ledger.record, "look.intent", intent, key)
        look = Look(audit_id, pack, decision, calibration, self._ledger, future)
        try:
            yield look
        except Error as error:
            look.not_looked(type(error).__name__)
            raise
        except BaseException:
            look.not_looked("defect")
            raise
        look.not_looked("nothing to compare")

    def _intent(
        self, session: Session, duty: str, audit_id: str, pack: Pack, decision: Decision,
        calibration: Calibration, collection: Collection | None, probe: Probe, key: bytes,
    ) -> dict[str, Any]:  # fmt: skip
        card = self._models.card
        shown: dict[str, Any] = {"face_id": probe.face_id} if probe.face_id else {"commitments": commitments(key, probe.images)}
        intent = {
            **actor(session),
            "audit_id": audit_id,
            "duty": duty,
            "policy": {"id": pack.id, "version": pack.version, "sha256": pack.sha256},
            "threshold": {"value": decision.threshold, "origin": decision.origin, "floor": decision.floor},
            "limit": decision.limit,
            "probe": shown,
            "model": {"pack": card.id, "version": card.model_version, "sha256": [part.sha256 for part in card.files]},
            "calibration": {"id": calibration.id, "sha256": calibration.sha256},
        }
        if collection is not None:
            intent["collection"] = {
                "id": collection.id,
                "faces": collection.face_count,
                "generation": collection.generation,
            }
        return intent


class Look:
    """One recorded look: its intent is being written, its outcome will be."""

    def __init__(
        self,
        audit_id: str,
        pack: Pack,
        decision: Decision,
        calibration: Calibration,
        ledger: Ledger,
        intent: Future[int],
    ) -> None:
        self.audit_id, self.pack, self.decision, self.calibration = audit_id, pack, decision, calibration
        self._ledger, self._intent = ledger, intent
        self._is_closed = False

    def wait_for_intent(self) -> int:
        """Return once the intent is on the disk; raises Unavailable if it could not be written."""
        return self._intent.result()

    def similarity(self, comparison_score: float) -> float:
        """The calibrated similarity, cut (never rounded up) to four decimals, but not below the threshold that it reached."""
        exact = self.calibration.similarity(comparison_score)
        cut = math.floor(exact * 1e4) / 1e4
        return max(cut, self.decision.threshold) if exact >= self.decision.threshold else cut

    def answer(self, scored: Sequence[tuple[str, float]], gallery_size: int) -> Candidates:
        """Those at or above the threshold as candidates, once their outcome is on the disk."""
        intent = self.wait_for_intent()
        threshold = self.decision.threshold
        kept = [(face_id, self.similarity(score), score) for face_id, score in scored if self.calibration.similarity(score) >= threshold]
        items = tuple(Candidate(rank, *candidate) for rank, candidate in enumerate(kept[: self.decision.limit], 1))
        basis = self._basis(gallery_size)
        outcome = {
            "audit_id": self.audit_id,
            "intent": intent,
            "looked": True,
            "gallery_size": gallery_size,
            "fmr": basis.fmr,
            "expected_false": basis.expected_false,
            "fpir": basis.fpir,
            "fnir": basis.fnir,
            "candidates": [{"face_id": item.reference, "similarity": item.similarity} for item in items],
            "identities_withheld": self.decision.withhold_identities,
        }
        self._is_closed = True
        self._ledger.record("look.outcome", outcome)
        return Candidates(self.audit_id, basis, self.decision.withhold_identities, items)

    def not_looked(self, reason: str) -> None:
        """Record that no comparison was answered, unless one was."""
        if not self._is_closed:
            self._is_closed = True
            intent = self.wait_for_intent()
            self._ledger.record("look.outcome", {"audit_id": self.audit_id, "intent": intent, "looked": False, "reason": reason})

    def _basis(self, gallery_size: int) -> Basis:
        threshold = self.decision.threshold
        # Without a threshold every comparison is answered, whatever its score.
        fmr = fmr_at(threshold) if threshold > 0 else 1.0
        return Basis(
            policy=self.pack.id,
            threshold=threshold,
            threshold_origin=self.decision.origin,
            floor=self.decision.floor,
            gallery_size=gallery_size,
            fmr=fmr,
            expected_false=expected_false(fmr, gallery_size),
            fpir=fpir(fmr, gallery_size) if fmr < 1 else float(gallery_size > 0),
            fnir=self.calibration.fnmr(threshold) if threshold > 0 else 0.0,
            calibration=self.calibration.id,
            extrapolated=self.calibration.extrapolated(threshold),
        )


@dataclass(frozen=True, slots=True)
class SearchLook:
    """A permitted look into one collection."""

    look: Look
    templates: Templates
    permit: Permit
    generation: int
    check: Callable[[], None]
    face_id: str

    def candidates(self, probe: Template | None = None) -> Candidates:
        """Candidates for a template, or, in a search by face id, for that face's own; the face itself is left out."""
        self.look.wait_for_intent()
        vector = self.templates.of_face(self.permit, self.face_id) if probe is None else probe.vector
        excluded = [self.face_id] if self.face_id else []
        scan = self.templates.search(self.permit, vector, excluded)
        if scan.generation != self.generation:
            self.check()
        return self.look.answer(scan.found, scan.size)


@dataclass(frozen=True, slots=True)
class CompareLook:
    """A permitted look at the faces of one image."""

    look: Look

    def candidates(self, probe: Template, references: Sequence[Template]) -> Candidates:
        """Candidates among the references; their face ids are their indices, as text."""
        self.look.wait_for_intent()
        if not references:
            return self.look.answer([], 0)
        scores = [float(comparison_scores(probe.vector, reference.vector[None])[0]) for reference in references]
        names = [f"{i:04d}" for i in range(len(scores))]
        order = best_first(scores, names, len(scores))
        return self.look.answer([(str(i), scores[i]) for i in order], len(scores))


def actor(session: Session) -> dict[str, Any]:
    """Who did it, as an entry says it."""
    ids: Mapping[str, str] = {"request_id": session.request_id, "invocation_id": session.invocation_id}
    shown = {key: value for key, value in ids.items() if value}
    return {"operator": session.operator.name, "roles": list(session.operator.roles), "via": session.via, **shown}


def commitments(key: bytes, images: Sequence[bytes]) -> list[str]:
    """HMAC-SHA256 of each image under a key of its own look: checkable by who holds the key, linkable by nobody."""
    return [hmac.new(key, image, hashlib.sha256).hexdigest() for image in images]


def must_agree(card: Card, collection: Collection) -> None:
    """Raise BadRequest where a collection was made with another model: scores of two models mean nothing together."""
    if (collection.model_version, collection.model) != (card.model_version, card.model):
        raise BadRequest(
            f"the collection {collection.id} holds templates of model version {collection.model_version} ({collection.model}), this "
            f"server runs {card.model_version} ({card.model}): serve the pack it was made with, or index into a new collection"
        )
