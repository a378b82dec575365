"""What an operator sees: lines of JSON, metrics, spans. That they tell what happened, and never whom it happened to."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import suppress

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from judge import operation
from kit import b64, null_settings, picture, process_serving, serving
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from aboveboard.rekognition import telemetry
from aboveboard.rekognition.operations import offered

MARK = "SECRETNAME"
FACE = picture(1)


def marked(shape, depth=0):
    """A request with a marked text in every member that takes text, a photograph in every image."""
    kind = shape.type_name
    if kind == "structure":
        if shape.name == "Image":
            return {"Bytes": b64(FACE)}
        if depth > 4:
            return {}
        return {name: marked(member, depth + 1) for name, member in shape.members.items()}
    if kind == "list":
        return [marked(shape.member, depth + 1)]
    if kind == "map":
        return {MARK: MARK}
    if kind == "string":
        return shape.enum[0] if getattr(shape, "enum", None) else MARK
    return {"blob": b64(FACE), "boolean": True}.get(kind, 1)


def test_no_name_no_secret_and_no_photograph_is_logged_or_counted(tmp_path):
    """Every operation with marked names, as the model allows them and not; broken bodies, heads and signatures; a defect and a ledger
    that fails. Neither the log, whole, nor the metrics have a mark, a secret or a piece of the photograph."""
    log = tmp_path / "log"
    with process_serving(tmp_path / "data", options=["--log", "--metrics-port", "0"], log=log) as running:
        host, port = running.endpoint.removeprefix("http://").split(":")
        client = running.client()
        client.create_collection(CollectionId=MARK, Tags={MARK: MARK})
        client.index_faces(CollectionId=MARK, Image={"Bytes": FACE}, ExternalImageId=MARK)
        client.search_faces_by_image(CollectionId=MARK, Image={"Bytes": FACE})
        sent = 3
        for name in offered():
            for document in (marked(operation(name).input_shape), {MARK: MARK}):
                sent += 1
                _post(running, json.dumps(document).encode(), f"RekognitionService.{name}")
        for body in (f'{{"{MARK}": '.encode(), MARK.encode(), f'{{"CollectionId": ["{MARK}"]}}'.encode()):
            for name in (MARK, "DescribeCollection", "StartFaceSearch"):
                sent += 1
                _post(running, body, f"RekognitionService.{name}")
            sent += 1
            _post(running, body, f"{MARK}.ListFaces")
        claim = f"AWS4-HMAC-SHA256 Credential={MARK}/20260101/us-east-1/rekognition/aws4_request"
        head = f"Host: {MARK}\r\nX-Forwarded-For: {MARK}\r\nTraceparent: {MARK}\r\nAuthorization: {claim}\r\nContent-Length: 0"
        for raw in (
            f"POST /{MARK}?{MARK} HTTP/1.1\r\n{head}\r\n\r\n",
            f"GET /{MARK} HTTP/1.1\r\n\r\n",
            f"{MARK} {MARK}\r\n\r\n",
            f"GET /{MARK} HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: {MARK}\r\n\r\n",
            f"POST / HTTP/1.1\r\n{MARK}\r\n\r\n",
        ):
            _raw(host, int(port), raw.encode())
        sent += 1
        metrics = urllib.request.urlopen(running.metrics).read().decode()
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["logger"] == "aboveboard.requests"]
    assert len(requests) == sent
    assert {line["logger"].partition(".")[0] for line in lines} == {"aboveboard"}  # strangers get no warning of uvicorn's written
    assert {line["access_key"] for line in requests} == {running.key.id, ""}
    assert {line["operation"] for line in requests} >= set(offered()) | {"StartFaceSearch", ""}
    for told in (text, metrics):
        assert MARK not in told
        assert running.key.secret not in told
        pieces = base64.b64encode(FACE).decode()
        assert not [at for at in range(0, len(pieces) - 16, 8) if pieces[at : at + 16] in told]


def test_a_defect_is_logged_by_type_and_place_without_what_it_says(tmp_path, monkeypatch, caplog):
    """Whatever an exception's text quotes, the line has its type, where it came from and the request's id."""
    with serving(null_settings(tmp_path / "data")) as running:

        def broken(*_):
            raise KeyError(MARK)

        monkeypatch.setattr(type(running.app.models.detector), "detect", broken)
        reply = running.post("DetectFaces", {"Image": {"Bytes": b64(FACE)}})
        assert (reply.status, reply.code) == (500, "InternalServerError")
        (record,) = [record for record in caplog.records if record.name == "aboveboard.server"]
    line = json.loads(telemetry.Lines().format(record))
    assert MARK not in json.dumps(line)
    assert MARK not in reply.message
    assert line["exception"] == "KeyError"
    assert line["request_id"] == reply.headers["x-amzn-requestid"]
    assert any("test_telemetry.py" in place for place in line["places"])


def test_records_of_other_libraries_lose_their_arguments():
    """They may quote what was sent."""
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "bad %s\nmore", (MARK,), None)
    assert json.loads(telemetry.Lines().format(record))["message"] == "bad %s"
    record = logging.LogRecord("asyncio", logging.ERROR, "", 1, ValueError(MARK), (), None)
    assert json.loads(telemetry.Lines().format(record))["message"] == ""


def test_a_line_tells_what_a_request_was(tmp_path):
    """Id, operation, key, status, code, time, sizes, address; the id is the one of answer and ledger."""
    log = tmp_path / "log"
    with process_serving(tmp_path / "data", options=["--log"], log=log) as running:
        answer = running.client().detect_faces(Image={"Bytes": FACE})
        with _tolerant():
            running.client().describe_collection(CollectionId="none")
    good, bad = (json.loads(line) for line in log.read_text().splitlines())
    assert good["request_id"] == answer["ResponseMetadata"]["RequestId"]
    assert (good["operation"], good["status"], good["code"], good["client"]) == ("DetectFaces", 200, "", "127.0.0.1")
    assert good["access_key"] == running.key.id
    assert good["bytes_in"] > len(FACE)
    assert good["bytes_out"] == int(answer["ResponseMetadata"]["HTTPHeaders"]["content-length"])
    assert good["ms"] > 0
    assert (bad["operation"], bad["status"], bad["code"]) == ("DescribeCollection", 400, "ResourceNotFoundException")


def test_without_the_option_requests_are_not_logged(tmp_path):
    """Nor are there metrics at the server's own address."""
    log = tmp_path / "log"
    with process_serving(tmp_path / "data", log=log) as running:
        running.client().list_collections()
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{running.endpoint}/metrics")
    assert log.read_text() == ""
    assert running.metrics == ""


def test_metrics_count_what_was_asked(tmp_path):
    """By operation and code, looks by policy, refusals by rule, throttled requests by limit; sizes as they are. Read by Prometheus' own
    parser."""
    with process_serving(tmp_path / "data", options=["--metrics-port", "0"], requests_per_second="4") as running:
        client = running.client(retries={"mode": "standard", "max_attempts": 9})
        for _ in range(2):
            client.list_collections()
        client.create_collection(CollectionId="a")
        client.create_collection(CollectionId="b", Tags={"aboveboard:policy": "public-safety"})
        client.index_faces(CollectionId="a", Image={"Bytes": FACE})
        client.search_faces_by_image(CollectionId="a", Image={"Bytes": FACE})
        for call in (
            lambda: client.search_faces_by_image(CollectionId="b", Image={"Bytes": FACE}),
            lambda: client.detect_text(Image={"Bytes": FACE}),
        ):
            with _tolerant():
                call()
        burst = running.client()
        for _ in range(9):
            with _tolerant():
                burst.list_collections()
        families = text_string_to_metric_families(urllib.request.urlopen(running.metrics).read().decode())
        found = {(one.name, *sorted(one.labels.values())): one.value for family in families for one in family.samples}
    assert found["aboveboard_requests_total", "AccessDeniedException", "DetectText"] == 1
    assert found["aboveboard_requests_total", "OK", "SearchFacesByImage"] == 1
    assert found["aboveboard_requests_total", "ListCollections", "ThrottlingException"] >= 1
    assert found["aboveboard_request_seconds_count", "SearchFacesByImage"] >= 2  # more where one was throttled and sent again
    assert found["aboveboard_looks_total", "general"] == 1
    assert found["aboveboard_refusals_total", "not-provided"] == 1
    assert found["aboveboard_refusals_total", "public-safety/roles"] == 1
    assert found["aboveboard_throttled_total", "rate"] >= 1
    assert found[("aboveboard_ledger_entries",)] > 3
    assert (
        found[("aboveboard_images_in_use",)] == found[("aboveboard_request_bytes_in_use",)] == found[("aboveboard_requests_waiting",)] == 0
    )
    assert found[("process_resident_memory_bytes",)] > 10_000_000


def test_a_proxy_s_word_for_the_client_is_an_address_or_nothing(tmp_path, monkeypatch):
    """Whatever stands after a zone's % is no part of it; whom to believe no variable of uvicorn's own says."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "192.0.2.1")
    with serving(null_settings(tmp_path / "data")) as running:
        seen = []
        running.front.listeners.append(lambda exchange: seen.append(exchange.client))
        for word in ("203.0.113.9", f"fe80::1%{MARK} 7", MARK):
            running.send(b"", {"Host": running.host, "X-Forwarded-For": word})
    assert seen == ["203.0.113.9", "fe80::1", ""]


def test_metrics_are_for_this_machine(tmp_path):
    """Also where the server itself is open to others; a port that is taken is told, and who says nothing there is hung up upon."""
    with process_serving(tmp_path / "data", options=["--metrics-port", "0", "--host", "0.0.0.0", "--plain-http-behind-proxy"]) as running:
        assert running.metrics.startswith("http://127.0.0.1:")
        port = running.metrics.split(":")[-1].partition("/")[0]
        done = subprocess.run(
            [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", str(tmp_path / "other"), "--metrics-port", port],
            capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "ABOVEBOARD_PACK": "null"},
        )  # fmt: skip
        with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as silent:
            assert silent.recv(1) == b""
    assert done.returncode == 5
    assert "--metrics-port" in done.stderr


def test_each_request_is_a_span_with_operation_and_code(tmp_path):
    """Below the caller's where he sent a traceparent; nothing else of the request is in it."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with serving(null_settings(tmp_path / "data")) as running:
        running.front.listeners.append(telemetry.spans(provider))
        running.client().create_collection(CollectionId=MARK)
        running.post("DescribeCollection", {"CollectionId": "none"}, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
        running.post("ListCollections", {}, headers={"traceparent": MARK})
    first, second, third = exporter.get_finished_spans()
    assert (first.name, first.parent) == ("CreateCollection", None)
    assert dict(first.attributes) == {"rpc.system": "aws-api", "rpc.method": "CreateCollection", "aboveboard.code": "OK"}
    assert second.attributes["aboveboard.code"] == "ResourceNotFoundException"
    assert (format(second.context.trace_id, "032x"), format(second.parent.span_id, "016x")) == ("a" * 32, "b" * 16)
    assert third.parent is None
    assert first.end_time > first.start_time
    assert MARK not in first.to_json() + second.to_json() + third.to_json()


def test_the_server_runs_without_opentelemetry_and_says_what_to_install(tmp_path):
    """The extra is asked for by --trace alone."""
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from aboveboard.cli import main\n"
        f"sys.argv = ['aboveboard', 'serve', '--port', '0', '--data', {str(tmp_path / 'data')!r}, '--trace']\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "ABOVEBOARD_PACK": "null"},
    )
    assert done.returncode == 5
    assert "pip install 'aboveboard[otel]'" in done.stderr


def _tolerant():
    return suppress(ClientError)


def _post(running, body, target):
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
    request = AWSRequest("POST", running.endpoint + "/", headers, body)
    SigV4Auth(Credentials(running.key.id, running.key.secret), "rekognition", "eu-west-1").add_auth(request)
    connection = http.client.HTTPConnection(running.endpoint.removeprefix("http://"), timeout=30)
    connection.request("POST", "/", body, dict(request.headers.items()))
    connection.getresponse().read()
    connection.close()


def _raw(host, port, data):
    with socket.create_connection((host, port), timeout=30) as wire:
        wire.sendall(data)
        wire.shutdown(socket.SHUT_WR)
        while wire.recv(65536):
            pass
