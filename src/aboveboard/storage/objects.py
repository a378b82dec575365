"""Photographs in buckets: a folder of this machine under a bucket's name, or an S3 endpoint (AWS, MinIO, Garage).

Whatever keeps an object from being read, the error is the same, so that nobody learns from it what exists. The reason goes to
the log, without the object's name: names may be people's.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from aboveboard.errors import SampleTooLarge, SampleUnreachable
from aboveboard.settings import BUCKET

MAX_BYTES = 15 * 1024 * 1024
"""An object with more bytes is not read (Amazon Rekognition's limit for images in S3)."""
UNREACHABLE = "Unable to get object metadata from S3. Check object key, region and/or access permissions."
_CONNECT_S, _READ_S, _WHOLE_S = 3, 10, 30
_CHUNK = 64 * 1024
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
# Without O_NONBLOCK a FIFO would hold the thread until somebody writes into it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
log = logging.getLogger("aboveboard.objects")


class Objects:
    """Buckets by name: those of `folders` are folders, all others lie at the S3 endpoint, if there is one."""

    def __init__(self, folders: Mapping[str, Path], endpoint: str = "", region: str = "", profile: str = "") -> None:
        self._folders = _Folders(folders)
        self._s3 = _S3(endpoint, region, profile) if endpoint else None

    def read(self, bucket: str, name: str, version: str | None = None, allowed: Collection[str] = ()) -> bytes:
        """The bytes of an object, at most 15 MiB. `allowed` are the buckets that may be read for who asks, `*` for all.

        Raises SampleTooLarge, or SampleUnreachable where the object is absent, forbidden, not allowed or not to be reached.
        """
        if bucket not in allowed and "*" not in allowed:
            raise _unreachable("a bucket was asked for that is not allowed for the key")
        place = self._place(bucket)
        with _reaching(bucket):
            return place.read(bucket, name, version)

    def list(self, bucket: str, prefix: str) -> Iterator[str]:
        """The names of the objects whose names begin with `prefix`, in a fixed order; raises SampleUnreachable."""
        place = self._place(bucket)
        with _reaching(bucket):
            yield from place.list(bucket, prefix)

    def _place(self, bucket: str) -> _Folders | _S3:
        if bucket in self._folders.known:
            return self._folders
        if self._s3 is None or not re.fullmatch(BUCKET, bucket):
            raise _unreachable("a bucket was asked for that is neither in the setting 'buckets' nor at an S3 endpoint")
        return self._s3


class _Folders:
    """Folders as buckets: names are paths below them. No symbolic link there is followed, so that no name leads out of its folder."""

    def __init__(self, known: Mapping[str, Path]) -> None:
        self.known = known

    def read(self, bucket: str, name: str, version: str | None) -> bytes:
        if version is not None:
            raise OSError(None, "a folder keeps no versions")
        *parents, last = name.split("/")
        _check([*parents, last])
        with self._opened(bucket, parents) as at:
            file = os.open(last, _FILE, dir_fd=at)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(None, "not a file")
            return _bounded(iter(partial(os.read, file, _CHUNK), b""), found.st_size)
        finally:
            os.close(file)

    def list(self, bucket: str, prefix: str) -> Iterator[str]:
        *parents, _ = prefix.split("/")
        _check(parents)
        self.known[bucket].stat()
        with ExitStack() as stack:
            try:
                at = stack.enter_context(self._opened(bucket, parents))
            except (FileNotFoundError, NotADirectoryError):  # no names, as S3 has it
                return
            for path, folders, files, fd in os.fwalk(".", dir_fd=at, onerror=_raise):
                folders.sort()
                for file in sorted(files):
                    name = "/".join([*parents, *Path(path).parts, file])
                    with suppress(FileNotFoundError):
                        if name.startswith(prefix) and stat.S_ISREG(os.stat(file, dir_fd=fd, follow_symlinks=False).st_mode):
                            yield name

    @contextmanager
    def _opened(self, bucket: str, parents: Sequence[str]) -> Iterator[int]:
        """A descriptor of a folder below a bucket's."""
        at = os.open(self.known[bucket], _FOLDER)
        try:
            for parent in parents:
                inner = os.open(parent, _FOLDER | os.O_NOFOLLOW, dir_fd=at)
                os.close(at)
                at = inner
            yield at
        finally:
            os.close(at)


class _S3:
    """Every bucket that a profile of AWS's credentials file may read at one endpoint."""

    def __init__(self, endpoint: str, region: str, profile: str) -> None:
        self._endpoint, self._region, self._profile = endpoint, region, profile
        self._lock = threading.Lock()
        self._made: Any = None

    def read(self, bucket: str, name: str, version: str | None) -> bytes:
        _check([part for part in name.split("/") if part])  # a proxy could take `..` for a way into another bucket
        which = {"Bucket": bucket, "Key": name, **({} if version is None else {"VersionId": version})}
        with self._asking() as client:
            answer = client.get_object(**which)
            with closing(answer["Body"]) as body:
                return _bounded(body.iter_chunks(_CHUNK), answer.get("ContentLength", 0))

    def list(self, bucket: str, prefix: str) -> Iterator[str]:
        with self._asking() as client:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                yield from (item["Key"] for item in page.get("Contents", []) if not item["Key"].endswith("/"))

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield self._client()
        except ClientError as error:  # its code only: messages may hold the name
            raise OSError(None, f"the S3 endpoint answered {error.response['Error'].get('Code', '')[:64]!r}") from None
        except BotoCoreError as error:  # its kind only, for the same reason
            raise OSError(None, f"{type(error).__name__} at the S3 endpoint, profile '{self._profile}'") from None

    def _client(self) -> Any:
        """The client, made when it is first needed: loading boto3 takes a second."""
        with self._lock:
            if self._made is None:
                import boto3
                from botocore.config import Config

                is_aws = self._endpoint == "aws"
                # A named profile: boto3 then passes over the keys in the environment, which may be those of this server's operators.
                self._made = boto3.session.Session(profile_name=self._profile).client(
                    "s3",
                    region_name=self._region,
                    endpoint_url=None if is_aws else self._endpoint,
                    config=Config(
                        signature_version="s3v4",
                        s3={"addressing_style": "auto" if is_aws else "path"},
                        connect_timeout=_CONNECT_S,
                        read_timeout=_READ_S,
                        retries={"mode": "standard", "total_max_attempts": 2},
                        max_pool_connections=64,
                        ignore_configured_endpoint_urls=True,
                    ),
                )
            return self._made


def _check(parts: Sequence[str]) -> None:
    if {"", ".", ".."} & set(parts):
        raise ValueError("a name with empty parts, `.` or `..`")


def _bounded(chunks: Iterable[bytes], size: int) -> bytes:
    """An object that is said to have `size` bytes, out of its chunks; raises SampleTooLarge beyond MAX_BYTES."""
    data, until = bytearray(), time.monotonic() + _WHOLE_S
    for chunk in chunks if size <= MAX_BYTES else ():
        data += chunk
        if len(data) > MAX_BYTES:
            break
        if time.monotonic() > until:
            raise TimeoutError(None, f"not read within {_WHOLE_S} s")
    if max(size, len(data)) > MAX_BYTES:
        raise SampleTooLarge(f"Image size is too large. An object may have at most {MAX_BYTES} bytes; store a smaller one.")
    return bytes(data)


@contextmanager
def _reaching(bucket: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # its text would hold the name
        raise _unreachable(f"bucket {bucket}: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise _unreachable(f"bucket {bucket}: a name that no object can have here") from None


def _unreachable(reason: str) -> SampleUnreachable:
    log.warning("an object was not read: %s", reason)
    return SampleUnreachable(UNREACHABLE)


def _raise(error: OSError) -> None:
    raise error
