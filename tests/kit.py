"""What the tests share: a running server, real boto3 clients, drawn photographs, and botocore's model as the judge of every answer."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import uvicorn
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.model import OperationModel
from judge import judge, model
from onnx import TensorProto, helper, numpy_helper

from aboveboard import bootstrap, settings
from aboveboard.accountability.cases import Declared
from aboveboard.accountability.operators import AccessKey
from aboveboard.accountability.replay import Replay
from aboveboard.accountability.verify_ledger import Report
from aboveboard.rekognition.protocol import configuration
from aboveboard.rekognition.server import Front
from aboveboard.service.app import App
from aboveboard.vision import null

NO_FACE = "There are no faces in the image. Should be at least 1."
BASIS = (
    "audit-id", "policy", "threshold", "threshold-origin", "floor", "gallery-size", "fmr", "expected-false", "fpir", "fnir",
    "calibration", "extrapolated",
)  # fmt: skip


# --- drawn photographs ---------------------------------------------------------------------------------------------------------


def canvas(
    *subjects: int, take: int = 0, variation: float = 0.0, size: int = 96, width: int = 0, height: int = 0, ground: int = 200
) -> Any:
    """A BGR picture with a drawn face of each subject in a row; `size` px each, the first one 8 px larger, so that it is the largest."""
    sizes = [size + (8 if i == 0 and len(subjects) > 1 else 0) for i in range(len(subjects))]
    image = np.full((height or max(sizes, default=96) + 64, width or max(160, 24 + sum(side + 24 for side in sizes)), 3), ground, np.uint8)
    left = 24
    for subject, side in zip(subjects, sizes, strict=True):
        null.draw(image, left, 32, side, subject, variation, take)
        left += side + 24
    return image


def picture(*subjects: int, suffix: str = ".png", **how: Any) -> bytes:
    """The bytes of such a picture, as PNG or, with suffix='.jpg', as JPEG."""
    return encoded(canvas(*subjects, **how), suffix)


def encoded(image: Any, suffix: str = ".png", *flags: int) -> bytes:
    """An array as the bytes of an image file."""
    done, data = cv2.imencode(suffix, image, list(flags))
    assert done
    return data.tobytes()


# --- a running server ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _session() -> boto3.session.Session:
    return boto3.session.Session()


def _judge_answer(http_response: Any, model: OperationModel, **_: Any) -> None:
    headers = {name.lower(): value for name, value in http_response.headers.items()}
    judge(model.name, http_response.status_code, headers, http_response.content)


def client(endpoint: str, key: AccessKey, region: str = "eu-west-1", verify: Path | None = None, **config: Any) -> Any:
    """A real boto3 client, retries off; every answer it gets is judged before the test sees it."""
    made = _session().client(
        "rekognition",
        endpoint_url=endpoint,
        aws_access_key_id=key.id,
        aws_secret_access_key=key.secret,
        region_name=region,
        verify=str(verify) if verify else None,
        config=Config(**{"retries": {"total_max_attempts": 1}, "read_timeout": 120, **config}),
    )
    made.meta.events.register("after-call.rekognition.*", _judge_answer)
    return made


class Wire:
    """How the tests speak to a server past boto3's own checks: signed requests, and raw bytes."""

    port: int
    key: AccessKey

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def post(self, name: str, document: Any, key: AccessKey | None = None, **how: Any) -> Reply:
        """A signed request past boto3's own checks: `document` is sent as JSON, bytes as they are."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        reply = self.send(body, self.signed(body, f"RekognitionService.{name}", key, **how))
        if name in model().operation_names:
            judge(name, reply.status, reply.headers, reply.body)
        return reply

    def signed(
        self, body: bytes, target: str | None, key: AccessKey | None = None, path: str = "/", region: str = "eu-west-1",
        service: str = "rekognition", headers: Mapping[str, str] | None = None,
    ) -> dict[str, str]:  # fmt: skip
        """Headers of a POST signed by botocore."""
        given = {"Content-Type": "application/x-amz-json-1.1", "Host": self.host, **(headers or {})}
        if target is not None:
            given["X-Amz-Target"] = target
        request = AWSRequest("POST", f"http://{self.host}{path}", given, body)
        key = key or self.key
        SigV4Auth(Credentials(key.id, key.secret), service, region).add_auth(request)
        return dict(request.headers.items())

    def send(self, body: bytes, headers: Mapping[str, str], method: str = "POST", path: str = "/") -> Reply:
        """One request exactly as given, by the standard library's client."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            sent = {"Content-Length": str(len(body)), **{name.title(): value for name, value in headers.items()}}
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders()
            with suppress(BrokenPipeError, ConnectionResetError):  # the server may answer before it has read everything
                connection.send(body)
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def bytes_exchange(self, data: bytes, then_hang_up: bool = True) -> bytes:
        """What the server says to raw bytes on the wire until it closes; the sending side is closed first unless told not to."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as wire:
            wire.sendall(data)
            if then_hang_up:
                wire.shutdown(socket.SHUT_WR)
            parts = []
            while part := wire.recv(65536):
                parts.append(part)
            return b"".join(parts)

    def is_alive(self) -> bool:
        """Whether an ordinary request still gets its ordinary answer."""
        return self.post("DetectFaces", {"Image": {"Bytes": b64(picture(1))}}).status == 200


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.ready.set()


class Server(Wire):
    """A real server on a free port over one data folder, in a thread of this process."""

    def __init__(self, app: App, key: AccessKey | None = None) -> None:
        self.app = app
        if key is None:
            made = app.operators.first(app.gate.policy_of(None))
            assert made is not None, "this data folder has operators already: pass a key"
            key = made[1]
        self.key = key
        # The protocol must be named, or asyncio leaves Nagle's algorithm on and each request waits 40 ms.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.front = Front(app)
        config = configuration(self.front, app.settings.connections)
        self._uvicorn = _Server(config)
        self._thread = threading.Thread(target=self._uvicorn.run, args=([listening],), daemon=True)
        self._thread.start()
        assert self._uvicorn.ready.wait(60)

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(30)
        self.app.database.close()

    def operator(self, name: str, *roles: str, buckets: Sequence[str] = ()) -> AccessKey:
        """Another operator's access key."""
        return self.app.operators.add(name, roles, "test", self.app.gate.policies.get("general"), buckets)

    def detective(
        self, name: str, *roles: str, purpose: str = "suspect", offence: str = "robbery", buckets: Sequence[str] = (), **how: Any
    ) -> AccessKey:
        """The key of a new case of a new, certified operator, who is investigator and whatever else; `how` is what Cases.open takes."""
        self.operator(name, "investigator", *roles, buckets=buckets)
        self.app.standing.certify(name, "examiner", 1.0, "2999-01-01", "test")
        self.app.cases.open(f"case of {name}", purpose, name, {"operator": name}, offence=offence, **how)
        return self.case_key(f"case of {name}")

    def case_key(self, number: str, probe: Any = "photograph", edits: Any = (), reason: str = "") -> AccessKey:
        """Another key of a case, for looks that declare this."""
        return self.app.cases.credentials(number, Declared(probe, tuple(edits), reason), 3600, {"operator": "test"})[0]

    def client(self, key: AccessKey | None = None, **config: Any) -> Any:
        return client(self.endpoint, key or self.key, **config)

    def entries(self, start: int = 0) -> list[dict[str, Any]]:
        """The ledger's entries from `start` on."""
        return [json.loads(entry) for entry in self.app.ledger.entries(start)]

    def entry_count(self) -> int:
        return self.app.ledger.checkpoint()[0]


class Reply:
    """An HTTP answer."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The AWS error code, empty for an answer that is none."""
        return "" if self.status == 200 else str(self.json["__type"])

    @property
    def message(self) -> str:
        return "" if self.status == 200 else str(self.json["Message"])


class ServerProcess(Wire):
    """`aboveboard serve` as a process of its own, on a free port over a data folder, on the null pack."""

    def __init__(
        self, data: Path, key: AccessKey | None = None, options: Sequence[str] = (), log: Path | None = None, **overrides: str
    ) -> None:
        environment = {
            f"ABOVEBOARD_{name.upper()}": value
            for name, value in {"pack": "null", "label_pack": "null-labels", "attribute_pack": "null-attributes", **overrides}.items()
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", str(data), *options],
            env={"PATH": os.environ["PATH"], "HOME": str(data.parent), "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=log.open("w") if log else subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.metrics = ""
        said: dict[str, str] = {}
        for line in self.process.stdout:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            said[name] = value
            if line.startswith("metrics on "):
                self.metrics = line.split()[-1]
            if line.startswith("listening on "):
                self.endpoint = line.split()[-1]
                self.port = int(self.endpoint.rpartition(":")[2])
                break
        else:
            raise AssertionError(self.process.communicate())
        self.data = data
        self.key = key or AccessKey(said["AWS_ACCESS_KEY_ID"], said["AWS_SECRET_ACCESS_KEY"])

    @property
    def pid(self) -> int:
        return self.process.pid

    def client(self, **config: Any) -> Any:
        return client(self.endpoint, self.key, **config)

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory, now and at its most."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(status["VmRSS"].split()[0]) / 1024, int(status["VmHWM"].split()[0]) / 1024

    def kill(self) -> None:
        """As the kernel or a power cut does it: no signal handler runs."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.communicate(timeout=60)
        return self.process.returncode


@contextmanager
def process_serving(
    data: Path, key: AccessKey | None = None, options: Sequence[str] = (), log: Path | None = None, **overrides: str
) -> Iterator[ServerProcess]:
    """A server process while the block runs; `log` takes its stderr."""
    running = ServerProcess(data, key, options, log, **overrides)
    try:
        yield running
    finally:
        running.stop()


def b64(data: bytes) -> str:
    """Bytes as the wire carries them."""
    return base64.b64encode(data).decode()


def null_settings(data: Path, **overrides: str) -> settings.Settings:
    """Settings of a deployment on the null pack, untouched by what this machine has set."""
    environment = {
        f"ABOVEBOARD_{name.upper()}": value
        for name, value in {"pack": "null", "label_pack": "null-labels", "attribute_pack": "null-attributes", **overrides}.items()
    }
    return settings.load(data, {"HOME": str(data.parent / "home"), **environment})


def other_pack(models: Path, pack: str = "other", version: str = "900.1", *, calibrated: bool = True) -> str:
    """Install a pack of another model that reads drawn faces too: the board's cells, projected at random to 512 features."""
    folder = models / pack
    folder.mkdir(parents=True)
    weights = np.random.default_rng(len(pack)).normal(size=(3 * 8 * 8, 512)).astype(np.float32)
    weights -= weights.mean(axis=0)
    nodes = [
        helper.make_node("AveragePool", ["face"], ["squares"], kernel_shape=[14, 14], strides=[14, 14]),
        helper.make_node("Flatten", ["squares"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["features"]),
    ]
    inputs = [helper.make_tensor_value_info("face", TensorProto.FLOAT, [1, 3, 112, 112])]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 512])]
    graph = helper.make_graph(nodes, pack, inputs, outputs, [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    (folder / "other.onnx").write_bytes(model)
    lines = [
        f'id = "{pack}"', f'name = "{pack}"', f'model_version = "{version}"', 'licence = "Apache-2.0"', 'training_data = "none"',
        "limits = []", "[detector]", 'architecture = "null"', "[recogniser]", 'architecture = "embedding"', 'file = "other.onnx"',
        f'sha256 = "{hashlib.sha256(model).hexdigest()}"', "dimensions = 512", "mean = 127.5", "scale = 0.00784313725",
    ]  # fmt: skip
    (folder / "card.toml").write_text("\n".join(lines))
    if calibrated:
        text = (resources.files("aboveboard") / "calibrations" / "null.json").read_text()
        (folder / "calibration.json").write_text(json.dumps({**json.loads(text), "id": pack, "model_version": version}))
    return pack


def pack_with(source: Path, part: str, document: Mapping[str, Any]) -> Path:
    """A folder to install a pack `own` from: the null pack's nets, and one fitted file ("quality", "presence") of its own."""
    source.mkdir(exist_ok=True)
    lines = [
        'id = "own"', 'name = "own"', 'model_version = "9.1"', 'licence = "none"', 'training_data = "none"', "limits = []",
        f'{part} = "own-{part}.json"', "[detector]", 'architecture = "null"', "[recogniser]", 'architecture = "null"', "dimensions = 64",
    ]  # fmt: skip
    (source / "card.toml").write_text("\n".join(lines))
    (source / f"own-{part}.json").write_text(json.dumps(document))
    return source


@contextmanager
def serving(chosen: settings.Settings, key: AccessKey | None = None) -> Iterator[Server]:
    """A server over these settings while the block runs."""
    server = Server(bootstrap.open_app(chosen), key)
    try:
        yield server
    finally:
        server.stop()


def basis(answer: Mapping[str, Any]) -> dict[str, str]:
    """The x-aboveboard-* headers of a boto3 answer, without the prefix."""
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return {name.removeprefix("x-aboveboard-"): value for name, value in headers.items() if name.startswith("x-aboveboard-")}


# --- RFC 9162, section 2.1.1, as it is written there ---------------------------------------------------------------------------


def merkle_tree_hash(entries: list[bytes]) -> bytes:
    """MTH of a list of entries: the definition itself, recursive and slow."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while k * 2 < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + merkle_tree_hash(entries[:k]) + merkle_tree_hash(entries[k:])).digest()


def assert_ledger_whole(app: App) -> list[dict[str, Any]]:
    """No gaps, the root is the one that RFC 9162 gives for these entries, and decided again they say the same; returns them."""
    size, root = app.ledger.checkpoint()
    raw = list(app.ledger.entries())
    assert len(raw) == size
    assert root == merkle_tree_hash(raw)
    entries = [json.loads(entry) for entry in raw]
    assert [entry["seq"] for entry in entries] == list(range(size))
    again = Replay({pack.sha256: pack for pack in app.gate.policies.all()}, report := Report())
    for one in raw:
        again.add(one)
    again.end()
    assert report.findings == [], report.findings
    return entries
