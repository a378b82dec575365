"""The gate: decide, record, permit. The only way to a look, and looks are the only way to a similarity.

A look is a `with` block: entering it decides and starts the intent's entry; the look itself waits until that entry is on the
disk; leaving it without a look records why. A ledger that fails raises Unavailable and no template is compared.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from aboveboard.accountability.looks import AssociateLook, Check, CheckLook, CompareLook, Kind, Look, Probe, ScoresLook, SearchLook
from aboveboard.accountability.operators import Session
from aboveboard.accountability.policy import Asked, Decision, Pack, Policies, decide
from aboveboard.biometrics.calibration import Calibration, similarity_for
from aboveboard.biometrics.vocabulary import GalleryScores
from aboveboard.errors import BadRequest, Busy, Error, Refused
from aboveboard.storage.collections import Collection, Collections
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.templates import Permit, Templates
from aboveboard.vision.packs import Card, Models

POLICY_TAG = "aboveboard:policy"


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
        n = collection.face_count
        least = math.ceil(10 * similarity_for(1, n * (n - 1) // 2)) / 10
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
