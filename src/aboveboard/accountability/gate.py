"""The gate: decide, record, permit. The only way to a look, and looks are the only way to a similarity.

A look is a `with` block: entering it decides and starts the intent's entry; the look itself waits until that entry is on the
disk; leaving it without a look records why. A ledger that fails raises Unavailable and no template is compared.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import sqlalchemy as sa

from aboveboard.accountability.cases import Cases, declaration
from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.looks import AssociateLook, Check, CheckLook, CompareLook, Kind, Look, Probe, ScoresLook, SearchLook
from aboveboard.accountability.operators import Session
from aboveboard.accountability.packs import Pack
from aboveboard.accountability.policy import (
    CASEWORK,
    LOOKS,
    POLICY_TAG,
    UPKEEP,
    WRITES,
    Asked,
    Certificate,
    Decision,
    decide,
    least_of_check,
)
from aboveboard.accountability.standing import Standing
from aboveboard.biometrics.vocabulary import GalleryScores
from aboveboard.errors import BadRequest, Busy, Error, Refused
from aboveboard.storage import commitments
from aboveboard.storage.collections import Collection, Collections
from aboveboard.storage.database import now
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.templates import Permit, Templates
from aboveboard.vision.model_cards import Card
from aboveboard.vision.packs import Models


class Gate:
    """Stands between the services and every score."""

    def __init__(
        self,
        policies: Policies,
        ledger: Ledger,
        collections: Collections,
        templates: Templates,
        models: Models,
        standing: Standing,
        cases: Cases,
    ) -> None:
        self.policies = policies
        self._ledger, self._collections, self._templates, self._models = ledger, collections, templates, models
        self._standing, self._cases = standing, cases
        self._writer = ThreadPoolExecutor(max_workers=4, thread_name_prefix="ledger")

    def policy_of(self, collection: Collection | None, at: str = "") -> Pack:
        """The pack that a collection, or without one the deployment, stands under at a time, else now."""
        time = at or now()
        return self.policies.default(time) if collection is None else self.policies.of(collection.tags.get(POLICY_TAG), time)

    def minimum(self) -> Pack:
        """The pack that no collection may stand below now."""
        return self.policies.minimum(now())

    def authorise(self, session: Session, duty: str, collection: Collection | None = None, threshold: float | None = None) -> Decision:
        """Whether the operator may do this; raises Refused, on record. `threshold`: of a look that is still to come."""
        time = now()
        pack = self.policy_of(collection, time)
        self._check_open(session, duty, pack, collection)
        suspended, _ = self._stands(session, duty, collection)
        asked = Asked(duty, session.operator.roles, time, threshold, suspended=suspended)
        decision = decide(pack, asked)
        if not decision.is_allowed:
            self._refuse(session, pack, asked, decision, collection)
        return decision

    def refuse(self, session: Session, duty: str, rule: str, message: str, collection: Collection | None = None, **facts: Any) -> NoReturn:
        """Record a refusal and raise it."""
        self._ledger.record("refused", _refusal(session, duty, rule, collection, facts))
        raise Refused(message, rule=rule)

    def _refuse(self, session: Session, pack: Pack, asked: Asked, decision: Decision, collection: Collection | None) -> NoReturn:
        """Refuse by a pack, with all that the decision rests on, so that it can be made again; it may suspend who is refused again."""
        facts = {"policy": pack_facts(pack), "asked": asked.plain()} | ({} if asked.threshold is None else {"threshold": asked.threshold})
        shown = _refusal(session, asked.duty, decision.rule, collection, facts)
        self._standing.refused(session.operator, asked.duty, decision.rule, pack, shown)
        raise Refused(decision.message, rule=decision.rule)

    def _stands(self, session: Session, duty: str, collection: Collection | None) -> tuple[str, Certificate | None]:
        """What of all that the duty concerns is suspended, in words, and the operator's certificate where it needs one."""
        if duty in UPKEEP:
            return self._standing.himself_suspended(session.operator), None
        if duty not in LOOKS | WRITES:
            return "", None
        return self._standing.of(session.operator, _row(collection), with_certificate=duty in CASEWORK)

    def _check_open(self, session: Session, duty: str, pack: Pack, collection: Collection | None) -> None:
        """Refuse what a closed case's keys are used for besides looks in it, about which the pack decides."""
        if session.case and session.case.case.closed_at and duty not in CASEWORK:
            rule = f"{pack.id}/case"
            self.refuse(
                session, duty, rule, f"Refused by rule {rule}: the case is closed; use a key of another, or a lasting one.", collection
            )

    def still_allowed(self, session: Session, made: str, collection: Collection | None) -> Decision:
        """The decision about a look of this duty that was made in a case before, as it would be now, thresholds apart.

        Before its leads are disclosed; the session declares what the look did. Raises Refused, on record.
        """
        time = now()
        pack = self.policy_of(collection, time)
        asked = self._asked(session, made, time, collection, 100.0, 0, None, 0.0)
        decision = decide(pack, asked)
        if not decision.is_allowed:
            facts = {"policy": pack_facts(pack), "asked": asked.plain(), "threshold": asked.threshold, "made": made}
            self.refuse(session, "case.leads", decision.rule, decision.message, collection, **facts)
        return decision

    @contextmanager
    def search(
        self, session: Session, collection: Collection, threshold: float | None, limit: int, probe: Probe, kind: Kind = "face"
    ) -> Iterator[SearchLook]:
        """A look into a collection. Use the block to make the template; then ask the look for its candidates, once."""
        image, enrolled = ("search.image", "search.face") if kind == "face" else ("search.subjects.image", "search.subjects")
        with self._look(session, image if probe.images else enrolled, collection, threshold, limit, probe) as look:
            yield SearchLook(look, self._templates, self._permit(look, collection), self._check(look, collection), probe, kind)

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
        least = least_of_check(collection.face_count)
        with self._look(session, "collection.check", collection, threshold, limit, Probe(), least=least) as look:
            # Faces of one subject are few comparisons: the pack's own threshold does for them.
            same = max(look.pack.threshold.absent, look.pack.threshold.floor)
            permits = self._permit(look, collection), self._permit(look, collection, same)
            yield CheckLook(look, self._templates, *permits, same, partial(self._still_stands, look, collection))

    def gallery_scores(self, session: Session, collection: Collection) -> GalleryScores:
        """How the scores among a collection's own faces lie, as counts, for the laboratory: a look of its own, on record."""
        with self._look(session, "collection.scores", collection, None, 0, Probe()) as look:
            # Nothing but counts: no score of a pair may leave the store.
            permit = self._permit(look, collection, 100.0)
            return ScoresLook(look, self._templates, permit, partial(self._still_stands, look, collection)).scores()

    def _permit(self, look: Look, collection: Collection, threshold: float | None = None) -> Permit:
        must_agree(self._models.card, collection)
        # A grain below, for the rounding of the way back; `answer` compares similarities exactly.
        decision = look.decision
        lowest = min(decision.threshold, decision.leads_floor) if threshold is None else threshold
        limit = decision.limit + (decision.leads_limit if threshold is None else 0)
        floor = look.calibration.score_at(lowest) - 1e-9
        return Permit(look.audit_id, collection.n, (collection.model_version, collection.model), floor, limit)

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

    def warm(self) -> None:
        """Do now what the first look at a large collection would have to wait for."""
        self._templates.warm()

    def close(self) -> None:
        """Keep what is in memory for the next start."""
        self._templates.close()

    def refresh(self, collection: Collection) -> None:
        """Have no template in memory or cache that was removed from a collection."""
        self._templates.refresh(collection.n)

    def forget(self, collection: int) -> None:
        """Drop the templates of a deleted collection, by its row, from memory and cache."""
        self._templates.forget(collection)

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
        time = now()
        pack = self.policy_of(collection, time)
        self._check_open(session, duty, pack, collection)
        asked = self._asked(session, duty, time, collection, threshold, limit, usual, least)
        decision = decide(pack, asked)
        if not decision.is_allowed:
            self._refuse(session, pack, asked, decision, collection)
        calibration = self._models.calibration
        if calibration is None:
            text = f"the model pack '{self._models.card.id}' has no calibration, so it answers no similarity; run: aboveboard calibrate"
            self.refuse(session, duty, "calibration", text, collection)
        key = os.urandom(32)
        audit_id = str(uuid.uuid4())
        case, suspended = session.case if duty in CASEWORK else None, self._now_suspended(session, collection)
        look = Look(audit_id, pack, asked, decision, calibration, key, self._ledger, self._cases, case, suspended)
        intent = self._intent(session, asked, audit_id, look, probe)
        gallery = partial(_gallery, collection) if collection else None
        look.begin(self._writer.submit(self._ledger.record, "look.intent", intent, key, look.note, gallery))
        try:
            yield look
        except Error as error:
            look.not_looked(type(error).__name__)
            raise
        except BaseException:
            look.not_looked("defect")
            raise
        look.not_looked("nothing to compare")

    def _asked(
        self, session: Session, duty: str, time: str, collection: Collection | None,
        threshold: float | None, limit: int, usual: float | None, least: float,
    ) -> Asked:  # fmt: skip
        """All that the decision about a look rests on."""
        case = session.case
        alone = case.case.comparisons + 1 if case else 1
        suspended, certificate = self._stands(session, duty, collection)
        return Asked(
            duty,
            session.operator.roles,
            time,
            threshold,
            limit,
            usual,
            least,
            collection.face_count if collection else alone,
            case.facts if case and duty in CASEWORK else None,
            certificate,
            suspended,
        )

    def _now_suspended(self, session: Session, collection: Collection | None) -> Callable[[sa.Connection], str]:
        """What an outcome asks before it is written: was anything suspended since the look was decided?"""
        return partial(self._standing.suspended, session.operator, _row(collection))

    def _intent(self, session: Session, asked: Asked, audit_id: str, look: Look, probe: Probe) -> dict[str, Any]:
        card, decision, case = self._models.card, look.decision, session.case
        intent = {
            **actor(session),
            "audit_id": audit_id,
            "duty": asked.duty,
            "policy": pack_facts(look.pack),
            "asked": asked.plain(),
            "threshold": decision.threshold_facts(),
            "limit": decision.limit,
            "probe": probe.shown(look.key, asked.duty),
            "model": {"pack": card.id, "version": card.model_version, "sha256": [part.sha256 for part in card.files]},
            "calibration": {"id": look.calibration.id, "sha256": look.calibration.sha256},
        }
        if decision.departures:
            intent["departures"] = list(decision.departures)
        if case is not None and asked.case is not None:
            intent |= {"case": case.case.handle, "declared": declaration(case.case, case.declared)}
        return intent


def _gallery(collection: Collection, connection: sa.Connection) -> dict[str, Any]:
    """The gallery of a look as it is when the intent is written: so it follows from the entries before."""
    return {"collection": commitments.gallery(connection, collection.n)}


def _row(collection: Collection | None) -> str:
    """How suspensions know a collection: a name may be another's tomorrow."""
    return str(collection.n) if collection else ""


def _refusal(session: Session, duty: str, rule: str, collection: Collection | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    named = {"collection": collection.id} if collection else {}
    held = {"case": session.case.case.handle} if session.case else {}
    return {**actor(session), "duty": duty, "rule": rule, **named, **held, **facts}


def pack_facts(pack: Pack) -> dict[str, str]:
    """A pack as entries name it."""
    return {"id": pack.id, "version": pack.version, "sha256": pack.sha256}


def actor(session: Session) -> dict[str, Any]:
    """Who did it, as an entry says it."""
    ids: Mapping[str, str] = {"request_id": session.request_id, "invocation_id": session.invocation_id}
    shown = {key: value for key, value in ids.items() if value}
    return {"operator": session.operator.name, "roles": list(session.operator.roles), "via": session.via, **shown}


def must_agree(card: Card, collection: Collection) -> None:
    """Raise BadRequest where a collection was made with another model: scores of two models mean nothing together."""
    if (collection.model_version, collection.model) != (card.model_version, card.model):
        raise BadRequest(
            f"the collection {collection.id} holds templates of model version {collection.model_version} ({collection.model}), this "
            f"server runs {card.model_version} ({card.model}): serve the pack that it is at, or re-index it: aboveboard collection reindex"
        )
