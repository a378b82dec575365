"""Commands as processes: stopping and going on, the server."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from commands import COMMAND, client, errors, served, write
from typer.testing import Result


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(environment: Mapping[str, str], tmp_path: Path) -> None:
    folder, many = tmp_path / "many", 200
    for subject in range(many):
        write(folder / f"{subject:03d}.png", subject)
    index = [*COMMAND, "index", str(folder), "-c", "c", "--create", "--json", "--workers", "2"]
    everything = {**os.environ, **environment}
    process = subprocess.Popen(index, env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    # A pipe that holds fewer lines than there are photographs: the run waits for its reader and cannot end before Ctrl-C.
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    # Not communicate(): it would lose what readline() has taken in ahead.
    rest, said = process.stdout.read(), process.stderr.read()
    lines = [json.loads(line) for line in [*first, *rest.splitlines()]]
    assert process.wait(60) == 130, said
    assert "Traceback" not in said
    assert "To go on: " in said
    done = lines[-1]["summary"]
    assert 5 <= done["taken"] == done["faces"] < many
    again = subprocess.run(index, env=everything, capture_output=True, text=True, timeout=120, check=True)
    summary = json.loads(again.stdout.splitlines()[-1])["summary"]
    assert (summary["faces"], summary["already_indexed"], summary["new_faces"]) == (many, done["taken"], many - done["taken"])


def test_serve_prints_the_key_once_and_stops_cleanly(environment: Mapping[str, str]) -> None:
    with served(environment) as (process, exports, said):
        assert list(exports) == [
            "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL_REKOGNITION",
        ]  # fmt: skip
        assert "shown this once" in said
        url = exports["AWS_ENDPOINT_URL_REKOGNITION"]
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            assert json.load(answer)["status"] == "ok"
            assert answer.headers["server"] is None
        assert client(exports).list_collections()["CollectionIds"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        out, err = process.communicate()
        assert exports["AWS_SECRET_ACCESS_KEY"] not in out + err
    with served(environment) as (process, exports, said):
        assert "AWS_SECRET_ACCESS_KEY" not in said
        assert "not shown again" in said
        assert "aboveboard operator add NAME --role ROLE\n" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_serve_repeats_the_data_folder(environment: Mapping[str, str], tmp_path: Path) -> None:
    data = str(tmp_path / "elsewhere")
    for _ in range(2):
        with served(environment, "--data", data) as (_, _, said):
            pass
    assert f"operator add NAME --role ROLE --data {data}\n" in said


def test_a_request_in_flight_is_finished(environment: Mapping[str, str]) -> None:
    with served(environment) as (process, exports, _):
        url = exports["AWS_ENDPOINT_URL_REKOGNITION"]
        body = b'{"MaxResults": 7}'
        headers = {"X-Amz-Target": "RekognitionService.ListCollections", "Content-Type": "application/x-amz-json-1.1"}
        request = AWSRequest("POST", f"{url}/", headers=headers, data=body)
        keys = Credentials(exports["AWS_ACCESS_KEY_ID"], exports["AWS_SECRET_ACCESS_KEY"])
        SigV4Auth(keys, "rekognition", exports["AWS_REGION"]).add_auth(request)
        host, port = url.removeprefix("http://").split(":")
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        head = "\r\n".join(["POST / HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}", *lines, "", ""])
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode() + body[:5])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(body[5:])
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert process.wait(10) == 0


def test_server_and_verbs_see_each_others_writes(environment: Mapping[str, str], run: Callable[..., Result], photographs: Path) -> None:
    bob = photographs / "bob.jpg"
    with served(environment) as (_, exports, _):
        rekognition = client(exports)
        rekognition.create_collection(CollectionId="shared")
        run("index", photographs, "-c", "shared")
        answer = rekognition.search_faces_by_image(CollectionId="shared", Image={"Bytes": bob.read_bytes()})
        assert answer["FaceMatches"][0]["Face"]["ExternalImageId"] == "bob.jpg"
        rekognition.delete_faces(CollectionId="shared", FaceIds=[answer["FaceMatches"][0]["Face"]["FaceId"]])
        run("search", bob, "-c", "shared", code=1)


def test_serve_refuses_a_taken_port_and_plain_http_for_others(environment: Mapping[str, str], run: Callable[..., Result]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "is another server running?" in errors(run("serve", "--port", port, code=5))[0]
    assert "--plain-http-behind-proxy" in errors(run("serve", "--host", "0.0.0.0", code=3))[0]
    assert "cannot listen" in errors(run("serve", "--host", "192.0.2.1", "--plain-http-behind-proxy", code=5))[0]
    with served(environment, "--host", "0.0.0.0", "--plain-http-behind-proxy") as (_, exports, _):
        port = int(exports["AWS_ENDPOINT_URL_REKOGNITION"].rsplit(":", 1)[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200
