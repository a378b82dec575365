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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NoReturn

import numpy as np

from aboveboard.accountability.operators import Session
from aboveboard.accountability.policy import Asked, Decision, Pack, Policies, decide
from aboveboard.biometrics.calibration import Calibration, alone, expected_false, fmr_at, fpir, similarity_for
from aboveboard.biometrics.matching import comparison_scores
from aboveboard.biometrics.vocabulary import Association, Basis, Candidate, Candidates, Findings, Pair, Stranger, Template
from aboveboard.errors import BadRequest, Busy, Error, Refused
from aboveboard.storage.collections import Collection, Collections
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.templates import Apart, PairScan, Permit, Templates
from aboveboard.vision.packs import Card, Models

POLICY_TAG = "aboveboard:policy"
NEAR = 0.9
"""The comparison score from which on two templates are of one photograph, or nearly: of copies that were scaled, cropped or saved anew
nine in ten reach it, of two photographs of one person two in a thousand (default pack, LFW)."""

Scored = tuple[str, float, int]
"""A reference, its best comparison score, and how many comparisons it is the best of."""
Check = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """What is looked up: images, enrolled faces, an enrolled person.

    Images are read once the look is decided; only a keyed commitment of each is recorded.
    `subject` is the handle of a person, which the record may keep.
    """

    images: tuple[Callable[[], bytes], ...] = ()
    face_ids: tuple[str, ...] = ()
    subject: str = ""

    def shown(self, key: bytes) -> dict[str, Any]:
        """The probe as the intent names it."""
        parts = {
            "commitments": commitments(key, [read() for read in self.images]),
            "face_ids": list(self.face_ids),
            "subject": self.subject,
        }
        return {name: part for name, part in parts.items() if part}


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
        duty = "search.image" if probe.images else "search.face"
        with self._look(session, duty, collection, threshold, limit, probe) as look:
            yield SearchLook(look, self._templates, self._permit(look, collection), self._check(look, collection), probe)

    @contextmanager
    def search_subjects(
        self, session: Session, collection: Collection, threshold: float | None, limit: int, probe: Probe
    ) -> Iterator[SubjectsLook]:
        """A look at the people of a collection, otherwise as `search`."""
        duty = "search.subjects.image" if probe.images else "search.subjects"
        with self._look(session, duty, collection, threshold, limit, probe) as look:
            yield SubjectsLook(look, self._templates, self._permit(look, collection), self._check(look, collection), probe)

    @contextmanager
    def associate(
        self, session: Session, collection: Collection, threshold: float | None, usual: float, probe: Probe
    ) -> Iterator[AssociateLook]:
        """A look at whether faces of a collection are alike enough to be one person's; `usual` is the API's default threshold."""
        with self._look(session, "subject.associate", collection, threshold, len(probe.face_ids), probe, usual) as look:
            yield AssociateLook(look, self._templates, self._permit(look, collection))

    @contextmanager
    def compare(self, session: Session, threshold: float | None, probe: Probe) -> Iterator[CompareLook]:
        """A look at the faces of one image for the face of another."""
        with self._look(session, "compare", None, threshold, 100, probe) as look:
            yield CompareLook(look)

    @contextmanager
    def check(self, session: Session, collection: Collection, threshold: float | None, limit: int) -> Iterator[CheckLook]:
        """A look at every face of a collection beside every other: are the ids right? Without a threshold chance brings one false pair."""
        n = collection.face_count
        least = math.ceil(10 * similarity_for(1, n * (n - 1) // 2)) / 10
        with self._look(session, "collection.check", collection, threshold, limit, Probe(), least=least) as look:
            # Faces of one subject are few comparisons: the pack's own threshold does for them.
            same = max(look.pack.threshold.absent, look.pack.threshold.floor)
            permits = self._permit(look, collection), self._permit(look, collection, same)
            yield CheckLook(look, self._templates, *permits, same, partial(self._still_stands, look, collection))

    def _permit(self, look: Look, collection: Collection, threshold: float | None = None) -> Permit:
        must_agree(self._models.card, collection)
        # A grain below, for the rounding of the way back; `answer` compares similarities exactly.
        floor = look.calibration.score_at(look.decision.threshold if threshold is None else threshold) - 1e-9
        return Permit(look.audit_id, collection.n, (collection.model_version, collection.model), floor, look.decision.limit)

    def _check(self, look: Look, collection: Collection) -> Check:
        """What a look asks once it has scanned a generation: does its decision still stand?"""

        def check(generation: int) -> None:
            if generation != collection.generation:
                self._still_stands(look, collection)

        return check

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
        usual: float | None = None,
        least: float = 0.0,
    ) -> Iterator[Look]:
        pack = self.policy_of(collection)
        decision = decide(pack, Asked(duty, session.operator.roles, threshold, limit, usual, least))
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
        intent = {
            **actor(session),
            "audit_id": audit_id,
            "duty": duty,
            "policy": {"id": pack.id, "version": pack.version, "sha256": pack.sha256},
            "threshold": {"value": decision.threshold, "origin": decision.origin, "floor": decision.floor},
            "limit": decision.limit,
            "probe": probe.shown(key),
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

    def shown(self, similarity: float) -> float:
        """A similarity as it is answered: cut (never rounded up) to four decimals, but not below the threshold that it reached."""
        cut = math.floor(similarity * 1e4) / 1e4
        return max(cut, self.decision.threshold) if similarity >= self.decision.threshold else cut

    def answer(
        self, scored: Iterable[Scored], gallery_size: int, kind: Literal["face_id", "subject"] = "face_id", best_of: int = 1
    ) -> Candidates:
        """Those at or above the threshold as candidates, best first, once their outcome is on the disk.

        `kind`: what a reference names; `best_of`: the most comparisons that one reference's score was the best of.
        """
        reached = [(reference, self.calibration.similarity_of_best(score, m), score) for reference, score, m in scored]
        kept = [item for item in reached if item[1] >= self.decision.threshold]
        kept.sort(key=lambda item: (-item[1], -item[2], item[0]))
        items = tuple(
            Candidate(rank, reference, self.shown(similarity), score)
            for rank, (reference, similarity, score) in enumerate(kept[: self.decision.limit], 1)
        )
        answered = [{kind: item.reference, "similarity": item.similarity} for item in items]
        basis = self._close(gallery_size, {"candidates": answered, "identities_withheld": self.decision.withhold_identities}, None, best_of)
        return Candidates(self.audit_id, basis, self.decision.withhold_identities, items)

    def associated(self, accepted: Sequence[str], refused: Mapping[str, float]) -> Association:
        """The faces that may be one person's and those that may not, once that is on the disk. A similarity below the floor stays here.

        The gallery is that one person: similarities are those of the best of his faces already.
        """
        below = [(face_id, self.shown(one) if one >= self.decision.floor else None) for face_id, one in refused.items()]
        named = [{"face_id": face_id} if one is None else {"face_id": face_id, "similarity": one} for face_id, one in below]
        basis = self._close(1, {"accepted": list(accepted), "below_threshold": named})
        return Association(self.audit_id, basis, tuple(accepted), tuple(below))

    def checked(self, scan: PairScan, strangers: Sequence[Apart], subject_faces: int, subject_threshold: float) -> Findings:
        """What a check of a gallery brought up, at most the limit of each kind, once that is on the disk."""
        similarity, limit = self.calibration.similarity, self.decision.limit
        pairs = tuple(
            Pair(one.face_ids, self.shown(similarity(one.score)), one.score >= NEAR, one.has_one_id)
            for one in scan.pairs
            if similarity(one.score) >= self.decision.threshold
        )
        below = ((one, similarity(one.score)) for one in strangers[:limit])
        odd = tuple(Stranger(one.face_id, math.floor(s * 1e4) / 1e4 if s >= self.decision.floor else None, one.faces) for one, s in below)
        comparisons = scan.size * (scan.size - 1) // 2
        fnmr = self.calibration.fnmr(subject_threshold)
        found = {
            "comparisons": comparisons,
            "near_duplicates": scan.near,
            "under_two_ids": scan.under_two_ids,
            "pairs": [{"face_ids": list(pair.face_ids), "similarity": pair.similarity} for pair in pairs],
            "subject_threshold": subject_threshold,
            "strangers": len(strangers),
            "faces": [one.face_id for one in odd],
            "identities_withheld": self.decision.withhold_identities,
        }
        basis = self._close(scan.size, found, comparisons)
        withheld, counts = self.decision.withhold_identities, (comparisons, scan.near, scan.under_two_ids)
        return Findings(self.audit_id, basis, withheld, *counts, pairs, subject_threshold, fnmr, subject_faces, len(strangers), odd)

    def _close(self, gallery_size: int, found: Mapping[str, Any], comparisons: int | None = None, best_of: int = 1) -> Basis:
        """Write the outcome; returns what it rests on. A search makes one comparison with each face of the gallery."""
        intent = self.wait_for_intent()
        basis = self._basis(gallery_size, gallery_size if comparisons is None else comparisons, best_of)
        rates = {"fmr": basis.fmr, "expected_false": basis.expected_false, "fpir": basis.fpir, "fnir": basis.fnir}
        self._is_closed = True
        outcome = {"audit_id": self.audit_id, "intent": intent, "looked": True, "gallery_size": gallery_size, **rates, **found}
        self._ledger.record("look.outcome", outcome)
        return basis

    def not_looked(self, reason: str) -> None:
        """Record that no comparison was answered, unless one was."""
        if not self._is_closed:
            self._is_closed = True
            intent = self.wait_for_intent()
            self._ledger.record("look.outcome", {"audit_id": self.audit_id, "intent": intent, "looked": False, "reason": reason})

    def _basis(self, gallery_size: int, comparisons: int, best_of: int) -> Basis:
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
            expected_false=expected_false(fmr, comparisons),
            fpir=fpir(fmr, comparisons) if fmr < 1 else float(comparisons > 0),
            fnir=self.calibration.fnmr(alone(threshold, best_of)) if threshold > 0 else 0.0,
            calibration=self.calibration.id,
            extrapolated=self.calibration.extrapolated(threshold),
        )


@dataclass(frozen=True, slots=True)
class SearchLook:
    """A permitted look into one collection."""

    look: Look
    templates: Templates
    permit: Permit
    check: Check
    probe: Probe

    def candidates(self, probe: Template | None = None) -> Candidates:
        """Candidates for a template, or, in a search by face id, for that face's own; the face itself is left out."""
        self.look.wait_for_intent()
        excluded = self.probe.face_ids
        vector = self.templates.of_faces(self.permit, excluded)[0] if probe is None else probe.vector
        scan = self.templates.search(self.permit, vector, excluded)
        self.check(scan.generation)
        return self.look.answer(((face_id, score, 1) for face_id, score in scan.found), scan.size)


@dataclass(frozen=True, slots=True)
class SubjectsLook:
    """A permitted look at the people of one collection."""

    look: Look
    templates: Templates
    permit: Permit
    check: Check
    probe: Probe

    def candidates(self, probe: Template | None = None) -> Candidates:
        """People for a template, or for the probe's enrolled faces; an enrolled probe's own face or person is left out."""
        self.look.wait_for_intent()
        face_ids, subject = self.probe.face_ids, self.probe.subject
        vectors = self.templates.of_faces(self.permit, face_ids) if probe is None else probe.vector[None]
        # A person as probe is left out whole; a face as probe only itself.
        scan = self.templates.search_subjects(self.permit, vectors, face_ids[0] if face_ids and not subject else "", subject)
        self.check(scan.generation)
        return self.look.answer(scan.found, scan.size, "subject", scan.comparisons)


@dataclass(frozen=True, slots=True)
class AssociateLook:
    """A permitted look at the faces that are, or are to be, one person's."""

    look: Look
    templates: Templates
    permit: Permit

    def accepted(self, own: Sequence[str], new: Sequence[str]) -> Association:
        """Which of the new faces reach the threshold with the person's own faces (best of them, as calibration has it).

        A person without faces gets the first new one as it is. Each face that is accepted counts as the person's own for the others,
        whatever their order.
        """
        self.look.wait_for_intent()
        known = [*own] or [new[0]]
        waiting = [face_id for face_id in new if face_id not in known]
        vectors = dict(zip([*known, *waiting], self.templates.of_faces(self.permit, [*known, *waiting]), strict=True))
        below: dict[str, float] = {}
        is_new = True
        while is_new:
            is_new = False
            references = np.stack([vectors[face_id] for face_id in known])
            below.clear()
            for face_id in waiting:
                best = float(comparison_scores(vectors[face_id], references).max())
                below[face_id] = self.look.calibration.similarity_of_best(best, len(references))
            reached = [face_id for face_id in waiting if below[face_id] >= self.look.decision.threshold]
            if reached:
                is_new = True
                known += reached
                waiting = [face_id for face_id in waiting if face_id not in reached]
        return self.look.associated([face_id for face_id in new if face_id in known], below)


@dataclass(frozen=True, slots=True)
class CheckLook:
    """A permitted look at all faces of one collection beside each other."""

    look: Look
    templates: Templates
    permit: Permit
    subject_permit: Permit
    subject_threshold: float
    still_stands: Callable[[], None]

    def findings(self, progress: Callable[[int, int], None]) -> Findings:
        """Pairs that are alike under two ids or nearly copies, and faces that are unlike their subject's others."""
        self.look.wait_for_intent()
        scan = self.templates.pairs(self.permit, NEAR, progress)
        strangers, judged = self.templates.apart(self.subject_permit)
        # The scan may last minutes: ask always, not only where the generation that it began with is another.
        self.still_stands()
        return self.look.checked(scan, strangers, judged, self.subject_threshold)


@dataclass(frozen=True, slots=True)
class CompareLook:
    """A permitted look at the faces of one image."""

    look: Look

    def candidates(self, probe: Template, references: Sequence[Template]) -> Candidates:
        """Candidates among the references; their face ids are their indices, as text."""
        self.look.wait_for_intent()
        if not references:
            return self.look.answer((), 0)
        scores = [float(comparison_scores(probe.vector, reference.vector[None])[0]) for reference in references]
        # Padded, so that ties keep the order of the references.
        return self.look.answer(((f"{i:04d}", score, 1) for i, score in enumerate(scores)), len(scores))


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
            f"server runs {card.model_version} ({card.model}): serve the pack that it is at, or re-index it: aboveboard collection reindex"
        )
