"""What --workers brings: requests a second of one process and of two, a question's way to the search process, memory.

python benchmarks/workers.py FOLDER
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from report import write

from aboveboard import bootstrap, settings
from aboveboard.accountability.operators import AccessKey
from aboveboard.biometrics.gallery import BINS
from aboveboard.remote import Remote, answer, line
from aboveboard.storage.templates import Scan

WAYS = {
    "one process, one image at once": ((), {"images_at_once": "1"}),
    "one process": ((), {}),
    "--workers 2": (("--workers", "2"), {}),
}
ROUNDS, PHOTOGRAPHS, LISTS = 3, 40, 300
Request = tuple[bytes, dict[str, str]]


@contextmanager
def serving(data: Path, pack: str, way: str) -> Iterator[tuple[int, int]]:
    """A server process: its port and pid."""
    options, variables = WAYS[way]
    command = [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", str(data), *options]
    environment = {**os.environ, **{f"ABOVEBOARD_{name.upper()}": value for name, value in {"pack": pack, **variables}.items()}}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        yield next(int(said.rpartition(":")[2]) for said in server.stdout if said.startswith("listening on")), server.pid
    finally:
        server.terminate()
        server.wait()


def signed(key: AccessKey, operation: str, document: dict[str, Any]) -> Request:
    """A request, signed before the clock runs: a client must not take the server's cores."""
    headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"RekognitionService.{operation}", "Host": "localhost"}
    request = AWSRequest("POST", "http://localhost/", headers, json.dumps(document).encode())
    SigV4Auth(Credentials(key.id, key.secret), "rekognition", "us-east-1").add_auth(request)
    prepared = request.prepare()
    return prepared.body, dict(prepared.headers)


def rate(port: int, requests: list[Request], clients: int) -> float:
    """Requests a second of so many clients, each with a connection of its own."""
    waiting, lock, statuses = iter(requests), threading.Lock(), list[int]()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            with lock:
                request = next(waiting, None)
            if request is None:
                return
            connection.request("POST", "/", *request)
            reply = connection.getresponse()
            reply.read()
            statuses.append(reply.status)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    assert statuses == [200] * len(requests), statuses
    return len(requests) / took


def rates(pack: str, photographs: list[bytes]) -> dict[tuple[str, int, str], list[float]]:
    """By operation, clients and way: requests a second of each round; the ways take turns."""
    data = Path(tempfile.mkdtemp()) / "data"
    app = bootstrap.open_app(settings.load(data, {**os.environ, "ABOVEBOARD_PACK": pack}))
    made = app.operators.first(app.gate.policy_of(None))
    assert made is not None
    app.database.close()
    key, found = made[1], dict[tuple[str, int, str], list[float]]()
    images = [{"Bytes": base64.b64encode(photograph).decode()} for photograph in photographs]
    with ExitStack() as stack:
        ports = {way: stack.enter_context(serving(data, pack, way))[0] for way in WAYS}
        first = ports["one process"]
        rate(first, [signed(key, "CreateCollection", {"CollectionId": "all"})], 1)
        rate(first, [signed(key, "IndexFaces", {"CollectionId": "all", "MaxFaces": 1, "Image": image}) for image in images], 2)
        numbers = itertools.count()
        for turn in range(ROUNDS + 1):
            for clients in (1, 2, 4):
                for way, port in ports.items():
                    new = f"c{next(numbers)}"
                    jobs = {"ListFaces, null pack": [("ListFaces", {"CollectionId": "all", "MaxResults": 10})] * LISTS}
                    if pack != "null":
                        rate(first, [signed(key, "CreateCollection", {"CollectionId": new})], 1)
                        jobs = {
                            "IndexFaces": [("IndexFaces", {"CollectionId": new, "MaxFaces": 1, "Image": image}) for image in images],
                            "SearchFacesByImage": [("SearchFacesByImage", {"CollectionId": "all", "Image": image}) for image in images],
                        }
                    for job, requests in jobs.items():
                        measured = rate(port, [signed(key, *request) for request in requests], clients)
                        if turn:  # the first one warms up
                            found.setdefault((job, clients, way), []).append(measured)
    return found


class _Store:
    """Answers at once, as a search with ten candidates answers."""

    def search(self, *_: Any) -> Scan:
        found = tuple((f"00000000-0000-0000-0000-{i:012x}", 0.5) for i in range(10))
        return Scan(found, 10_000, 1, np.zeros(BINS, np.int64), None)


def way_there() -> float:
    """Milliseconds of a question to another process, median of 3,000."""
    asking, answering = line()
    pid = os.fork()
    if not pid:
        asking.close()
        answer(answering, {"store": _Store()})
        os._exit(0)
    store, vector, times = Remote(asking).stand_in("store"), np.zeros(128, np.float32), list[float]()
    for _ in range(3000):
        start = time.perf_counter()
        store.search(("0" * 36, 1, ("1", "2"), 0.3, 10), vector, ())
        times.append(time.perf_counter() - start)
    asking.close()
    os.waitpid(pid, 0)
    return statistics.median(times) * 1e3


def memory(pack: str, way: str, data: Path) -> tuple[list[float], float]:
    """MB that are each process's alone and its part of what it shares (PSS): the supervisor, then its children; and all together."""
    with serving(data, pack, way) as (_, pid):
        time.sleep(2)
        of = [psutil.Process(one).memory_full_info().pss / 2**20 for one in (pid, *(child.pid for child in psutil.Process(pid).children()))]
    return of, sum(of)


def main(folder: Path) -> None:
    photographs = [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))[:PHOTOGRAPHS]]
    way = way_there()
    found = {**rates("yunet-sface", photographs), **rates("null", [])}
    rows = []
    for operation, clients in dict.fromkeys((operation, clients) for operation, clients, _ in found):
        of = [found[operation, clients, way] for way in WAYS]
        ratios = [statistics.median(two / one for one, two in zip(of[i], of[2], strict=True)) for i in (0, 1)]
        rows.append([f"{operation}, {clients}", *(f"{statistics.median(one):.1f}" for one in of), *(f"{ratio:.2f}" for ratio in ratios)])
    data = Path(tempfile.mkdtemp()) / "data"
    (_, one), (parts, two) = (memory("yunet-sface", way, data) for way in ("one process", "--workers 2"))
    shares = ", ".join(f"{part:.0f}" for part in parts)
    write(
        "workers",
        ["requests/s, clients", *WAYS, "two workers to one image at once", "two workers to one process"],
        rows,
        f"Medians of {ROUNDS} rounds in turns, ratios within a round. A question to the search process takes {way:.2f} ms. Memory (PSS) of "
        f"a server that has answered nothing: {one:.0f} MB in one process, {two:.0f} MB with two workers ({shares}: supervisor, search "
        "process, workers).",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
