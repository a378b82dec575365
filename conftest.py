"""Every ```python block of README.md and docs/ runs as a test: one namespace, one empty folder and one null-pack server per document.

The server's address and its first operator's key are in the environment, as if the reader had pasted the lines that
`aboveboard serve` prints. `photographs` below are drawn faces under the names that the documents use.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

PHOTOGRAPHS = {"ada.png": (1,), "ada-again.png": (1,), "grace.png": (2,), "party.png": (1, 2, 3), "stranger.png": (4,)}
"""File name -> the drawn subjects that it shows."""


def _open(namespace: dict[str, Any]) -> None:
    sys.path[:0] = [str(Path(__file__).parent / "tests")] * ("kit" not in sys.modules)
    from kit import null_settings, picture, serving

    stack = namespace["_stack"] = ExitStack()
    folder = Path(stack.enter_context(TemporaryDirectory()))
    server = stack.enter_context(serving(null_settings(folder / "data", buckets=f'{{photographs = "{folder}"}}')))
    for take, (name, subjects) in enumerate(PHOTOGRAPHS.items()):
        (folder / name).write_bytes(picture(*subjects, take=take, variation=0.1))
    before, here = dict(os.environ), Path.cwd()
    os.environ.update(
        AWS_ACCESS_KEY_ID=server.key.id,
        AWS_SECRET_ACCESS_KEY=server.key.secret,
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_ENDPOINT_URL_REKOGNITION=server.endpoint,
    )
    os.chdir(folder)
    boto3.DEFAULT_SESSION = None  # it keeps the keys of the document before

    def leave() -> None:
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
        boto3.DEFAULT_SESSION = None

    stack.callback(leave)
    namespace["server"] = server


def _close(namespace: dict[str, Any]) -> None:
    namespace["_stack"].close()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md", "docs/adr/*.md"], setup=_open, teardown=_close
).pytest()
