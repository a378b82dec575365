"""Operators and their keys: added, rotated and revoked by the command line, as a running server sees it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from kit import Server, assert_ledger_whole
from typer.testing import CliRunner, Result

from aboveboard.accountability.operators import AccessKey
from aboveboard.cli import app
from aboveboard.errors import Unavailable
from aboveboard.storage.ledger import Ledger


@pytest.fixture
def run(own_server: Server) -> Callable[..., Result]:
    """run("rotate", "ben", by="chief"): a verb of `aboveboard operator` on the running server's data folder."""

    def call(*arguments: str, by: str = "first", code: int = 0) -> Result:
        words = ["operator", *arguments, "--operator", by, "--data", str(own_server.app.settings.data)]
        result = CliRunner().invoke(app, words, env={"ABOVEBOARD_PACK": "null", "COLUMNS": "120"})
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def made(result: Result) -> tuple[AccessKey, dict[str, Any]]:
    """The key that a verb has printed as JSON, and the whole document."""
    document = json.loads(result.stdout)
    return AccessKey(document["access_key_id"], document["secret_access_key"]), document


def listed(result: Result) -> dict[str, dict[str, dict[str, Any]]]:
    """operator -> key id -> facts, out of `operator list --json`."""
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    return {one["operator"]: {key["access_key_id"]: key for key in one["keys"]} for one in documents}


def works(server: Server, key: AccessKey) -> bool:
    """Whether the server takes a request signed with this key; the only refusal is that it does not know it."""
    code = server.post("ListCollections", {}, key).code
    assert code in ("", "UnrecognizedClientException")
    return not code


def test_a_rotated_key_and_the_old_one_both_work_until_the_old_one_is_revoked(own_server, run):
    old, _ = made(run("add", "ben", "--role", "enroller", "--bucket", "album", "--bucket", "photos", "--json"))
    new, document = made(run("rotate", "ben", "--json"))
    assert document["revoked"] == []
    assert new.id != old.id
    assert works(own_server, old)
    assert works(own_server, new)
    ended = json.loads(run("revoke", old.id, "--json").stdout)
    assert ended == {"operator": "ben", "revoked": [old.id], "has_admin_key": True}
    assert not works(own_server, old)
    assert works(own_server, new)
    keys = listed(run("list", "--json"))["ben"]
    assert [bool(keys[key.id]["revoked_at"]) for key in (old, new)] == [True, False]
    assert keys[old.id]["buckets"] == keys[new.id]["buckets"] == ["album", "photos"]


def test_revoking_ends_every_key_of_one_operator_alone(own_server, run):
    """With the next request: the client that is refused had been answered a moment before, on the same connection."""
    first, _ = made(run("add", "ben", "--role", "enroller", "--json"))
    second, _ = made(run("rotate", "ben", "--json"))
    other, _ = made(run("add", "eve", "--role", "auditor", "--json"))
    client = own_server.client(first)
    client.list_collections()
    assert f"revoked {first.id}, {second.id}\n" in run("revoke", "ben").stdout
    with pytest.raises(client.exceptions.ClientError, match="UnrecognizedClientException"):
        client.list_collections()
    assert [works(own_server, key) for key in (first, second, other)] == [False, False, True]
    before = own_server.entry_count()
    assert "no key was revoked" in run("revoke", "ben").stdout
    assert own_server.entry_count() == before


def test_a_key_that_is_revoked_while_its_body_comes_is_refused(own_server, run):
    """A request that began before ends unanswered."""
    key, _ = made(run("add", "ben", "--role", "auditor", "--json"))
    lines = "".join(f"{name}: {value}\r\n" for name, value in own_server.signed(b"{}", "RekognitionService.ListCollections", key).items())
    with socket.create_connection(("127.0.0.1", own_server.port), timeout=30) as wire:
        wire.sendall(f"POST / HTTP/1.1\r\n{lines}Content-Length: 2\r\n\r\n{{".encode())
        while not own_server.front.bodies.in_use:
            time.sleep(0.01)
        run("revoke", "ben")
        wire.sendall(b"}")
        assert b"UnrecognizedClientException" in wire.recv(65536)


def test_rotate_may_end_the_old_keys_and_change_the_buckets(own_server, run):
    old, _ = made(run("add", "ben", "--role", "enroller", "--bucket", "album", "--json"))
    new, document = made(run("rotate", "ben", "--bucket", "*", "--revoke-old", "--json"))
    assert document["revoked"] == [old.id]
    assert [works(own_server, key) for key in (old, new)] == [False, True]
    assert own_server.app.operators.by_key(new.id).buckets == ("*",)
    last, _ = made(run("rotate", "ben", "--no-bucket", "--json"))
    assert own_server.app.operators.by_key(last.id).buckets == ()
    run("rotate", "ben", "--no-bucket", "--bucket", "album", code=2)
    assert "'a/b'" in run("rotate", "ben", "--bucket", "a/b", code=2).stderr
    assert len(listed(run("list", "--json"))["ben"]) == 3


def test_everybody_may_change_his_own_key_and_only_an_admin_others(own_server, run):
    """His own: for the same buckets, and only while he has one that is not revoked, or he would undo what an admin did."""
    run("add", "ben", "--role", "enroller")
    run("add", "eve", "--role", "investigator")
    made(run("rotate", "ben", "--json", by="ben"))
    before = own_server.entry_count()
    for words in (("rotate", "eve"), ("revoke", "eve"), ("rotate", "ben", "--bucket", "*"), ("rotate", "first"), ("revoke", "nobody")):
        assert "needs the role admin" in run(*words, by="ben", code=3).stderr
    run("revoke", "ben", by="ben")
    assert "needs the role admin" in run("rotate", "ben", by="ben", code=3).stderr
    *refused, revoked, again = own_server.entries(before)
    assert [(one["type"], one["operator"], one["duty"]) for one in (*refused, again)] == [
        ("refused", "ben", duty) for duty in (f"operator.{verb}" for verb in ("rotate", "revoke", "rotate", "rotate", "revoke", "rotate"))
    ]
    assert (revoked["type"], revoked["by"]) == ("operator.revoked", "ben")
    key, _ = made(run("rotate", "ben", "--json"))
    assert works(own_server, key)


def test_each_change_is_in_the_ledger_by_whom_and_without_the_secret(own_server, run):
    before = own_server.entry_count()
    run("add", "chief", "--role", "admin")
    old, _ = made(run("add", "ben", "--role", "enroller", "--bucket", "album", "--json", by="chief"))
    new, _ = made(run("rotate", "ben", "--revoke-old", "--json", by="chief"))
    run("revoke", new.id, by="chief")
    _, added, rotated, revoked = (
        {name: value for name, value in entry.items() if name not in ("seq", "time")} for entry in own_server.entries(before)
    )
    common = {"operator": "ben", "by": "chief"}
    assert added == {**common, "type": "operator.added", "roles": ["enroller"], "access_key": old.id, "buckets": ["album"]}
    assert rotated == {**common, "type": "operator.rotated", "access_key": new.id, "buckets": ["album"], "revoked": [old.id]}
    assert revoked == {**common, "type": "operator.revoked", "access_keys": [new.id]}
    everything = json.dumps(assert_ledger_whole(own_server.app)) + run("list").output + run("list", "--json").output
    assert old.secret not in everything
    assert new.secret not in everything


def test_the_list_shows_keys_dates_and_buckets(run):
    key, _ = made(run("add", "ben", "--role", "enroller", "--bucket", "album", "--json"))
    run("revoke", key.id)
    (line,) = [line for line in run("list").stdout.splitlines() if key.id in line]
    assert re.fullmatch(rf" ben +enroller +none +{key.id} +album +(\d{{4}}-\d\d-\d\d) +\1 ", line)


def test_the_last_key_of_an_admin_may_be_revoked_but_not_silently(own_server, run):
    """A stolen key must end at once, whatever it was; the way back is on the machine."""
    result = run("revoke", "first")
    assert "no admin has an access key any more" in result.stderr
    assert "operator rotate NAME" in result.stderr
    assert not works(own_server, own_server.key)
    key, _ = made(run("rotate", "first", "--json"))
    own_server.client(key).create_collection(CollectionId="again")
    assert "no admin has" not in run("revoke", own_server.key.id).stderr


def test_who_is_not_there_is_said(run):
    for verb in ("rotate", "revoke"):
        assert "there is no operator and no access key 'nobody'" in run(verb, "nobody", code=2).stderr
    assert "does not look like an access key" in run("add", "ABKEYABCDEFGHIJKLMNO", "--role", "auditor", code=2).stderr


def test_a_change_that_cannot_be_recorded_does_not_happen(own_server, run, monkeypatch):
    """Key and entry are one transaction: the old key still works, and there is no new one."""

    def broken(*_: Any) -> int:
        raise Unavailable("the ledger does not answer")

    key, _ = made(run("add", "ben", "--role", "enroller", "--json"))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "append", broken)
        run("rotate", "ben", "--revoke-old", code=5)
        run("revoke", "ben", code=5)
    assert works(own_server, key)
    assert list(listed(run("list", "--json"))["ben"]) == [key.id]


def test_a_service_may_refuse_to_make_an_operator_whose_secret_would_be_logged(tmp_path):
    """--no-first-operator: it says what to do, prints no secret, and serves once somebody was added."""
    serve = [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--no-first-operator", "--data", str(tmp_path / "data")]
    done = subprocess.run(serve, env={"ABOVEBOARD_PACK": "null"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "operator add NAME --role admin" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    with sa.create_engine(f"sqlite:///{tmp_path / 'data' / 'aboveboard.db'}").connect() as connection:
        assert connection.execute(sa.text("select count(*) from operators")).scalar() == 0


def test_keys_that_are_changed_at_the_same_time_are_all_in_the_ledger(own_server, tmp_path):
    """Four processes rotate and end the old keys: one key is left, the newest, and every change has its entry."""
    own_server.operator("ben", "enroller")
    data = str(own_server.app.settings.data)
    rotate = [sys.executable, "-m", "aboveboard", "operator", "rotate", "ben", "--revoke-old", "--operator", "first", "--json"]
    running = [
        subprocess.Popen([*rotate, "--data", data], env={"ABOVEBOARD_PACK": "null"}, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    keys = [AccessKey(said["access_key_id"], said["secret_access_key"]) for said in (json.loads(one.communicate()[0]) for one in running)]
    entries = [entry for entry in assert_ledger_whole(own_server.app) if entry["type"] == "operator.rotated"]
    assert sorted(entry["access_key"] for entry in entries) == sorted(key.id for key in keys)
    assert [key.id for key in keys if works(own_server, key)] == [entries[-1]["access_key"]]
