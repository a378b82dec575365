"""`--aws`: what would go to Amazon, told from what goes out of boto3; a stub answers in its place and nothing leaves this machine."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from commands import errors, write
from foreign import Foreign
from typer.testing import Result

from aboveboard.evaluation import endpoint

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAAMAZON0000000000",
    "AWS_SECRET_ACCESS_KEY": "not-to-be-seen",
    "AWS_SESSION_TOKEN": "a-session",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_EC2_METADATA_DISABLED": "true",
}
WITHOUT = {**KEYS, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": ""}


class Amazon(Foreign):
    """Takes what boto3 is about to send to Amazon, before it is sent."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(errors=errors)
        self.sent: list[AWSPreparedRequest] = []

    def DetectFaces(self, Image: Any, Attributes: list[str]) -> dict[str, Any]:
        box = {"BoundingBox": {"Left": 0.1, "Top": 0.1, "Width": 0.5, "Height": 0.5}}
        return {"FaceDetails": [{**box, "Gender": {"Value": "Female", "Confidence": 99.0}}]}

    def take(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        self.sent.append(request)
        status, body = self.answer(request.headers["X-Amz-Target"].decode().partition(".")[2], request.body)
        raw = io.BytesIO(body)
        raw.stream = lambda *_, **__: iter([body])
        return AWSResponse(request.url, status, {"Content-Type": "application/x-amz-json-1.1"}, raw)


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Amazon]]:
    running: list[Amazon] = []
    connect = endpoint.connect

    def start(**errors: list[str]) -> Amazon:
        running.append(Amazon(errors))

        def connected(url: str | None, region: str | None) -> Any:
            client = connect(url, region)
            client.meta.events.register("before-send.rekognition", running[-1].take)
            return client

        monkeypatch.setattr(endpoint, "connect", connected)
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three people enrolled, two of them and a stranger searched for."""
    folder = tmp_path / "manifest"
    for name, person in (("a", 0), ("b", 1), ("c", 2)):
        write(folder / f"{name}.png", person)
    for name, person in (("a2", 0), ("b2", 1), ("d", 3)):
        write(folder / f"{name}.png", person, take=1, variation=0.3)
    (folder / "enrolled.csv").write_text("path,subject\na.png,A\nb.png,B\nc.png,C\n")
    (folder / "probed.csv").write_text("path,subject\na2.png,A\nb2.png,B\nd.png,D\n")
    return folder


def asking(manifest: Path, out: Path, *more: object) -> tuple[object, ...]:
    quick = ("--draws", 100, "--tables-only", "--per-second", 0)
    return ("evaluate", manifest, "--out", out, "--aws", "--region", "eu-west-1", "--yes", *quick, *more)


def test_what_goes_to_amazon_is_signed_for_its_region_and_goes_nowhere_else(
    run: Callable[..., Result], manifest: Path, amazon: Callable[..., Amazon], tmp_path: Path
) -> None:
    """An endpoint that is configured for other programs does not get the photographs of `--aws`."""
    one = amazon()
    shown = run(
        *asking(manifest, tmp_path / "out"),
        **KEYS,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ENDPOINT_URL_REKOGNITION="http://127.0.0.1:9",
    )
    assert "6 questions, 0 are answered, some 0.01 US dollars at 1 per 1,000" in shown.stderr
    assert one.calls == {"CreateCollection": 1, "IndexFaces": 3, "SearchFacesByImage": 3, "DeleteCollection": 1}
    assert {request.url for request in one.sent} == {"https://rekognition.eu-west-1.amazonaws.com/"}
    for request in one.sent:
        signed = request.headers["Authorization"].decode()
        assert re.match(r"AWS4-HMAC-SHA256 Credential=AKIAAMAZON0000000000/\d{8}/eu-west-1/rekognition/aws4_request", signed)
        assert request.headers["X-Amz-Security-Token"].decode() == "a-session"
    record = (tmp_path / "out" / "run.json").read_text()
    assert json.loads(record)["endpoint"] == "Amazon Rekognition (eu-west-1)"
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert b"not-to-be-seen" not in written
    assert b"AKIAAMAZON" not in written


def test_throttling_is_waited_for_and_not_counted_as_a_miss(
    run: Callable[..., Result], manifest: Path, amazon: Callable[..., Amazon], tmp_path: Path
) -> None:
    slow = amazon(IndexFaces=["ProvisionedThroughputExceededException"], SearchFacesByImage=["ThrottlingException"])
    run(*asking(manifest, tmp_path / "out"), **KEYS)
    assert (slow.calls["ProvisionedThroughputExceededException"], slow.calls["ThrottlingException"]) == (1, 1)
    assert (slow.calls["IndexFaces"], slow.calls["SearchFacesByImage"]) == (3, 3)
    (failures, _) = json.loads((tmp_path / "out" / "tables.json").read_text())["failures"]["rows"]
    assert failures["failure_to_enrol_errors"] == 0


@pytest.mark.parametrize("code", ["ExpiredTokenException", "AccessDeniedException"])
def test_what_amazon_refuses_ends_the_run_and_the_same_line_goes_on(
    run: Callable[..., Result], manifest: Path, amazon: Callable[..., Amazon], tmp_path: Path, code: str
) -> None:
    broken = amazon(SearchFacesByImage=["", code, code, code, code])
    said = errors(run(*asking(manifest, tmp_path / "out"), code=5, **KEYS))[0]
    assert code in said
    assert "run the same line again to go on" in said
    assert not (tmp_path / "out" / "scores.npz").exists()
    assert len(broken.collections) == 1
    answered, broken.errors = broken.calls["SearchFacesByImage"], {}
    shown = run(*asking(manifest, tmp_path / "out"), **KEYS)
    assert f"{3 - answered} questions, {3 + answered} are answered" in shown.stderr
    assert (broken.calls["IndexFaces"], broken.calls["SearchFacesByImage"], broken.collections) == (3, 3, {})


def test_without_credentials_or_region_nothing_is_sent(
    run: Callable[..., Result], manifest: Path, amazon: Callable[..., Amazon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = amazon()
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert "redentials" in errors(run(*asking(manifest, tmp_path / "out"), code=5, **WITHOUT))[0]
    line = ("evaluate", manifest, "--out", tmp_path / "other", "--aws", "--yes")
    assert "name it with --region" in errors(run(*line, code=2, **KEYS))[0]
    assert one.sent == []


def test_both_studies_ask_amazon(run: Callable[..., Result], amazon: Callable[..., Amazon], tmp_path: Path) -> None:
    for person in range(3):
        write(tmp_path / "people" / f"P{person}" / "1.png", person)
        write(tmp_path / "people" / f"P{person}" / "2.png", person, take=1, variation=0.3)
        write(tmp_path / "others" / f"O{person}" / "1.png", 10 + person)
    (tmp_path / "labels.csv").write_text("name,gender\nP0,F\nP1,M\nP2,F\n")
    one = amazon()
    to_amazon = ("--aws", "--region", "us-east-1", "--per-second", 0)
    looked_up = ("study", "false-matches", tmp_path / "people", tmp_path / "others", "--out", tmp_path / "a", "--no-pictures")
    assert "--yes" in errors(run(*looked_up, *to_amazon, code=2, **KEYS))[0]
    assert one.sent == []
    assert "dollars" in run(*looked_up, *to_amazon, "--yes", **KEYS).stderr
    assert one.collections == {}
    analysed = ("study", "facial-analysis", tmp_path / "people", "--labels", tmp_path / "labels.csv", "--out", tmp_path / "b")
    assert "dollars" in run(*analysed, *to_amazon, "--yes", **KEYS).stderr
    assert (one.calls["IndexFaces"], one.calls["SearchFacesByImage"], one.calls["DetectFaces"]) == (6, 6, 3)
    (row,) = [row for row in json.loads((tmp_path / "b" / "tables.json").read_text())["groups"]["rows"] if row["group"] == "all"]
    assert (row["error_errors"], row["error_trials"]) == (1, 3)
    assert {request.url for request in one.sent} == {"https://rekognition.us-east-1.amazonaws.com/"}
