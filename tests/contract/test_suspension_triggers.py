"""What suspends by itself: refused looks, a pack that has ended (which refuses and suspends nobody), a ledger that is not whole."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from kit import Server, null_settings, picture, serving

from aboveboard import bootstrap
from aboveboard.accountability import standing as accountability
from aboveboard.accountability.operators import Session
from aboveboard.service import record
from aboveboard.service import standing as service
from aboveboard.storage.ledger import BLOCK

FACE = {"Bytes": picture(1)}
FLOOR = "threshold.floor"


def compare(client: Any, threshold: float = 99.0) -> str:
    """The rule that refuses a comparison, without its pack; empty where it is answered."""
    try:
        client.compare_faces(SourceImage=FACE, TargetImage=FACE, SimilarityThreshold=threshold)
    except ClientError as error:
        return error.response["Error"]["Message"].split("/", 1)[1].partition(":")[0]
    return ""


def lift(server: Server, n: int) -> None:
    """By two admins."""
    for name in ("lifting-1", "lifting-2"):
        if name not in {one.name for one in server.app.operators.all()}:
            server.operator(name, "admin")
        service.lift(server.app, Session(server.app.operators.named(name), "cli", "test"), n)


def suspensions(server: Server) -> list[tuple[str, str, str]]:
    return [(one.scope, one.target, one.by) for one in server.app.standing.all() if not one.lifted_at]


def test_twenty_refused_looks_suspend(make_server: Callable[..., Server]) -> None:
    """public-safety: the twentieth within 24 hours, in its own transaction; answered looks between do not count, nor other people's."""
    server = make_server(default_policy="public-safety")
    client, other = server.client(server.detective("dana")), server.client(server.detective("eve"))
    for i in range(19):
        assert compare(client, 98) == FLOOR
        assert i % 5 or compare(client) == ""
        assert i % 9 or compare(other, 98) == FLOOR
    assert suspensions(server) == []
    before = server.entry_count()
    assert compare(client, 98) == FLOOR
    refused, made = server.entries(before)
    assert (refused["type"], made["type"]) == ("refused", "suspension.made")
    assert (made["scope"], made["target"], made["by"]) == ("operator", "dana", "aboveboard")
    assert made["because"] == "public-safety/suspension"
    assert compare(client) == "suspended"
    assert compare(other) == ""
    for _ in range(30):  # being refused because one is suspended counts for nothing
        compare(client)
    lift(server, made["suspension"])
    assert [compare(client, 98) for _ in range(19)] == [FLOOR] * 19  # what led to it before does not lead to the next
    assert compare(client) == ""
    assert compare(client, 98) == FLOOR
    assert compare(client) == "suspended"


def test_the_last_admin_is_not_suspended_by_himself(make_server: Callable[..., Server]) -> None:
    """Or nobody could have it lifted; with another admin beside him he is."""
    server = make_server(default_policy="public-safety")
    for _ in range(25):
        assert compare(server.client()) == "roles"
    assert suspensions(server) == []
    server.operator("second", "admin")
    assert compare(server.client()) == "roles"
    assert suspensions(server) == [("operator", "first", "aboveboard")]


def test_refusals_are_forgotten_after_a_day(make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nineteen now and one in 25 hours suspend nobody."""
    server = make_server(default_policy="public-safety")
    client = server.client(server.detective("dana"))
    for _ in range(19):
        compare(client, 98)
    with sqlite3.connect(server.app.database.file) as raw:  # they happened a day ago
        raw.execute("UPDATE violations SET at = '2020-01-01T00:00:00.000Z'")
    assert compare(client, 98) == FLOOR
    assert compare(client) == ""
    assert accountability.ITSELF not in {by for *_, by in suspensions(server)}


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    folder = tmp_path / "packs"
    folder.mkdir()
    text = '\n[suspension]\nrefusals = 3\nscope = "unit"\n'
    (folder / "unit.toml").write_text(f'extends = "general"\nid = "by-unit"\nversion = "1"\n{FLOORED}{text}mode = "enforce"\nhours = 24\n')
    (folder / "ended.toml").write_text('extends = "public-safety"\nid = "ended"\nversion = "1"\neffective_to = "2026-01-01"\n')
    return folder


FLOORED = "[threshold]\nfloor = 90.0\nabsent = 95.0\n"


def test_a_unit_is_suspended_together(make_server: Callable[..., Server], packs: Path) -> None:
    """Scope `unit`: refusals of its people count together, and all of them are suspended; who has no unit counts alone."""
    server = make_server(default_policy="by-unit", policies=str(packs))
    pack = server.app.gate.policies.get("by-unit")
    people = {
        name: server.client(server.app.operators.add(name, ("investigator",), "test", pack, (), unit))
        for name, unit in {"ann": "vice", "bob": "vice", "carl": "fraud", "loner": ""}.items()
    }
    for name in ("ann", "bob", "loner", "loner", "carl"):
        assert compare(people[name], 10) == FLOOR
    assert suspensions(server) == []
    assert compare(people["bob"], 10) == FLOOR
    assert suspensions(server) == [("unit", "vice", "aboveboard")]
    assert [compare(people[name]) for name in ("ann", "bob", "carl", "loner")] == ["suspended", "suspended", "", ""]
    assert compare(people["loner"], 10) == FLOOR
    assert suspensions(server)[1:] == [("operator", "loner", "aboveboard")]


def test_general_suspends_nobody(own_server: Server) -> None:
    """A hundred refused searches under `general` (of somebody without the role) leave everybody as he was, and no count."""
    client = own_server.client(own_server.operator("clerk", "enroller"))
    assert [compare(client) for _ in range(100)] == ["roles"] * 100
    assert suspensions(own_server) == []
    with sqlite3.connect(own_server.app.database.file) as raw:
        assert raw.execute("SELECT count(*) FROM violations").fetchone() == (0,)
    assert compare(own_server.client()) == ""


def test_an_expired_pack_denies_and_suspends_nobody(make_server: Callable[..., Server], packs: Path) -> None:
    """Every look is refused from its end on; that is the deployment's doing, and not a violation of who searches."""
    server = make_server(default_policy="ended", policies=str(packs))
    client = server.client(server.detective("dana"))
    assert [compare(client) for _ in range(25)] == ["effective"] * 25
    assert suspensions(server) == []


# --- the ledger --------------------------------------------------------------------------------------------------------------


def edit(server: Server, statement: str, *values: Any) -> None:
    """As somebody with a shell does it."""
    with sqlite3.connect(server.app.database.file) as raw:
        assert raw.execute(statement, values).rowcount


def change(server: Server, seq: int) -> None:
    """Another word in an entry, of the same length."""
    edit(server, 'UPDATE ledger SET entry = replace(entry, \'"time":"2\', \'"time":"3\') WHERE seq = ?', seq)
    edit(server, "UPDATE ledger SET entry = CAST(entry AS BLOB) WHERE seq = ?", seq)


ATTACKS: dict[str, Callable[[Server], None]] = {
    "an entry changed": lambda server: change(server, 2),
    "an entry removed": lambda server: edit(server, "DELETE FROM ledger WHERE seq = 2"),
    "an entry that is no bytes": lambda server: edit(server, "UPDATE ledger SET entry = 'text' WHERE seq = 3"),
    "another root": lambda server: edit(server, "UPDATE ledger_state SET subtrees = randomblob(length(subtrees))"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_ledger_that_was_changed_suspends_the_system(
    make_server: Callable[..., Server], attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Found before the next checkpoint is signed: the log says so, the system is suspended by itself, the next look is refused."""
    server = make_server(default_policy="public-safety")
    client = server.client(server.detective("dana"))
    assert compare(client) == ""
    record.sign(server.app)
    assert compare(client) == ""
    assert not caplog.records
    ATTACKS[attack](server)
    record.sign(server.app)
    assert "the ledger is not whole" in caplog.text
    assert [(one.levelno, one.name) for one in caplog.records] == [(logging.ERROR, "aboveboard.ledger")]
    assert suspensions(server) == [("system", "", "aboveboard")]
    assert compare(client) == "suspended"


def test_a_ledger_that_was_put_back_suspends_the_system(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file of an hour ago, whole in itself, under the checkpoints of now: found when it is served again."""
    chosen = null_settings(tmp_path / "data", default_policy="public-safety")
    with serving(chosen) as server:
        key = server.key
    old = server.app.database.file.read_bytes()
    with serving(chosen, key) as server:
        server.client().create_collection(CollectionId="c")
        kept = record.sign(server.app)
    server.app.database.file.write_bytes(old)
    with serving(chosen, key) as server:
        record.sign(server.app)
        assert suspensions(server) == [("system", "", "aboveboard")]
        assert f"{kept.file.name} signs {kept.size}" in caplog.text
        # Two people have looked into it: it is signed as it is, and stays lifted.
        lift(server, 1)
        record.sign(server.app)
        assert suspensions(server) == []


def test_under_general_only_the_log_says_so(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Its pack sets no trigger: the error is logged, nobody is suspended, checkpoints go on."""
    client = own_server.client()
    assert compare(client) == ""
    record.sign(own_server.app)
    change(own_server, 1)
    before = len(own_server.app.checkpoints.files())
    own_server.app.ledger.record("refused", {})
    record.sign(own_server.app)
    assert "the ledger is not whole" in caplog.text
    assert suspensions(own_server) == []
    assert compare(client) == ""
    assert len(own_server.app.checkpoints.files()) == before + 1


def test_checkpoints_that_cannot_be_read_are_passed_over(own_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """One that a crash cut off, an empty one, another deployment's: the newest that holds counts."""
    assert compare(own_server.client()) == ""
    kept = record.sign(own_server.app)
    (kept.file.parent / "000000009999-00000000.checkpoint").write_bytes(kept.note[:40])
    (kept.file.parent / "000000009998-00000000.checkpoint").write_bytes(b"")
    record.sign(own_server.app)
    assert not caplog.records
    change(own_server, 1)
    record.sign(own_server.app)
    assert "the ledger is not whole" in caplog.text


def test_an_old_entry_is_found_by_the_servers_walk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a block that a checkpoint takes as hashed already: the thread of a server that starts hashes it again, and suspends."""
    app = bootstrap.open_app(null_settings(tmp_path / "data", default_policy="public-safety"))
    for _ in range(BLOCK + 10):
        app.ledger.record("refused", {})
    record.sign(app)
    with sqlite3.connect(app.database.file) as raw:
        raw.execute("UPDATE ledger SET entry = CAST('{}' AS BLOB) WHERE seq = 17")
    record.sign(app)
    assert app.standing.all() == []
    with record.served(app):
        for _ in range(600):
            if app.standing.all():
                break
            time.sleep(0.1)
    (found,) = app.standing.all()
    assert (found.scope, found.by) == ("system", "aboveboard")
    assert found.because == "public-safety/suspension: the entries 0 to 255 are not those that were written"
    assert "the ledger is not whole" in caplog.text
    app.database.close()
