"""Folders as buckets: every name is a file below its folder, or unreachable, in one and the same words."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from aboveboard.errors import SampleTooLarge, SampleUnreachable
from aboveboard.storage.objects import MAX_BYTES, UNREACHABLE, Objects

NAMES = ["a.jpg", "2024/05/b.jpg", "with space/c d+e.jpg", "Zoë/顔.jpg", "2024/05/.hidden", "a%2Fb.jpg", "a.jpg.txt"]
BUCKET = "photographs"


@pytest.fixture
def folder(tmp_path):
    """A bucket's folder with objects, beside a secret that no name may reach."""
    inner = tmp_path / "bucket"
    for name in NAMES:
        (inner / name).parent.mkdir(parents=True, exist_ok=True)
        (inner / name).write_bytes(name.encode())
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return inner


@pytest.fixture
def objects(folder):
    return Objects({BUCKET: folder})


def refused(objects, name, bucket=BUCKET, version=None, allowed=("*",)):
    with pytest.raises(SampleUnreachable) as found:
        objects.read(bucket, name, version, allowed)
    assert found.value.message == UNREACHABLE
    assert found.value.__cause__ is None


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_an_object(objects, name):
    """Its name is the path below the folder, whatever signs are in it."""
    assert objects.read(BUCKET, name, allowed=(BUCKET,)) == name.encode()


def test_names_are_listed_by_prefix(objects, folder):
    """As S3 does it: a prefix need not end at a folder; what is no plain file is left out."""
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    (folder / "more").symlink_to(folder / "2024")
    os.mkfifo(folder / "fifo.jpg")
    assert sorted(objects.list(BUCKET, "")) == sorted(NAMES)
    assert sorted(objects.list(BUCKET, "2024/")) == ["2024/05/.hidden", "2024/05/b.jpg"]
    assert list(objects.list(BUCKET, "2024/05/b")) == ["2024/05/b.jpg"]
    assert sorted(objects.list(BUCKET, "a.j")) == ["a.jpg", "a.jpg.txt"]
    assert list(objects.list(BUCKET, "")) == list(objects.list(BUCKET, ""))
    for nothing in ("none/", "a.jpg/", "more/"):
        assert list(objects.list(BUCKET, nothing)) == []
    for bucket, prefix in ((BUCKET, "../"), (BUCKET, "/etc/"), (BUCKET, "a\0/"), ("other", "")):
        with pytest.raises(SampleUnreachable):
            list(objects.list(bucket, prefix))


@pytest.mark.parametrize(
    "name",
    [
        "", "/", ".", "..", "../secret.jpg", "2024/../../secret.jpg", "2024/../a.jpg", "./a.jpg", "2024//05/b.jpg", "/a.jpg", "2024/05/",
        "2024/05", "none.jpg", "a.jpg/x", "a.jpg\0", "\0", "x" * 1024, "x/" * 511 + "x", "\ud800.jpg", "..\\secret.jpg", "2024\n",
    ],
)  # fmt: skip
def test_a_name_stays_in_its_folder(objects, name):
    """Dots, empty parts, NUL, folders, files that are not there."""
    refused(objects, name)


def test_an_absolute_name_is_not_taken_as_a_path(objects, folder):
    """Neither of a file outside nor of one inside."""
    refused(objects, str(folder.parent / "secret.jpg"))
    refused(objects, str(folder / "a.jpg"))


def test_no_symbolic_link_below_the_folder_is_followed(objects, folder):
    """Not as the file, not as a folder on the way, not even to something inside. The bucket's folder itself may be one."""
    (folder / "out.jpg").symlink_to(folder.parent / "secret.jpg")
    (folder / "in.jpg").symlink_to(folder / "a.jpg")
    (folder / "up").symlink_to(folder.parent)
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    for name in ("out.jpg", "in.jpg", "up/secret.jpg", "loop.jpg"):
        refused(objects, name)
    (folder.parent / "entry").symlink_to(folder)
    assert Objects({BUCKET: folder.parent / "entry"}).read(BUCKET, "a.jpg", allowed=("*",)) == b"a.jpg"


def test_what_is_no_file_is_not_waited_for(objects, folder, monkeypatch):
    """A FIFO without a writer, a socket, a device by its name."""
    os.mkfifo(folder / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)  # the path of a socket must be short
        listening.bind("socket.jpg")
        refused(objects, "socket.jpg")
    refused(objects, "fifo.jpg")
    refused(Objects({BUCKET: Path("/dev")}), "zero")


def test_reading_leaves_no_descriptor_open(objects, folder):
    """Whatever came of it."""
    os.mkfifo(folder / "fifo.jpg")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        objects.read(BUCKET, "2024/05/b.jpg", allowed=("*",))
        for name in ("2024", "2024/none", "fifo.jpg", "a.jpg/x"):
            refused(objects, name)
        list(objects.list(BUCKET, "2024/"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_fifteen_mebibytes_are_read_and_one_byte_more_is_not(objects, folder):
    """By the file's size; and while reading, where the size does not say."""
    with (folder / "edge.jpg").open("wb") as file:
        file.truncate(MAX_BYTES)
    assert len(objects.read(BUCKET, "edge.jpg", allowed=("*",))) == MAX_BYTES == 15_728_640
    os.truncate(folder / "edge.jpg", MAX_BYTES + 1)
    with pytest.raises(SampleTooLarge, match="at most 15728640 bytes"):
        objects.read(BUCKET, "edge.jpg", allowed=("*",))


def test_absent_forbidden_and_not_allowed_sound_the_same(objects, folder, caplog):
    """One text for all; the log has the reason and the bucket, never the name."""
    refused(objects, "of-ada-lovelace.jpg")
    refused(objects, "of-ada-lovelace.jpg", allowed=())
    refused(objects, "a.jpg", allowed=("other", "photo", "photographs-2"))
    refused(objects, "a.jpg", bucket="other")
    refused(objects, "a.jpg", bucket="../etc")
    refused(objects, "a.jpg", version="1")
    refused(objects, "a.jpg", version="null")
    refused(Objects({BUCKET: folder.parent / "none"}), "a.jpg")
    with pytest.raises(SampleUnreachable):
        list(Objects({BUCKET: folder.parent / "none"}).list(BUCKET, ""))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 9
    assert "bucket photographs: No such file or directory" in told[0]
    assert "not allowed for the key" in told[1]
    assert not [line for line in told if "ada" in line or ".jpg" in line or "/" in line.replace("S3", "")]
