"""A Rekognition endpoint that is not ours: its own scores, its own ids, its own cut; the tests know it through boto3 only.

It sees a face in whatever is not one colour, and calls two pictures alike by the correlation of their pixels, on a scale on which
strangers stand above 50. With `cut` it withholds what is below a threshold of its own and does not say so.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np


class Foreign:
    def __init__(self, cut: float = 0.0, delay_s: float = 0.0, errors: Mapping[str, list[str]] | None = None) -> None:
        """`errors`: by operation, the codes that it answers first; "" for an answer in between."""
        self.cut, self.delay_s, self.errors = cut, delay_s, errors or {}
        self.collections: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
        self.calls: Counter[str] = Counter()
        foreign = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                name = self.headers["x-amz-target"].partition(".")[2]
                request = self.rfile.read(int(self.headers["content-length"]))
                time.sleep(foreign.delay_s)
                status, body = foreign.answer(name, request)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def answer(self, name: str, request: bytes) -> tuple[int, bytes]:
        """Status and body of an answer, or the error that is due."""
        due = self.errors[name].pop(0) if self.errors.get(name) else ""
        self.calls[due or name] += 1
        try:
            if due:
                raise LookupError(due, f"{due}, says this stub")
            return 200, json.dumps(getattr(self, name)(**json.loads(request or b"{}"))).encode()
        except LookupError as error:
            return 400, json.dumps({"__type": error.args[0], "message": error.args[1]}).encode()

    def CreateCollection(self, CollectionId: str) -> dict[str, Any]:
        if CollectionId in self.collections:
            raise LookupError("ResourceAlreadyExistsException", "The collection is there already.")
        self.collections[CollectionId] = {}
        return {"StatusCode": 200}

    def DeleteCollection(self, CollectionId: str) -> dict[str, Any]:
        del self.collections[CollectionId]
        return {"StatusCode": 200}

    def ListFaces(self, CollectionId: str) -> dict[str, Any]:
        faces = self.collections[CollectionId].items()
        return {"Faces": [{"FaceId": face, "ExternalImageId": name} for face, (name, _) in faces]}

    def IndexFaces(self, CollectionId: str, Image: Any, ExternalImageId: str, **_: Any) -> dict[str, Any]:
        try:
            features = _features(Image)
        except LookupError:
            return {"FaceRecords": [], "UnindexedFaces": []}
        face = f"00000000-0000-0000-0000-{len(self.collections[CollectionId]):012}"
        self.collections[CollectionId][face] = (ExternalImageId, features)
        return {"FaceRecords": [{"Face": {"FaceId": face, "ExternalImageId": ExternalImageId}}]}

    def SearchFacesByImage(
        self, CollectionId: str, Image: Any, MaxFaces: int, FaceMatchThreshold: float, **_: Any
    ) -> dict[str, Any]:  # fmt: skip
        probe = _features(Image)
        faces = [
            {"Similarity": _alike(probe, features), "Face": {"FaceId": face, "ExternalImageId": name}}
            for face, (name, features) in self.collections[CollectionId].items()
        ]
        kept = [face for face in faces if face["Similarity"] >= max(FaceMatchThreshold, self.cut)]
        return {"FaceMatches": sorted(kept, key=lambda face: -face["Similarity"])[:MaxFaces]}

    def CompareFaces(self, SourceImage: Any, TargetImage: Any, SimilarityThreshold: float, **_: Any) -> dict[str, Any]:
        alike = _alike(_features(SourceImage), _features(TargetImage))
        is_shown = alike >= max(SimilarityThreshold, self.cut)
        return {"FaceMatches": [{"Similarity": alike, "Face": {}}] * is_shown, "UnmatchedFaces": [{}] * (not is_shown)}


def _features(image: dict[str, str]) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(image["Bytes"]), np.uint8), cv2.IMREAD_GRAYSCALE)
    small = cv2.resize(pixels, (24, 24), interpolation=cv2.INTER_AREA).astype(float).ravel()
    if small.std() < 1:
        raise LookupError("InvalidParameterException", "Request has invalid parameters")
    return (small - small.mean()) / small.std()


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    return float(50 + 50 * np.mean(one * other))
