"""What is damaged is named: `doctor` finds it, `serve` refuses it, no verb ends in a traceback, and nothing is changed."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from kit import null_settings, other_pack, picture, process_serving, serving
from typer.testing import CliRunner

from aboveboard.accountability.operators import AccessKey
from aboveboard.cli import app as program

PAGE = 4096


def aboveboard(*words: object, code: int) -> str:
    done = CliRunner().invoke(program, list(map(str, words)), env={"ABOVEBOARD_PACK": "null"})
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout + done.stderr


def findings(data: Path, code: int = 1) -> dict[str, str]:
    """What doctor finds wrong, by check."""
    document = json.loads(aboveboard("doctor", "--data", data, "--json", code=code))
    assert document["is_well"] == (code == 0)
    return {one["check"]: one["found"] for one in document["findings"] if one["state"] == "wrong"}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, but for SQLite's own beside a database that nobody has open: they hold nothing."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith(("-wal", "-shm"))}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, AccessKey]:
    """A closed deployment with thirty faces and a user in the collection `a`; never changed."""
    data = tmp_path_factory.mktemp("original") / "data"
    with serving(null_settings(data)) as server:
        client = server.client()
        client.create_collection(CollectionId="a")
        client.create_collection(CollectionId="b")
        for subject in range(30):
            answer = client.index_faces(
                CollectionId="a", Image={"Bytes": picture(subject)}, ExternalImageId="Ada Lovelace".replace(" ", "_")
            )
        client.create_user(CollectionId="a", UserId="ada")
        client.associate_faces(CollectionId="a", UserId="ada", FaceIds=[answer["FaceRecords"][0]["Face"]["FaceId"]])
    server.app.database.close()
    return data, server.key


@pytest.fixture
def data(original, tmp_path) -> Path:
    return Path(shutil.copytree(original[0], tmp_path / "data"))


def spoil(data: Path, table: str) -> int:
    """Overwrite the first page of a table; gives its number."""
    file = data / "aboveboard.db"
    with closing(sqlite3.connect(file)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
    content = bytearray(file.read_bytes())
    content[(page - 1) * PAGE : page * PAGE] = random.Random(1).randbytes(PAGE)
    file.write_bytes(content)
    return int(page)


@pytest.mark.parametrize("table", ["faces", *(pytest.param(name, marks=pytest.mark.long) for name in ("templates", "ledger"))])
def test_a_damaged_page_is_named_by_serve_and_doctor(data, table):
    """serve refuses to start with the file, the table, the page and the way out; doctor names table and page; nothing is changed."""
    page = spoil(data, table)
    before = contents(data)
    command = [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", str(data)]
    done = subprocess.run(command, env={"ABOVEBOARD_PACK": "null", "HOME": str(data)}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    for words in (str(data / "aboveboard.db"), f"{table}: ", f"age {page}", "aboveboard restore DIR --replace", "aboveboard doctor"):
        assert words in done.stderr, done.stderr
    found = findings(data)["database"]
    assert f"{table}: " in found
    assert f"age {page}" in found
    assert contents(data) == before


def test_a_damaged_deployment_is_not_backed_up_and_a_backup_takes_its_place(data, original, tmp_path):
    """The way out that the error names works: restore --replace, then everything is as in the backup."""
    aboveboard("backup", tmp_path / "backup", "--data", data, code=0)
    spoil(data, "templates")
    assert "damaged" in aboveboard("backup", tmp_path / "another", "--data", data, code=5)
    assert not (tmp_path / "another").exists()
    aboveboard("restore", tmp_path / "backup", "--data", data, "--replace", code=0)
    assert findings(data, code=0) == {}
    with serving(null_settings(data), original[1]) as server:
        found = server.client().search_faces_by_image(CollectionId="a", Image={"Bytes": picture(7)})
    assert found["FaceMatches"][0]["Similarity"] > 99


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=[pytest.mark.long] * (seed > 7)) for seed in range(60)])
def test_no_verb_ends_in_a_traceback_whatever_page_is_damaged(data, tmp_path, seed):
    """A verb works or says in one line what is wrong; where one says that the database is damaged, doctor says so too."""
    chance, file = random.Random(seed), data / "aboveboard.db"
    content = bytearray(file.read_bytes())
    page = chance.randrange(len(content) // PAGE)
    for _ in range(chance.choice([20, 300, 4000])):
        content[page * PAGE + chance.randrange(100 if page == 0 else 0, PAGE)] = chance.randrange(256)
    file.write_bytes(content)
    is_well = CliRunner().invoke(program, ["doctor", "--data", str(data)], env={"ABOVEBOARD_PACK": "null"}).exit_code == 0
    (tmp_path / "new.png").write_bytes(picture(500))
    verbs = [
        ["collection", "list"],
        ["operator", "list"],
        ["ledger", "show"],
        ["index", str(tmp_path / "new.png"), "-c", "a"],
        ["search", str(tmp_path / "new.png"), "-c", "a"],
        ["collection", "delete", "a", "--yes"],
        ["backup", str(tmp_path / "backup")],
    ]
    for verb in verbs:
        done = CliRunner().invoke(program, [*verb, "--data", str(data)], env={"ABOVEBOARD_PACK": "null"})
        assert done.exception is None or isinstance(done.exception, SystemExit), (verb, done.exc_info)
        assert done.exit_code in (0, 1, 2, 5)
        if done.exit_code == 5:
            assert not is_well, done.stderr


WRONG = {
    "a count": (
        "UPDATE collections SET face_count = 7 WHERE id = 'a'",
        "rows",
        "collections with another number of faces or users than they say: 1",
    ),
    "a template": ("DELETE FROM templates WHERE face = 3", "templates", "faces without a template: 1"),
    "a length": (
        "UPDATE templates SET vector = substr(vector, 5) WHERE face = 3",
        "templates",
        "templates of another length than their model's: 1",
    ),
    "a user": ("UPDATE subjects SET collection = 2", "rows", "faces of a user of another collection: 1"),
    "a reference": ("DELETE FROM collections WHERE id = 'a'", "rows", "rows that refer to rows that are not there: "),
    "an entry": ("DELETE FROM ledger WHERE seq = 4", "ledger", "entry 4 is missing"),
    "the last entry": ("DELETE FROM ledger WHERE seq = (SELECT max(seq) FROM ledger)", "ledger", "entries, not"),
    "a word": ("UPDATE ledger SET entry = CAST(replace(entry, 'first', 'other') AS BLOB) WHERE seq = 4", "ledger", "the root of its"),
    "a box": ("UPDATE faces SET box = '[0.1, 0.2' WHERE n = 3", "values", "faces"),
    "a name": ("UPDATE faces SET external_image_id = CAST(x'ff41' AS TEXT) WHERE n = 3", "values", "external_image_id"),
    "a key": ("UPDATE access_keys SET sealed_secret = zeroblob(50)", "keys", "access keys that do not open with master.key: 1"),
    "a schema": ("UPDATE schema_version SET version = 99", "schema", "it is 99"),
}


@pytest.mark.parametrize("name", WRONG)
def test_doctor_finds_what_is_wrong(data, name):
    """One thing changed by hand: that, and nothing else, is found. No name and no template is told."""
    statement, check, words = WRONG[name]
    with closing(sqlite3.connect(data / "aboveboard.db")) as database, database:
        assert database.execute(statement).rowcount >= 1
    before = contents(data)
    found = findings(data)
    assert set(found) == {check}
    assert words in found[check]
    assert "Ada" not in aboveboard("doctor", "--data", data, code=1)
    assert contents(data) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0])
def test_doctor_finds_a_template_that_is_no_unit_vector(data, value):
    with closing(sqlite3.connect(data / "aboveboard.db")) as database, database:
        (vector,) = database.execute("SELECT vector FROM templates WHERE face = 3").fetchone()
        spoiled = np.frombuffer(vector, "<f4").copy()
        spoiled[0] = value
        database.execute("UPDATE templates SET vector = ? WHERE face = 3", (spoiled.tobytes(),))
    assert findings(data) == {"templates": "templates that are not finite or not of unit length: 1"}


def test_doctor_looks_at_files_too(data):
    """Keys and modes, what interrupted verbs left, no database at all."""
    (data / "master.key").chmod(0o644)
    (data / ".unready-restore-x").mkdir()
    found = findings(data)
    assert set(found) == {"modes", "leftovers"}
    assert str(data / "master.key") in found["modes"]
    (data / ".unready-restore-x").rmdir()
    (data / "master.key").unlink()
    assert "cannot be read" in findings(data)["keys"]
    (data / "aboveboard.db").unlink()
    assert "is not there" in findings(data)["database"]
    assert "is not there" in findings(data / "nowhere")["database"]
    assert not (data / "nowhere").exists()


def test_doctor_is_safe_beside_a_server_and_on_what_can_only_be_read(original, tmp_path):
    """Between acknowledged writes all is well, each time; a copy in a folder that nobody may write to is examined as it is."""
    data = Path(shutil.copytree(original[0], tmp_path / "data"))
    with process_serving(data, original[1]) as server:
        client = server.client()
        for subject in range(100, 103):
            client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)})
            assert findings(data, code=0) == {}
        server.kill()
    assert findings(data, code=0) == {}
    copy = Path(shutil.copytree(original[0], tmp_path / "copy"))
    before = contents(copy)
    is_mounted = os.geteuid() == 0 and not subprocess.run(["mount", "--bind", "-o", "ro", copy, copy], check=False).returncode
    copy.chmod(0o500) if not is_mounted else None
    try:
        assert findings(copy, code=0) == {}
        assert contents(copy) == before
    finally:
        subprocess.run(["umount", "-l", copy], check=True) if is_mounted else copy.chmod(0o700)


def test_templates_of_a_pack_that_is_not_here_are_judged_by_each_other(tmp_path):
    """A collection of another model: its dimension is that of its pack, or, where the pack is gone, of its first template."""
    settings = null_settings(tmp_path / "data", pack=other_pack(tmp_path / "home" / ".local" / "share" / "aboveboard" / "models"))
    with serving(settings) as server:
        server.client().create_collection(CollectionId="a")
        for subject in range(3):
            server.client().index_faces(CollectionId="a", Image={"Bytes": picture(subject)})
    server.app.database.close()
    assert findings(settings.data, code=0) == {}
    with closing(sqlite3.connect(settings.data / "aboveboard.db")) as database, database:
        database.execute("UPDATE templates SET vector = substr(vector, 5) WHERE face = 3")
    assert findings(settings.data) == {"templates": "templates of another length than their model's: 1"}
