"""Backup and restore: a snapshot under load that is a deployment of its own; whatever is not as it was made is refused, untouched."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit import assert_ledger_whole, null_settings, picture, process_serving, serving
from typer.testing import CliRunner

from aboveboard import bootstrap
from aboveboard.accountability.operators import AccessKey
from aboveboard.cli import app as program
from aboveboard.errors import Unavailable
from aboveboard.service import keep
from aboveboard.storage.database import Database


def aboveboard(*words: object, code: int = 0) -> Any:
    """What a verb on the null pack prints as JSON, or its complaint."""
    done = CliRunner().invoke(program, [*map(str, words), "--json"], env={"ABOVEBOARD_PACK": "null"})
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.stdout) if code < 2 else done.stderr


def index(client, subject):
    answer = client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)}, ExternalImageId=f"e{subject}")
    return answer["FaceRecords"][0]["Face"]["FaceId"]


def listed(client) -> dict[str, str]:
    return {
        face["FaceId"]: face["ExternalImageId"]
        for page in client.get_paginator("list_faces").paginate(CollectionId="a")
        for face in page["Faces"]
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, AccessKey]:
    """A folder with a closed deployment, `data`, with a collection `a` of three faces, and its backup, `backup`; never changed."""
    folder = tmp_path_factory.mktemp("original")
    with serving(null_settings(folder / "data")) as server:
        client = server.client()
        client.create_collection(CollectionId="a")
        for subject in range(3):
            index(client, subject)
    server.app.database.close()
    aboveboard("backup", folder / "backup", "--data", folder / "data")
    return folder, server.key


@pytest.fixture
def deployment(original, tmp_path) -> Path:
    return Path(shutil.copytree(original[0] / "data", tmp_path / "data"))


@pytest.fixture
def backup(original, tmp_path) -> Path:
    return Path(shutil.copytree(original[0] / "backup", tmp_path / "backup"))


def test_a_backup_under_load_is_served_elsewhere(tmp_path):
    """While a server indexes: what was acknowledged before is in it, rows and ledger are of one moment, boto3 finds everybody in it."""
    data, there, elsewhere = tmp_path / "data", tmp_path / "backup", tmp_path / "elsewhere"
    with process_serving(data) as server:
        client = server.client()
        client.create_collection(CollectionId="a")
        acknowledged, enough, stop = list[str](), threading.Event(), threading.Event()

        def write():
            for subject in range(10_000):
                acknowledged.append(index(client, subject))
                if subject == 8:
                    enough.set()
                if stop.is_set():
                    return

        writer = threading.Thread(target=write)
        writer.start()
        assert enough.wait(60)
        before = list(acknowledged)
        manifest = aboveboard("backup", there, "--data", data)
        after = len(acknowledged)
        stop.set()
        writer.join(60)
        assert "stop it first" in aboveboard("restore", there, "--data", data, "--replace", code=5)
        key = server.key
    assert after > len(before)
    assert sorted(file.name for file in there.iterdir()) == ["aboveboard.db", "manifest.json", "master.key"]
    assert there.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in there.iterdir()} == {0o600}
    assert aboveboard("doctor", "--data", there)["is_well"]
    aboveboard("restore", there, "--data", elsewhere)
    with serving(null_settings(elsewhere), key) as server:
        faces = listed(server.client())
        assert set(before) <= set(faces)
        for face, name in list(faces.items())[:3]:
            found = server.client().search_faces_by_image(CollectionId="a", Image={"Bytes": picture(int(name[1:]))})
            assert found["FaceMatches"][0]["Face"]["FaceId"] == face
        entries = assert_ledger_whole(server.app)
    assert [face for entry in entries if entry["type"] == "faces.enrolled" for face in entry["face_ids"]] == list(faces)
    restored = next(entry for entry in entries if entry["type"] == "backup.restored")
    assert (restored["size"], restored["root"], restored["operator"]) == (manifest["size"], manifest["root"], "first")
    assert restored["seq"] == manifest["size"]
    app = bootstrap.open_app(null_settings(data))
    made = next(entry for entry in assert_ledger_whole(app) if entry["type"] == "backup.made")
    app.database.close()
    assert (made["size"], made["root"]) == (manifest["size"], manifest["root"])
    assert aboveboard("doctor", "--data", elsewhere)["is_well"]


def test_without_keys_the_key_must_be_brought(deployment, tmp_path):
    """Neither without it nor with another deployment's is anything restored."""
    there, elsewhere = tmp_path / "backup", tmp_path / "elsewhere"
    assert not aboveboard("backup", there, "--data", deployment, "--without-keys")["has_key"]
    assert not (there / "master.key").exists()
    assert "--master-key" in aboveboard("restore", there, "--data", elsewhere, code=2)
    (tmp_path / "other.key").write_bytes(bytes(32))
    assert "another deployment's" in aboveboard("restore", there, "--data", elsewhere, "--master-key", tmp_path / "other.key", code=5)
    assert not elsewhere.exists()
    aboveboard("restore", there, "--data", elsewhere, "--master-key", deployment / "master.key")
    assert aboveboard("doctor", "--data", elsewhere)["is_well"]


def changed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def rewritten(folder: Path, **facts: Any) -> None:
    """A manifest that says something else."""
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


def with_a_face_less(folder: Path) -> None:
    """One who can compute checksums takes a ledger entry out and puts the manifest right, but for the root."""
    with sqlite3.connect(folder / "aboveboard.db") as database:
        database.execute("DELETE FROM ledger WHERE seq = 2")
    database.close()
    document = json.loads((folder / "manifest.json").read_text())
    files = [keep._kept(folder / one["file"]).__dict__ for one in document["files"]]
    rewritten(folder, files=files)


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (lambda folder: changed(folder / "aboveboard.db"), "aboveboard.db is not what"),
        (lambda folder: changed(folder / "master.key"), "master.key is not what"),
        (lambda folder: (folder / "master.key").unlink(), "master.key is missing"),
        (lambda folder: (folder / "aboveboard.db").write_bytes((folder / "aboveboard.db").read_bytes()[:-4096]), "aboveboard.db is not"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text('{"format": 1'), "manifest.json"),
        (lambda folder: rewritten(folder, root="00" * 32), "manifest.json"),
        (lambda folder: rewritten(folder, files=[]), "manifest.json"),
        (lambda folder: rewritten(folder, files=[{"file": "../data/x", "bytes": 0, "sha256": ""}]), "manifest.json"),
        (lambda folder: rewritten(folder, schema=99), "newer release"),
        (lambda folder: rewritten(folder, schema="3"), "newer release"),
        (lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "manifest.json"),
        (with_a_face_less, "entry 2 is missing"),
    ],
    ids=[
        "byte",
        "key",
        "no key",
        "cut",
        "no manifest",
        "half a manifest",
        "root",
        "no files",
        "path",
        "schema",
        "no number",
        "deep",
        "entry",
    ],
)
def test_what_is_not_as_it_was_made_is_refused_by_name(backup, deployment, tmp_path, tamper: Callable[[Path], Any], named):
    """Nothing is made in an empty place, nothing changed in a full one."""
    tamper(backup)
    before = contents(deployment)
    elsewhere = tmp_path / "elsewhere"
    for words in (["--data", elsewhere], ["--data", deployment, "--replace"]):
        done = CliRunner().invoke(program, ["restore", str(backup), *map(str, words)], env={"ABOVEBOARD_PACK": "null"})
        assert done.exit_code in (2, 5), done.output
        assert named in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not elsewhere.exists()
    assert contents(deployment) == before


def test_a_deployment_that_is_there_is_put_aside_whole(backup, deployment, original):
    """Never without --replace; what was deleted since is told, because it is back; what does not belong to a deployment stays."""
    (deployment / "notes.txt").write_text("mine")
    (deployment / "settings.toml").write_text('account = "111111111111"\n')
    with serving(null_settings(deployment), original[1]) as server:
        gone = next(iter(listed(server.client())))
        server.client().delete_faces(CollectionId="a", FaceIds=[gone])
    server.app.database.close()
    before = contents(deployment)
    assert "--replace" in aboveboard("restore", backup, "--data", deployment, code=2)
    assert contents(deployment) == before
    said = aboveboard("restore", backup, "--data", deployment, "--replace")
    assert said["undone"] == {"faces": 1}
    aside = Path(said["aside"])
    assert {name: data for name, data in contents(aside).items() if not name.endswith(("-wal", "-shm"))} == {
        name: data for name, data in before.items() if name != "notes.txt"
    }
    assert (deployment / "notes.txt").read_text() == "mine"
    assert not (deployment / "settings.toml").exists()
    findings = aboveboard("doctor", "--data", deployment)
    assert findings["is_well"]
    assert [one["found"] for one in findings["findings"] if one["state"] == "note"] == [f"restores put aside {aside}"]
    app = bootstrap.open_app(null_settings(deployment))
    assert gone in [face.face_id for face in app.collections.face_page(app.collections.get("a"), 0, 10)]
    app.database.close()


@pytest.mark.parametrize("step", range(1, 10))
def test_a_restore_that_is_cut_off_at_any_step_is_all_or_nothing(backup, deployment, monkeypatch, tmp_path, step):
    """At each renaming: either everything is as before, or nothing is served until the same verb has ended what was begun."""
    before, steps, rename = contents(deployment), itertools.count(1), Path.rename

    def cut_off(self, target):
        if next(steps) == step:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", cut_off)
        CliRunner().invoke(program, ["restore", str(backup), "--data", str(deployment), "--replace"], env={"ABOVEBOARD_PACK": "null"})
    assert next(steps) == step + 1, "it was not cut off"
    is_under_way = bool(list(deployment.glob(".restoring-*")))
    assert is_under_way == (step > 1)
    if is_under_way:
        with pytest.raises(Unavailable, match="interrupted"):
            bootstrap.open_app(null_settings(deployment))
        assert not aboveboard("doctor", "--data", deployment, code=1)["is_well"]
        assert aboveboard("restore", tmp_path / "whatever", "--data", deployment) == {"is_ended": True}
    aside = next(deployment.glob("before-restore-*"), deployment)
    assert {name: held for name, held in contents(aside).items() if not name.endswith(("-wal", "-shm"))} == before
    assert (aside != deployment) == is_under_way
    app = bootstrap.open_app(null_settings(deployment))
    assert (assert_ledger_whole(app)[-1]["type"] == "backup.restored") == is_under_way
    app.database.close()


def test_a_backup_that_is_cut_off_leaves_none(deployment, tmp_path, monkeypatch):
    """Nothing of its name, and what a killed one leaves has no manifest; that it was begun is on record."""
    monkeypatch.setattr(keep, "_whole", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    CliRunner().invoke(program, ["backup", str(tmp_path / "backup"), "--data", str(deployment)], env={"ABOVEBOARD_PACK": "null"})
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    CliRunner().invoke(program, ["backup", str(tmp_path / "backup"), "--data", str(deployment)], env={"ABOVEBOARD_PACK": "null"})
    (left,) = tmp_path.glob(".backup.*")
    assert not (tmp_path / "backup").exists()
    assert "half of one" in aboveboard("restore", left, "--data", tmp_path / "elsewhere", code=2)
    app = bootstrap.open_app(null_settings(deployment))
    assert [entry["type"] for entry in assert_ledger_whole(app)][-2:] == ["backup.begun", "backup.begun"]
    app.database.close()


def test_a_backup_is_made_by_an_admin_and_never_written_over(deployment, backup, tmp_path):
    """Into what holds something, into nowhere and by others: nothing."""
    before = contents(backup)
    assert "holds something" in aboveboard("backup", backup, "--data", deployment, code=2)
    assert "no folder" in aboveboard("backup", tmp_path / "no" / "where", "--data", deployment, code=2)
    aboveboard("operator", "add", "ivy", "--role", "investigator", "--data", deployment, "--operator", "first")
    assert "needs the role admin" in aboveboard("backup", tmp_path / "another", "--data", deployment, "--operator", "ivy", code=3)
    assert contents(backup) == before
    assert not (tmp_path / "another").exists()
    (tmp_path / "another").mkdir()
    aboveboard("backup", tmp_path / "another", "--data", deployment, "--operator", "first")
    assert "needs the role admin" in aboveboard("restore", tmp_path / "another", "--data", tmp_path / "new", "--operator", "ivy", code=3)
    assert not (tmp_path / "new").exists()


def test_a_deployment_that_is_restored_while_it_is_being_opened_is_not_opened(deployment, backup, monkeypatch):
    """The old file stays open under its old name's log: nothing may be written to it."""

    def restored(file):
        database = Database(file)
        file.rename(deployment / "aside.db")
        shutil.copy(backup / "aboveboard.db", file)
        return database

    monkeypatch.setattr(bootstrap, "Database", restored)
    with pytest.raises(Unavailable, match="start again"):
        bootstrap.open_app(null_settings(deployment))
    assert contents(deployment)["aboveboard.db"] == contents(backup)["aboveboard.db"]
    assert not contents(deployment).get("aboveboard.db-wal")
