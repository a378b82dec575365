"""A suspension by a verb, while servers in processes of their own answer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError
from kit import assert_ledger_whole, null_settings, picture, process_serving
from test_standing import STRICT, SUSPENDED, documents, refused, verb

from aboveboard import bootstrap
from aboveboard.accountability.cases import Declared
from aboveboard.accountability.operators import AccessKey


def detective(data: Any) -> AccessKey:
    """Fill a strict deployment's folder before it is served; the detective's key."""
    app = bootstrap.open_app(null_settings(data, **STRICT))
    made = app.operators.first(app.gate.policy_of(None))
    assert made is not None
    pack = app.gate.policy_of(None)
    app.operators.add("second", ("admin",), "test", pack)
    app.operators.add("dana", ("investigator",), "test", pack)
    app.standing.certify("dana", "examiner", 1.0, "2999-01-01", "first")
    app.cases.open("24-1", "suspect", "dana", {"operator": "dana"}, offence="robbery")
    key = app.cases.credentials("24-1", Declared(), 3600, {"operator": "dana"})[0]
    app.database.close()
    return key


def test_workers_withhold_and_refuse_too(tmp_path: Any) -> None:
    """`serve --workers 2` under load, suspended by a verb: after it no search is answered; those under way have `withheld`."""
    data = tmp_path / "data"
    key = detective(data)
    answered: list[int] = []
    refusals: list[str] = []
    with process_serving(data, key, ["--workers", "2"], **STRICT) as server:
        stop, lock = threading.Event(), threading.Lock()

        def search(take: int) -> None:
            client = server.client()
            face = {"Bytes": picture(1)}
            while not stop.is_set():
                try:
                    client.compare_faces(SourceImage=face, TargetImage=face)
                    with lock:
                        answered.append(take)
                except ClientError as error:
                    with lock:
                        refusals.append(error.response["Error"]["Message"])

        threads = [threading.Thread(target=search, args=(take,)) for take in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answered) > 20)
        verb(data, "suspension", "make", "operator", "dana", "--because", "x", "--operator", "first")
        wait_for(lambda: len(refusals) > 10)
        stop.set()
        for thread in threads:
            thread.join(60)
    assert all(SUSPENDED in refusal for refusal in refusals)
    entries = ledger(data)
    made = next(entry["seq"] for entry in entries if entry["type"] == "suspension.made")
    after = [entry for entry in entries if entry["type"] == "look.outcome" and entry["seq"] > made]
    assert all(entry.get("withheld") == SUSPENDED for entry in after if entry["looked"])
    released = [entry for entry in entries if entry["type"] == "look.outcome" and "candidates" in entry]
    assert len(answered) == len(released)
    assert max(entry["seq"] for entry in released) < made


def wait_for(condition: Callable[[], bool]) -> None:
    limit = threading.Event()
    for _ in range(600):
        if condition():
            return
        limit.wait(0.1)
    raise AssertionError("it did not come about within a minute")


def ledger(data: Any) -> list[dict[str, Any]]:
    app = bootstrap.open_app(null_settings(data, **STRICT))
    try:
        return assert_ledger_whole(app)
    finally:
        app.database.close()


def test_a_running_process_obeys_a_verb(tmp_path: Any) -> None:
    """A server process of its own: suspended by the command line, it refuses the next request; nobody restarts it."""
    data = tmp_path / "data"
    key = detective(data)
    face = {"Bytes": picture(1)}
    with process_serving(data, key, **STRICT) as server:
        assert server.client().compare_faces(SourceImage=face, TargetImage=face)["FaceMatches"]
        (made,) = documents(verb(data, "suspension", "make", "system", "--because", "x", "--operator", "first", "--json"))
        refused(SUSPENDED, lambda: server.client().compare_faces(SourceImage=face, TargetImage=face))
        verb(data, "suspension", "lift", made["n"], "--operator", "first")
        verb(data, "suspension", "lift", made["n"], "--operator", "second")
        assert server.client().compare_faces(SourceImage=face, TargetImage=face)["FaceMatches"]
