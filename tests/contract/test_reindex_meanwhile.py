"""A collection is re-indexed while people search, enrol and remove, and after it was stopped: two models' scores never meet."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError
from kit import assert_ledger_whole, picture
from reindexing import answer, enrolled, faces, given, lengths, opened

from aboveboard.accountability.looks import Probe
from aboveboard.accountability.operators import Session
from aboveboard.errors import Busy
from aboveboard.service import analyse, reindex
from aboveboard.service.reindex import Original

REFUSED = {"ThrottlingException", "InvalidParameterException"}


def test_what_is_enrolled_and_removed_meanwhile_is_seen(old, originals):
    """The old server goes on: its new face is carried over too if its original came, the one that it removed is not missed."""
    enrolled(old, originals)
    rounds = []

    def now_given() -> list[Original]:
        rounds.append(len(rounds))
        if rounds == [0]:
            (originals / "late.png").write_bytes(picture(7))
            old.client().delete_faces(CollectionId="a", FaceIds=[faces(old)[-1]["FaceId"]])
            result = given(originals)
            enrolled(old, originals)
            return [one for one in result if "late" not in one.external_image_ids]
        return given(originals)

    app, session = opened(old)
    result = reindex.run(app, session, "a", now_given, workers=2)
    assert (result.is_switched, len(rounds)) == (True, 2)
    assert result.faces == len(faces(old)) == 7
    assert lengths(old) == {4 * 512}
    app.database.close()


def test_stopped_it_goes_on_where_it_was(old, originals, monkeypatch):
    """What has its new template is not looked at again; until the end the old server answers as ever."""
    enrolled(old, originals)
    before = answer(old.client(), 1)
    app, session = opened(old)
    stop = threading.Event()
    first = reindex.run(
        app, session, "a", lambda: given(originals), stopped=stop, progress=lambda done, _: stop.set() if done == 1 else None
    )
    assert first.is_stopped
    assert 0 < first.faces < 6
    assert answer(old.client(), 1) == before
    made = []
    real = analyse.template
    monkeypatch.setattr(analyse, "template", lambda *how: made.append(1) or real(*how))
    assert reindex.run(app, session, "a", lambda: given(originals)).is_switched
    assert len(made) == 6 - first.faces
    app.database.close()


@pytest.mark.parametrize("by", ["image", "face"])
def test_a_search_decided_before_the_switch_is_not_answered_after_it(old, originals, by):
    """Old probe, new templates: never compared, whichever of them was read first. It is recorded that nothing was answered."""
    enrolled(old, originals)
    asker = Session(old.app.operators.all()[0], "cli", "r")
    face = faces(old)[0]["FaceId"]
    answer(old.client(), 1)  # the old templates are in memory
    collection = old.app.collections.get("a")
    _, probe = analyse.probe(old.app, picture(1), "NONE", "the image")
    shown = Probe(images=(lambda: b"x",)) if by == "image" else Probe(face_ids=(face,))
    app, session = opened(old)

    def search() -> None:
        with old.app.gate.search(asker, collection, 50, 10, shown) as look:
            assert reindex.run(app, session, "a", lambda: given(originals)).is_switched
            look.candidates(probe if by == "image" else None)

    with pytest.raises(Busy, match="re-indexed"):
        search()
    outcome = old.entries()[-1]
    assert (outcome["type"], outcome["looked"], outcome["reason"]) == ("look.outcome", False, "Busy")
    app.database.close()


def test_two_models_never_meet_while_everybody_works(old, originals):
    """Searches of both kinds and enrolment go on through the switch-over: each is answered by the old model or refused, then refused."""
    enrolled(old, originals)
    expected = {subject: answer(old.client(), subject) for subject in range(1, 7)}
    face = faces(old)[0]["FaceId"]
    by_face = old.client().search_faces(CollectionId="a", FaceId=face, FaceMatchThreshold=50)["FaceMatches"]
    over = threading.Event()
    answered: list[int] = []
    codes: set[str] = set()

    def ask(worker: int) -> None:
        client, is_refused, turn = old.client(), False, 0
        while not (over.is_set() and is_refused):
            turn += 1
            try:
                if worker % 2:
                    assert client.search_faces(CollectionId="a", FaceId=face, FaceMatchThreshold=50)["FaceMatches"] == by_face
                else:
                    subject = turn % 6 + 1
                    assert answer(client, subject) == expected[subject]
                assert not is_refused, "answered after it was refused"
                answered.append(1)
            except ClientError as error:
                codes.add(error.response["Error"]["Code"])
                is_refused = True

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, worker) for worker in range(4)]
        app, session = opened(old)
        result = reindex.run(app, session, "a", lambda: given(originals))
        over.set()
        for one in asking:
            one.result()
    assert result.is_switched
    assert answered
    assert codes <= REFUSED
    with pytest.raises(ClientError, match="InvalidParameterException"):
        old.client().index_faces(CollectionId="a", Image={"Bytes": picture(9)})
    assert lengths(old) == {4 * 512}
    app.database.close()
    assert_ledger_whole(old.app)
