"""A disk that is full, read-only or gone: InternalServerError, nothing half-written, zero looks, and it works again afterwards."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError
from kit import assert_ledger_whole, basis, null_settings, picture, process_serving, serving
from typer.testing import CliRunner

from aboveboard import bootstrap
from aboveboard.cli import app as program
from aboveboard.errors import Unavailable


def index(client, subject):
    answer = client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)}, ExternalImageId=f"e{subject}")
    return answer["FaceRecords"][0]["Face"]["FaceId"]


def is_internal(caught):
    error = caught.value.response
    return (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("InternalServerError", 500)


def fill(client, acknowledged):
    """Index until it fails; whatever was acknowledged goes into the list."""
    for subject in range(len(acknowledged), 3000):
        try:
            acknowledged.append(index(client, subject))
        except client.exceptions.InternalServerError:
            return
    raise AssertionError("the disk never became full")


def full_by_limit(folder, process):
    """The largest file that the process may write is a little more than the largest there is."""
    largest = max(file.stat().st_size for file in folder.iterdir())
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest + 60_000, resource.RLIM_INFINITY))
    return lambda: resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@contextmanager
def small_disk(folder, is_wanted):
    """A file system of 1 MB over the folder, where this machine lets one be mounted; gives how to enlarge it, else None."""
    folder.mkdir()
    mounted = is_wanted and os.geteuid() == 0 and not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    ).returncode  # fmt: skip
    try:
        yield (lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)) if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kind", ["full file system", pytest.param("file size limit", marks=pytest.mark.long)])
def test_a_full_disk_loses_nothing_and_writes_nothing_half(tmp_path, kind):
    """Indexing, searching and tagging answer 500; what was acknowledged stays; with room again everything goes on where it was."""
    folder = tmp_path / "data"
    with small_disk(folder, is_wanted=kind == "full file system") as enlarge, process_serving(folder) as server:
        client = server.client()
        client.create_collection(CollectionId="a")
        acknowledged = [index(client, 0)]
        room_again = enlarge or full_by_limit(folder, server)
        fill(client, acknowledged)
        for _ in range(3):  # the last few bytes may still hold a small entry
            try:
                client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(0)})
            except ClientError:
                break
        with pytest.raises(ClientError) as failed:
            index(client, 5000)
        assert is_internal(failed)
        assert len(client.detect_faces(Image={"Bytes": picture(1)})["FaceDetails"]) == 1
        room_again()
        listed = [face for page in client.get_paginator("list_faces").paginate(CollectionId="a") for face in page["Faces"]]
        assert [face["FaceId"] for face in listed] == acknowledged
        assert client.describe_collection(CollectionId="a")["FaceCount"] == len(acknowledged)
        acknowledged.append(index(client, 6000))
        answer = client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(6000)})
        assert [match["Face"]["FaceId"] for match in answer["FaceMatches"]] == [acknowledged[-1]]
        assert basis(answer)["gallery-size"] == str(len(acknowledged))
        assert server.stop() == 0
        app = bootstrap.open_app(null_settings(folder))
        entries = assert_ledger_whole(app)
        app.database.close()
    recorded = [face_id for entry in entries if entry["type"] == "faces.enrolled" for face_id in entry["face_ids"]]
    assert recorded == acknowledged


def verb(*words, code, **how):
    """A verb on the null pack, in a process of its own; gives what it says on stderr."""
    command = [sys.executable, "-m", "aboveboard", *map(str, words)]
    done = subprocess.run(
        command, env={"ABOVEBOARD_PACK": "null", "HOME": "/nonexistent"}, capture_output=True, text=True, timeout=120, **how
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def run(*words):
    """The same without a process, and without fail."""
    done = CliRunner().invoke(program, list(map(str, words)), env={"ABOVEBOARD_PACK": "null"})
    assert done.exit_code == 0, done.output


def largest_file(size):
    """How to start a process that may write no file larger than this; it gets an error, as on a full disk, not a signal."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    return limit


def test_a_disk_that_is_full_in_the_middle_of_a_folder_keeps_what_was_written(tmp_path):
    """`index` stops with one line; what it wrote is whole; run again with room, it goes on and enrols nobody twice."""
    data, photographs = tmp_path / "data", tmp_path / "photographs"
    photographs.mkdir()
    for subject in range(200):
        (photographs / f"{subject}.png").write_bytes(picture(subject))
    run("collection", "create", "a", "--data", data)
    words = ("index", photographs, "-c", "a", "--data", data)
    said = verb(*words, code=5, preexec_fn=largest_file(300_000))
    assert "nothing was written" in said
    assert "make room" in said or "full" in said
    run("doctor", "--data", data)
    app = bootstrap.open_app(null_settings(data))
    written = app.collections.get("a").face_count
    app.database.close()
    assert written < 200
    run(*words)
    app = bootstrap.open_app(null_settings(data))
    assert app.collections.get("a").face_count == 200
    entries = assert_ledger_whole(app)
    app.database.close()
    assert sum(len(entry["face_ids"]) for entry in entries if entry["type"] == "faces.enrolled") == 200


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_start_on_a_disk_that_takes_nothing_is_refused_and_changes_nothing(tmp_path, kind):
    """serve and a verb end in one line that says what to mend; once it is mended everything is there."""
    data = tmp_path / "data"
    with serving(null_settings(data)) as server:
        server.client().create_collection(CollectionId="a")
        face, key = index(server.client(), 1), server.key
    server.app.database.close()
    before = (data / "aboveboard.db").read_bytes()
    is_mounted = False
    if kind == "read-only":
        is_mounted = os.geteuid() == 0 and not subprocess.run(["mount", "--bind", "-o", "ro", data, data], check=False).returncode
        data.chmod(0o500) if not is_mounted else None
        (data / "aboveboard.db").chmod(0o400) if not is_mounted else None
    how = {"preexec_fn": largest_file(0)} if kind == "full" else {}
    try:
        if kind == "full" or is_mounted or os.geteuid():
            for words in (["serve", "--port", "0"], ["backup", tmp_path / "backup"]):
                said = verb(*words, "--data", data, code=5, **how)
                assert len(said.splitlines()) == 1
                assert ("full or fails" if kind == "full" else "can be written to") in said
        assert not (tmp_path / "backup").exists()
        assert (data / "aboveboard.db").read_bytes() == before
    finally:
        subprocess.run(["umount", "-l", data], check=True) if is_mounted else None
        data.chmod(0o700)
        (data / "aboveboard.db").chmod(0o600)
    with serving(null_settings(data), key) as server:
        found = server.client().search_faces_by_image(CollectionId="a", Image={"Bytes": picture(1)})
    assert [match["Face"]["FaceId"] for match in found["FaceMatches"]] == [face]


@pytest.fixture
def break_database(own_server):
    """break_database(pragma): every connection from now on has it; call the result to mend."""
    engine = own_server.app.database._engine
    broken = []

    def configure(connection, _):
        for pragma in broken:
            connection.execute(pragma)

    sa.event.listen(engine, "connect", configure)

    def breaking(pragma):
        broken.append(pragma)
        engine.dispose()

        def mend():
            broken.clear()
            engine.dispose()

        return mend

    return breaking


@pytest.mark.parametrize("pragma", ["PRAGMA query_only=ON", "PRAGMA max_page_count=1"], ids=["read-only", "full"])
def test_a_database_that_takes_no_writes_is_an_internal_error(own_server, break_database, monkeypatch, pragma):
    """Read-only or full: reading goes on, each write and each search is 500 without a look; mended, everything works."""
    client = own_server.client()
    client.create_collection(CollectionId="a")
    face = index(client, 1)
    for i in range(40):  # no free page is left over for a small write
        client.tag_resource(ResourceArn="arn:aws:rekognition:us-east-1:000000000000:collection/a", Tags={f"k{i}": "v" * 200})
    looks = []
    real = own_server.app.gate._templates.search
    monkeypatch.setattr(own_server.app.gate._templates, "search", lambda *args: looks.append(1) or real(*args))
    before = own_server.entries()
    mend = break_database(pragma)
    writes = [
        lambda: index(client, 2),
        lambda: client.create_collection(CollectionId="b"),
        lambda: client.delete_collection(CollectionId="a"),
        lambda: client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(1)}),
        lambda: client.search_faces(CollectionId="a", FaceId=face),
        lambda: client.compare_faces(SourceImage={"Bytes": picture(1)}, TargetImage={"Bytes": picture(1)}),
        lambda: client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture()}),
    ]
    if "query_only" in pragma:
        for write in writes:
            with pytest.raises(ClientError) as failed:
                write()
            assert is_internal(failed)
        assert looks == []
        assert own_server.entries() == before
    else:
        fill(client, [face, *range(100)])
    listed = client.list_faces(CollectionId="a")["Faces"]
    assert listed[0]["FaceId"] == face
    assert client.describe_collection(CollectionId="a")["FaceCount"] == len(listed)
    mend()
    assert index(client, 2)
    assert client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(1)})["FaceMatches"][0]["Face"]["FaceId"] == face
    assert_ledger_whole(own_server.app)


def test_a_writer_that_holds_the_database_is_waited_for(own_server):
    """Another process in the middle of a transaction delays a write and loses nothing."""
    client = own_server.client()
    client.create_collection(CollectionId="a")
    other = sqlite3.connect(own_server.app.database.file, check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answers = []
    writer = threading.Thread(target=lambda: answers.append(index(client, 1)))
    writer.start()
    writer.join(0.3)
    assert answers == []
    assert client.list_faces(CollectionId="a")["Faces"] == []  # readers are not held up
    other.execute("ROLLBACK")
    other.close()
    writer.join(60)
    assert [face["FaceId"] for face in client.list_faces(CollectionId="a")["Faces"]] == answers


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("master.key", None, "cannot be read"),
        ("master.key", b"short", "damaged"),
        ("aboveboard.db", b"this is no database" * 500, "database"),
    ],
)
def test_a_damaged_data_folder_is_named_and_not_made_anew(tmp_path, file, content, words):
    """A missing or damaged master key or database: nothing is opened; which file and what to do is said; nothing is changed."""
    data = tmp_path / "data"
    bootstrap.open_app(null_settings(data)).database.close()
    target = data / file
    if content is None:
        target.unlink()
    else:
        target.write_bytes(content)
    with pytest.raises(Unavailable, match=words):
        bootstrap.open_app(null_settings(data))
    assert (target.read_bytes() if target.exists() else None) == content


def test_a_replaced_master_key_opens_nobodys_secret(tmp_path):
    """With another deployment's key: 500 for every caller, no crash."""
    with serving(null_settings(tmp_path / "data")) as server:
        key = server.key
    (tmp_path / "data" / "master.key").write_bytes(os.urandom(32))
    with serving(null_settings(tmp_path / "data"), key) as server, pytest.raises(ClientError) as failed:
        server.client().list_collections()
    assert is_internal(failed)
