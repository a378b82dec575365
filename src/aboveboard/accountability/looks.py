"""Looks: what the gate permits, and the only place where an operational score becomes an answer.

Each waits until its intent is on the disk, asks the template store under its permit, and writes its outcome before it answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, NoReturn

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from aboveboard.accountability.cases import Cases, CaseSession, Lead, commitment
from aboveboard.accountability.packs import Pack
from aboveboard.accountability.policy import CASEWORK, Asked, Decision, decide, judge_gallery
from aboveboard.biometrics.calibration import Calibration, alone, expected_false, fmr_at, fpir
from aboveboard.biometrics.gallery import BINS, LEAST, Factor, OwnScores, mean_and_spread
from aboveboard.biometrics.matching import comparison_scores
from aboveboard.biometrics.vocabulary import Association, Basis, Candidate, Candidates, Findings, GalleryScores, Pair, Stranger, Template
from aboveboard.errors import Refused
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.templates import Apart, PairScan, Permit, Templates

NEAR = 0.9
"""The comparison score from which on two templates are of one photograph, or nearly: of copies that were scaled, cropped or saved anew
nine in ten reach it, of two photographs of one person two in a thousand (default pack, LFW)."""

Scored = tuple[str, float, int]
"""A reference, its best comparison score, and how many comparisons it is the best of."""
Kind = Literal["face", "subject"]
"""What a search answers: faces, or people."""
Check = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Probe:
    """What is looked up: images, enrolled faces, an enrolled person.

    Images are read once the look is decided; only a keyed commitment of each is recorded, and of the faces that somebody is looked for by.
    `subject` is the handle of a person, which the record may keep.
    """

    images: tuple[Callable[[], bytes], ...] = ()
    face_ids: tuple[str, ...] = ()
    subject: str = ""

    def shown(self, key: bytes, duty: str) -> dict[str, Any]:
        """The probe as the intent names it."""
        searched = [face_id.encode() for face_id in self.face_ids] if duty in CASEWORK else []
        values = [*(read() for read in self.images), *searched]
        parts = {
            "commitments": [commitment(key, f"probe {i}", value) for i, value in enumerate(values, 1)],
            "face_ids": [] if searched else list(self.face_ids),
            "subject": self.subject,
        }
        return {name: part for name, part in parts.items() if part}


class Look:
    """One recorded look: its intent is being written, its outcome will be."""

    def __init__(
        self,
        audit_id: str,
        pack: Pack,
        asked: Asked,
        decision: Decision,
        calibration: Calibration,
        key: bytes,
        ledger: Ledger,
        cases: Cases,
        case: CaseSession | None,
        suspended: Callable[[sa.Connection], str],
    ) -> None:
        """`suspended` says, inside a transaction, what was suspended since the look was decided."""
        self.audit_id, self.pack, self.decision, self.calibration, self.key = audit_id, pack, decision, calibration, key
        self._ledger, self._cases, self._case, self._suspended = ledger, cases, case, suspended
        self._asked, self._announced = asked, decision
        self._intent: Future[int] = Future()
        self._is_closed = False

    def metered(self, comparisons: int) -> int:
        """With how many faces one is compared, those of the case so far among them: a thousand comparisons are a search of a thousand.

        The look is decided again with that number: a floor that keeps an FPIR rises with it, and so does what no threshold means.
        """
        size = comparisons
        try:
            with self._cases.metering(self._case.case.n, comparisons) if self._case else nullcontext(comparisons) as size:
                self.decision = self._decided_for(size)
        except Refused as refusal:
            # Not counted, for nothing is compared: what the message says to send must be enough the next time.
            self._withhold(refusal.rule, refusal.message, {"gallery_size": size})
        return size

    def _decided_for(self, comparisons: int) -> Decision:
        again = decide(self.pack, self._asked.with_comparisons(comparisons))
        if not again.is_allowed:
            raise Refused(again.message, rule=again.rule)
        return again

    def begin(self, intent: Future[int]) -> None:
        """The intent is being written."""
        self._intent = intent

    def note(self, connection: sa.Connection, intent: int) -> None:
        """Written with the intent: that the look belongs to its case."""
        if self._case is not None:
            self._cases.add_look(connection, self._case, self.audit_id, intent)

    def wait_for_intent(self) -> int:
        """Return once the intent is on the disk; raises Unavailable if it could not be written."""
        return self._intent.result()

    def shown(self, similarity: float) -> float:
        """A similarity as it is answered: cut (never rounded up) to four decimals, but not below the threshold that it reached."""
        cut = math.floor(similarity * 1e4) / 1e4
        return max(cut, self.decision.threshold) if similarity >= self.decision.threshold else cut

    def answer(
        self,
        scored: Iterable[Scored],
        gallery_size: int,
        kind: Kind = "face",
        best_of: int = 1,
        own: OwnScores | None = None,
        histogram: NDArray[np.int64] | None = None,
        references: int | None = None,
        owners: Mapping[str, tuple[int, int]] | None = None,
        people: int | None = None,
    ) -> Candidates:
        """Those at or above the threshold as candidates, best first, once their outcome is on the disk.

        Those below it, where the pack keeps them, are sealed with the case.

        `kind`: what a reference is; `best_of`: the most comparisons that one reference's score was the best of; `own`: the scores among
        the gallery's own faces; `histogram`: of all scores of this search; `references`: with how many this look
        itself compared, where the gallery is larger by those of its case so far; `owners` and `people`: as a `Scan` has them, by face.
        """
        reached = [(reference, self.calibration.similarity_of_best(score, m), score) for reference, score, m in scored]
        reached.sort(key=lambda item: (-item[1], -item[2], item[0]))
        kept = [item for item in reached if item[1] >= self.decision.threshold]
        # How far above the rest says something only where there is a rest.
        mean, spread = mean_and_spread(histogram) if histogram is not None and histogram.sum() >= LEAST else (0.0, 0.0)
        first: dict[int, int] = {}
        whose = [(owners or {}).get(reference, (-1, 1)) for reference, _, _ in kept[: self.decision.limit]]
        items = tuple(
            Candidate(
                rank,
                reference,
                self.shown(similarity),
                score,
                own.share(score) if own else None,
                (score - mean) / spread if spread else None,
                first.setdefault(owner, rank) if owner >= 0 else rank,
                # Rounded up: whoever holds the ledger could tell by their exact number whose they are.
                1 << (faces - 1).bit_length(),
            )
            for rank, ((reference, similarity, score), (owner, faces)) in enumerate(zip(kept, whose, strict=False), 1)
        )
        answered = [
            {"commitment": commitment(self.key, f"candidate {item.rank}", item.reference.encode()), "similarity": item.similarity}
            | ({"person": item.person, "faces": item.faces} if item.faces > 1 else {})
            for item in items
        ]
        found: dict[str, Any] = {"candidates": answered, "identities_withheld": self.decision.withhold_identities}
        if references is not None and references != gallery_size:
            found["references"] = references
        if people is not None:
            found["people"] = people
        leads = [
            Lead(reference, kind, math.floor(similarity * 1e4) / 1e4)
            for reference, similarity, _ in reached
            if self.decision.leads_floor <= similarity < self.decision.threshold
        ][: self.decision.leads_limit]
        if self.decision.leads_limit:
            found["below_threshold"] = len(leads)
        basis = self._close(gallery_size, found, None, best_of, own, leads)
        compared = gallery_size if references is None else references
        withheld, is_full = self.decision.withhold_identities, len(items) == self.decision.limit
        return Candidates(self.audit_id, basis, withheld, items, compared, is_full, people)

    def associated(self, accepted: Sequence[str], refused: Mapping[str, float]) -> Association:
        """The faces that may be one person's and those that may not, once that is on the disk. A similarity below the floor stays here.

        The gallery is that one person: similarities are those of the best of his faces already.
        """
        below = [(face_id, self.shown(one) if one >= self.decision.floor else None) for face_id, one in refused.items()]
        named = [{"face_id": face_id} if one is None else {"face_id": face_id, "similarity": one} for face_id, one in below]
        basis = self._close(1, {"accepted": list(accepted), "below_threshold": named})
        return Association(self.audit_id, basis, tuple(accepted), tuple(below))

    def checked(
        self, scan: PairScan, strangers: Sequence[Apart], subject_faces: int, subject_threshold: float, own: OwnScores | None
    ) -> Findings:
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
        basis = self._close(scan.size, found, comparisons, own=own)
        withheld, counts = self.decision.withhold_identities, (comparisons, scan.near, scan.under_two_ids)
        gallery = own.check(self.calibration) if own else None
        return Findings(
            self.audit_id, basis, withheld, *counts, pairs, subject_threshold, fnmr, subject_faces, len(strangers), odd, gallery
        )

    def measured(self, own: OwnScores | None, mated: NDArray[np.int64], mated_people: int) -> GalleryScores:
        """The scores among a gallery's own faces, and of its people with themselves, once it is on the disk that they were given out."""
        gallery = own.check(self.calibration) if own else None
        found = {"sampled_faces": gallery.faces, "pairs": gallery.pairs} if gallery else {"sampled_faces": 0, "pairs": 0}
        found["mated_pairs"] = int(mated.sum())
        self._record({**found, **_factor(gallery.factor if gallery else None)})
        return GalleryScores(self.audit_id, self.calibration.id, self.calibration.model_version, own, mated, mated_people, gallery)

    def _close(
        self,
        gallery_size: int,
        found: Mapping[str, Any],
        comparisons: int | None = None,
        best_of: int = 1,
        own: OwnScores | None = None,
        leads: Sequence[Lead] = (),
    ) -> Basis:
        """Write the outcome; returns what it rests on. A search makes one comparison with each face of the gallery."""
        basis = self._basis(gallery_size, gallery_size if comparisons is None else comparisons, best_of, own)
        factor = basis.gallery_factor
        has_reason = self._case is not None and bool(self._case.declared.reason)
        judged = judge_gallery(self.pack, factor.value if factor else None, has_reason=has_reason)
        if not judged.is_allowed:
            self._withhold(judged.rule, judged.message, _factor(factor))
        rates = {"fmr": basis.fmr, "expected_false": basis.expected_false, "fpir": basis.fpir, "fnir": basis.fnir}
        more = [one for one in (*self.decision.departures, *judged.departures) if one not in self._announced.departures]
        departed: dict[str, Any] = {"departures": more} if more else {}
        if self.decision.threshold != self._announced.threshold:
            departed["threshold"] = self.decision.threshold_facts()
        self._record({"gallery_size": gallery_size, **rates, **_factor(factor), **departed, **found}, leads)
        return basis

    def _record(self, found: Mapping[str, Any], leads: Sequence[Lead] = ()) -> None:
        """Write the outcome, unless somebody was suspended meanwhile: then that it is withheld."""
        intent = self.wait_for_intent()

        def beside(connection: sa.Connection, outcome: int) -> None:
            if suspended := self._suspended(connection):
                raise Refused(f"{suspended} was suspended while it was searched", rule=f"{self.pack.id}/suspended")
            self._noted(connection, outcome, leads)

        try:
            self._ledger.record("look.outcome", {"audit_id": self.audit_id, "intent": intent, "looked": True, **found}, beside=beside)
        except Refused as refusal:
            self._withhold(refusal.rule, f"Refused by rule {refusal.rule}: {refusal.message}.", {})
        self._is_closed = True

    def _withhold(self, rule: str, message: str, facts: Mapping[str, Any]) -> NoReturn:
        """Record that templates were compared and nothing of it was answered, and raise."""
        intent = self.wait_for_intent()
        self._is_closed = True
        outcome = {"audit_id": self.audit_id, "intent": intent, "looked": True, "withheld": rule, **facts}
        self._ledger.record("look.outcome", outcome, beside=self._noted)
        raise Refused(message, rule=rule)

    def _noted(self, connection: sa.Connection, outcome: int, leads: Sequence[Lead] = ()) -> None:
        """Written with the outcome: that it is the case's."""
        if self._case is not None:
            self._cases.end_look(connection, self.audit_id, outcome, leads)

    def not_looked(self, reason: str) -> None:
        """Record that no comparison was answered, unless one was."""
        if not self._is_closed:
            self._is_closed = True
            intent = self.wait_for_intent()
            outcome = {"audit_id": self.audit_id, "intent": intent, "looked": False, "reason": reason}
            self._ledger.record("look.outcome", outcome, beside=self._noted)

    def _basis(self, gallery_size: int, comparisons: int, best_of: int, own: OwnScores | None) -> Basis:
        threshold = self.decision.threshold
        ratio = own.ratio_at(self.calibration, threshold) if own and threshold > 0 else None
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
            gallery_factor=own.factor(self.calibration) if own else None,
            expected_false_own=None if ratio is None else expected_false(min(ratio * fmr, 1.0), comparisons),
            banner=self.pack.banner,
        )


@dataclass(frozen=True, slots=True)
class SearchLook:
    """A permitted look into one collection: at its faces, or at its people."""

    look: Look
    templates: Templates
    permit: Permit
    check: Check
    probe: Probe
    kind: Kind

    def candidates(self, probe: Template | None = None) -> Candidates:
        """Candidates for a template, or for the probe's enrolled faces; an enrolled probe's own face or person is left out."""
        self.look.wait_for_intent()
        face_ids, subject = self.probe.face_ids, self.probe.subject
        vectors = self.templates.of_faces(self.permit, face_ids) if probe is None else probe.vector[None]
        if self.kind == "face":
            faces = self.templates.search(self.permit, vectors[0], face_ids)
            self.check(faces.generation)
            found = ((face_id, score, 1) for face_id, score in faces.found)
            owners = {face_id: owner for (face_id, _), owner in zip(faces.found, faces.owners, strict=False)}
            return self.look.answer(found, faces.size, "face", 1, faces.own, faces.histogram, owners=owners, people=faces.people)
        # A person as probe is left out whole; a face as probe only itself.
        left_out = face_ids[0] if face_ids and not subject else ""
        people = self.templates.search_subjects(self.permit, vectors, self.look.calibration.alone, left_out, subject)
        self.check(people.generation)
        return self.look.answer(people.found, people.size, "subject", people.comparisons, people.own)


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
        own = self.templates.scores(self.permit)
        # The scan may last minutes: ask always, not only where the generation that it began with is another.
        self.still_stands()
        return self.look.checked(scan, strangers, judged, self.subject_threshold, own)


@dataclass(frozen=True, slots=True)
class ScoresLook:
    """A permitted look at how the scores among one collection's faces lie: counts, no pair of them."""

    look: Look
    templates: Templates
    permit: Permit
    still_stands: Callable[[], None]

    def scores(self) -> GalleryScores:
        """The counts, and what they say of the calibration."""
        self.look.wait_for_intent()
        own = self.templates.scores(self.permit)
        mated, people = self.templates.mated_scores(self.permit, NEAR) if own else (np.zeros(BINS, np.int64), 0)
        self.still_stands()
        return self.look.measured(own, mated, people)


@dataclass(frozen=True, slots=True)
class CompareLook:
    """A permitted look at the faces of one image."""

    look: Look

    def candidates(self, probe: Template, references: Sequence[Template]) -> Candidates:
        """Candidates among the references; their face ids are their indices, as text."""
        self.look.wait_for_intent()
        size = self.look.metered(len(references))
        scores = [float(comparison_scores(probe.vector, reference.vector[None])[0]) for reference in references]
        # Padded, so that ties keep the order of the references.
        return self.look.answer(((f"{i:04d}", score, 1) for i, score in enumerate(scores)), size, references=len(scores))


def _factor(factor: Factor | None) -> dict[str, Any]:
    return {} if factor is None else {"gallery_factor": asdict(factor)}
