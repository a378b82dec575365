"""What a crowd costs: 100 requests of 5 MB at once, peak memory of the server and what it answered: python benchmarks/load.py FOLDER."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from report import write

from aboveboard import settings
from aboveboard.vision import null

CROWD = 100
LARGEST_IMAGE = 5 * 1024 * 1024
SIDE = 7900
"""Nearly the 64 million pixels that are allowed."""


class Serving:
    """`aboveboard serve` over a new data folder on a model pack."""

    def __init__(self, pack: str) -> None:
        data = tempfile.mkdtemp()
        Path(data, "settings.toml").write_text(f'pack = "{pack}"\nmodels = "{settings.load().models}"\n')
        command = [sys.executable, "-m", "aboveboard", "serve", "--port", "0", "--data", data]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = {}
        for line in self.process.stdout:
            name, _, value = line.strip().removeprefix("export ").partition("=")
            said[name] = value
            if line.startswith("listening on "):
                self.endpoint = line.split()[-1]
                break
        self.credentials = Credentials(said["AWS_ACCESS_KEY_ID"], said["AWS_SECRET_ACCESS_KEY"])

    def status(self, name: str) -> float:
        """A size out of /proc/PID/status in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024

    def crowd(self, target: str, document: dict[str, Any], timeout_s: float = 300) -> tuple[Counter[str], float]:
        """One and the same request `CROWD` times at once: how often which answer came, and the seconds until the last."""
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": f"RekognitionService.{target}"}
        request = AWSRequest("POST", self.endpoint + "/", data=json.dumps(document).encode(), headers=headers)
        SigV4Auth(self.credentials, "rekognition", "us-east-1").add_auth(request)
        prepared = request.prepare()

        def one(_: int) -> str:
            connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=timeout_s)
            try:
                connection.request("POST", "/", prepared.body, dict(prepared.headers))
                answer = connection.getresponse()
                body = json.loads(answer.read())
                return "answered" if answer.status == 200 else str(body["__type"])
            except OSError as error:
                return type(error).__name__
            finally:
                connection.close()

        start = time.perf_counter()
        with ThreadPoolExecutor(CROWD) as pool:
            return Counter(pool.map(one, range(CROWD))), time.perf_counter() - start

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def photograph(face: bytes) -> str:
    """A JPEG of just under 5 MiB and 64 million pixels with a photographed and a drawn face in it, as base64."""
    noise = np.random.default_rng(0).integers(90, 160, (SIDE // 3, SIDE // 3, 3), dtype=np.uint8)
    image = cv2.resize(noise, (SIDE, SIDE))
    portrait = cv2.resize(cv2.imdecode(np.frombuffer(face, np.uint8), cv2.IMREAD_COLOR), (1500, 1500))
    image[:1500, :1500] = portrait
    null.draw(image, 3000, 3000, 1000, 1)
    for quality in itertools.count(60, -4):
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) <= LARGEST_IMAGE:
            return base64.b64encode(data).decode()
    raise AssertionError


def main(folder: Path) -> None:
    image = {"Bytes": photograph(next(iter(sorted(folder.rglob("*.jpg")))).read_bytes())}
    asked = {"DetectFaces": {"Image": image}, "CompareFaces": {"SourceImage": image, "TargetImage": image}}
    rows = []
    for pack in ("null", "yunet-sface"):
        for target, document in asked.items():
            serving = Serving(pack)
            try:
                idle = serving.status("VmRSS")
                answers, seconds = serving.crowd(target, document)
                peak, after = serving.status("VmHWM"), serving.status("VmRSS")
            finally:
                serving.stop()
            told = ", ".join(f"{count} {name}" for name, count in answers.most_common())
            rows.append([f"{CROWD} x {target}, {pack}", f"{idle:.0f} MB", f"{peak:.0f} MB", f"{after:.0f} MB", told, f"{seconds:.0f} s"])
            print(rows[-1], flush=True)
    megabytes = len(image["Bytes"]) * 3 / 4e6
    write(
        "load",
        ["at once", "idle", "peak", "afterwards", "answers", "took"],
        rows,
        f"Resident memory. Each image has {megabytes:.1f} MB and {SIDE} x {SIDE} pixels; CompareFaces sends two. No retries.",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
