"""What the server costs over the models: IndexFaces over HTTP, a search's own time, memory: python benchmarks/server.py FOLDER."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import psutil
import uvicorn
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from report import write

from aboveboard import settings
from aboveboard.accountability.operators import AccessKey, Session
from aboveboard.biometrics.vocabulary import Template
from aboveboard.bootstrap import open_app
from aboveboard.rekognition.protocol import configuration
from aboveboard.rekognition.server import Front
from aboveboard.service import analyse, enrol, galleries
from aboveboard.service.app import App

GALLERY = 10_000


def signed(endpoint: str, key: AccessKey, target: str, body: dict[str, Any]) -> AWSRequest:
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"RekognitionService.{target}"}
    request = AWSRequest("POST", endpoint + "/", data=json.dumps(body).encode(), headers=headers)
    SigV4Auth(Credentials(key.id, key.secret), "rekognition", "us-east-1").add_auth(request)
    return request


def fill(app: App, session: Session, collection_id: str) -> None:
    """A gallery of random unit templates, written as enrolment writes them."""
    vectors = np.random.default_rng(0).normal(size=(GALLERY, app.models.recogniser.dimensions)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    galleries.create(app, session, collection_id, {})
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        for i, vector in enumerate(vectors):
            face_id = f"00000000-0000-0000-0000-{i:012x}"
            row = {"face_id": face_id, "image_id": face_id, "box": [0, 0, 1, 1], "confidence": 99.0}
            app.collections.add_face(connection, collection, row, Template(vector, collection.model_version))
        app.collections.touch(connection, collection, added=GALLERY)


def rate(work: Any, items: list[bytes]) -> float:
    """Items per second of two threads."""
    with ThreadPoolExecutor(2) as pool:
        start = time.perf_counter()
        list(pool.map(work, items))
        return len(items) / (time.perf_counter() - start)


def main(folder: Path) -> None:
    cv2.setNumThreads(1)
    photographs = [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))]
    photographs = [data for data in photographs if len(analyse_sizes(data)) == 2][:640]
    data = Path(tempfile.mkdtemp())
    app = open_app(settings.load(data))
    made = app.operators.first(app.gate.policy_of(None))
    assert made is not None
    operator, key = made
    session = Session(operator, "benchmark", "benchmark")
    fill(app, session, "large")
    with serving(app) as endpoint:
        searched, analysed = search_times(app, endpoint, key, photographs[:120])
    command = [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", str(data)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        endpoint = next(line.split()[-1] for line in server.stdout if "listening on" in line)
        memory = psutil.Process(server.pid).memory_info().rss / 2**20
        pairs = indexing_rates(app, session, endpoint, key, photographs[120:])
    finally:
        server.terminate()
        server.wait()
    added = statistics.median(searched) - statistics.median(analysed)
    over_http, in_process = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    write(
        "server",
        ["what", "figure"],
        [
            [f"SearchFacesByImage over HTTP, N = {GALLERY:,}", f"{statistics.median(searched):.2f} ms"],
            ["detection, measures and template alone", f"{statistics.median(analysed):.2f} ms"],
            ["added by auth, parsing, policy, two ledger entries, scan, answer", f"{added:.2f} ms"],
            ["IndexFaces over HTTP, two boto3 threads", f"{over_http:.1f} photographs/s"],
            ["the same in process, two threads", f"{in_process:.1f} photographs/s"],
            ["ratio, median of rounds", f"{100 * ratio:.0f} %"],
            ["resident memory of the server, default pack, empty gallery", f"{memory:.0f} MB"],
        ],
        f"Medians; searches interleaved with the models alone ({len(searched)} each), indexing in {len(pairs)} alternating rounds.",
    )


def analyse_sizes(data: bytes) -> tuple[int, ...]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return image.shape[:2] if image is not None else ()


@contextmanager
def serving(app: App) -> Iterator[str]:
    """A server in this process, so that a search and the models alone use the same weights in the same caches."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(configuration(Front(app), app.settings.connections))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def search_times(app: App, endpoint: str, key: AccessKey, photographs: list[bytes]) -> tuple[list[float], list[float]]:
    """Milliseconds of a search over HTTP and of the models alone, photograph by photograph."""
    host = endpoint.removeprefix("http://")
    connection = http.client.HTTPConnection(host)
    searched, analysed = [], []
    for data in photographs:
        image = {"Bytes": base64.b64encode(data).decode()}
        request = signed(endpoint, key, "SearchFacesByImage", {"CollectionId": "large", "Image": image}).prepare()
        start = time.perf_counter()
        connection.request("POST", "/", request.body, dict(request.headers))
        answer = connection.getresponse()
        answer.read()
        searched.append((time.perf_counter() - start) * 1e3)
        assert answer.status == 200
        start = time.perf_counter()
        analyse.probe(app, data, "NONE", "the image")
        analysed.append((time.perf_counter() - start) * 1e3)
    return searched[10:], analysed[10:]


def indexing_rates(app: App, session: Session, endpoint: str, key: AccessKey, photographs: list[bytes]) -> list[tuple[float, float]]:
    """Photographs per second over HTTP and in process, round by round."""
    client = boto3.client(
        "rekognition", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key.id, aws_secret_access_key=key.secret,
        config=Config(max_pool_connections=2),
    )  # fmt: skip
    galleries.create(app, session, "http", {})
    galleries.create(app, session, "process", {})
    pairs = []
    for start in range(0, len(photographs), 130):
        some = photographs[start : start + 130]
        over_http = rate(lambda data: client.index_faces(CollectionId="http", Image={"Bytes": data}, MaxFaces=1), some)
        in_process = rate(lambda data: enrol.index(app, session, "process", data, most=1), some)
        pairs.append((over_http, in_process))
    return pairs


if __name__ == "__main__":
    main(Path(sys.argv[1]))
