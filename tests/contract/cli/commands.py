"""What the tests of the command line share: drawn photographs, what a verb printed, the server as a process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
from typer.testing import Result

from aboveboard import bootstrap, settings
from aboveboard.vision import null

COMMAND = [sys.executable, "-m", "aboveboard"]


def write(file: Path, *subjects: int, take: int = 0, variation: float = 0.0, side: int = 96) -> Path:
    """A drawn photograph of these subjects."""
    image = np.full((side + 64, max(160, 40 + len(subjects) * (side + 20)), 3), 190, np.uint8)
    for i, subject in enumerate(subjects):
        null.draw(image, 20 + i * (side + 20), 32, side, subject, variation, take)
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), image)
    return file


def documents(result: Result) -> list[dict[str, Any]]:
    """The JSON lines of stdout."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def errors(result: Result) -> list[str]:
    """The lines of stderr that report an error; none of them is a traceback."""
    assert "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


@contextmanager
def served(environment: Mapping[str, str], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], str]]:
    """A server process, what it says to export, and all it said on its start."""
    everything = {**os.environ, **environment}
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *arguments], env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        while "listening on" not in said:
            line = process.stdout.readline()
            assert line, process.communicate()
            said += line
        yield process, dict(re.findall(r"^export (\w+)=(\S+)$", said, re.MULTILINE)), said
    finally:
        process.kill()
        process.communicate()


def certify(environment: Mapping[str, str], name: str) -> None:
    """Enter a certificate of an operator, as an admin would."""
    app = bootstrap.open_app(settings.load(Path(environment["ABOVEBOARD_DATA"]), dict(environment)))
    app.standing.certify(name, "examiner", 1.0, "2999-01-01", "test")
    app.database.close()


def client(exports: Mapping[str, str]) -> Any:
    return boto3.client(
        "rekognition",
        endpoint_url=exports["AWS_ENDPOINT_URL_REKOGNITION"],
        aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
        region_name=exports["AWS_REGION"],
    )
