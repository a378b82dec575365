"""`serve --workers 2`: what one worker wrote the other finds, limits are of both together; whichever process dies, no answer is wrong."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import sqlalchemy as sa
from botocore.exceptions import BotoCoreError, ClientError
from kit import ServerProcess, assert_ledger_whole, null_settings, picture, process_serving
from prometheus_client.parser import text_string_to_metric_families

from aboveboard import bootstrap
from aboveboard.storage.schema import COLLECTIONS, FACES, TEMPLATES


class Deployment:
    """A server with two workers: its processes by what they are, and a client that stays with each worker."""

    def __init__(self, server: ServerProcess, log: Path) -> None:
        self.server, self._log = server, log
        self.clients = list(self._clients().values())

    def lines(self):
        return [json.loads(line) for line in self._log.read_text().rpartition("\n")[0].splitlines()]  # the last may be half there

    def search_process(self):
        """The child that answers no requests, once there is one."""
        workers = self._clients()
        while True:
            for child in self.children():
                if child.pid not in workers and child.status() != psutil.STATUS_ZOMBIE:
                    return child
            time.sleep(0.05)

    def workers(self):
        return [psutil.Process(pid) for pid in self._clients()]

    def children(self):
        return psutil.Process(self.server.pid).children()

    def _clients(self):
        """A client by the pid of the worker that has its one connection."""
        found = {}
        while len(found) < 2:
            client = self.server.client(max_pool_connections=1)
            try:
                answer = client.list_collections()
            except ClientError as error:  # too fast; its line names the worker as well
                answer = error.response
            request = answer["ResponseMetadata"]["RequestId"]
            (pid,) = [line["pid"] for line in self.lines() if line.get("request_id") == request]
            found.setdefault(pid, client)
        return found


@contextmanager
def deployed(tmp_path, key=None, options=(), **overrides):
    log = tmp_path / f"log{uuid.uuid4()}"
    with process_serving(tmp_path / "data", key, ["--workers", "2", "--log", *options], log, **overrides) as server:
        yield Deployment(server, log)


def index(client, subject):
    answer = client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)}, ExternalImageId=f"e{subject}")
    return answer["FaceRecords"][0]["Face"]["FaceId"]


def found(client, subject, collection="a"):
    answer = client.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(subject)})
    return [match["Face"]["FaceId"] for match in answer["FaceMatches"]]


def metrics(server):
    families = text_string_to_metric_families(urllib.request.urlopen(server.metrics).read().decode())
    return {(one.name, *(value for _, value in sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def assert_whole(data):
    app = bootstrap.open_app(null_settings(data))
    entries = assert_ledger_whole(app)
    app.database.close()
    return [face for entry in entries if entry["type"] == "faces.enrolled" for face in entry["face_ids"]]


def test_what_one_worker_writes_the_other_finds_at_once(tmp_path):
    """Faces, people, deletions, a deleted collection, page tokens; the metrics count both workers; one start says one key."""
    with deployed(tmp_path, options=["--metrics-port", "0"]) as both:
        one, other = both.clients
        one.create_collection(CollectionId="a")
        for subject in range(4):
            writer, reader = both.clients[subject % 2], both.clients[1 - subject % 2]
            face = index(writer, subject)
            assert found(reader, subject) == found(writer, subject) == [face]
            other.create_user(CollectionId="a", UserId=f"u{subject}")
            reader.associate_faces(CollectionId="a", UserId=f"u{subject}", FaceIds=[face])
            users = writer.search_users_by_image(CollectionId="a", Image={"Bytes": picture(subject)})["UserMatches"]
            assert [user["User"]["UserId"] for user in users] == [f"u{subject}"]
        token = one.list_faces(CollectionId="a", MaxResults=3)["NextToken"]
        assert [one["FaceId"] for one in other.list_faces(CollectionId="a", NextToken=token)["Faces"]] == [face]
        other.disassociate_faces(CollectionId="a", UserId="u3", FaceIds=[face])
        one.delete_faces(CollectionId="a", FaceIds=[face])
        assert found(one, 3) == found(other, 3) == []
        with pytest.raises(one.exceptions.InvalidParameterException, match="faceId was not found"):
            one.search_faces(CollectionId="a", FaceId=face)
        told = metrics(both.server)
        one.delete_collection(CollectionId="a")
        for client in both.clients:
            with pytest.raises(client.exceptions.ResourceNotFoundException):
                found(client, 1)
    searches = [told["aboveboard_requests_total", "OK", "SearchFacesByImage", worker] for worker in ("1", "2")]
    assert searches == [5, 5]
    assert told[("aboveboard_ledger_entries",)] > 20
    assert told[("aboveboard_images_in_use",)] == 0
    assert told["process_resident_memory_bytes", "search"] > 10_000_000


def fill(app, client, collection, count):
    """A collection of random templates, written to the database at once."""
    client.create_collection(CollectionId=collection)
    vectors = np.random.default_rng(0).normal(size=(count, app.models.recogniser.dimensions)).astype("<f4")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    n = app.collections.get(collection).n
    with app.database.write() as connection:
        first = (connection.execute(sa.select(sa.func.max(FACES.c.n))).scalar() or 0) + 1
        faces = [{"n": first + i, "face_id": str(uuid.UUID(int=i))} for i in range(count)]
        connection.execute(sa.insert(FACES).values(collection=n, image_id="", box=[], confidence=1), faces)
        connection.execute(sa.insert(TEMPLATES), [{"face": first + i, "vector": row.tobytes()} for i, row in enumerate(vectors)])
        connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == n).values(generation=1, face_count=count))
    return vectors.shape[1]


def test_only_the_search_process_has_templates_in_memory(tmp_path):
    """A gallery of 60,000 faces, searched through both workers: it grows by the gallery, they do not."""
    app = bootstrap.open_app(null_settings(tmp_path / "data"))
    key = app.operators.first(app.gate.policy_of(None))[1]
    with deployed(tmp_path, key) as both:
        fill(app, both.clients[0], "small", 2000)
        gallery = 60_000 * fill(app, both.clients[0], "large", 60_000)
        app.database.close()
        for client in both.clients:
            assert found(client, 1, "small") == []  # everything else that a search needs is there now
        processes = [both.search_process(), *both.workers()]
        before = [process.memory_full_info().uss for process in processes]
        for client in both.clients:
            assert found(client, 1, "large") == []
        grown = [process.memory_full_info().uss - was for process, was in zip(processes, before, strict=True)]
    assert grown[0] > gallery
    assert max(grown[1:]) < gallery / 2


def test_limits_hold_for_both_workers_together(tmp_path):
    """Requests a second of a key, sent to both in turns."""
    with deployed(tmp_path, requests_per_second="2") as both:
        time.sleep(1)

        def ask(i):
            try:
                both.clients[i % 2].list_collections()
                return ""
            except ClientError as error:
                return error.response["Error"]["Code"]

        begin = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            codes = Counter(pool.map(ask, range(30)))
        allowed = 2 + 2 * (time.monotonic() - begin)
    assert set(codes) == {"", "ThrottlingException"}
    assert 2 <= codes[""] <= allowed + 1


def test_a_worker_that_dies_is_started_again_and_loses_nothing(tmp_path):
    """kill -9 of one in mid-traffic: the others go on, its clients send again, each face is there once; the log tells it."""
    with deployed(tmp_path) as both:
        both.clients[0].create_collection(CollectionId="a")
        victim = both.workers()[0].pid
        enough = threading.Event()

        def work(start):
            client, faces = both.server.client(retries={"mode": "standard", "max_attempts": 5}), []
            for subject in range(start, start + 12):
                faces.append(index(client, subject))
                if len(faces) == 3:
                    enough.set()
            return faces

        with ThreadPoolExecutor(6) as pool:
            running = [pool.submit(work, 100 * i) for i in range(6)]
            assert enough.wait(60)
            os.kill(victim, signal.SIGKILL)
            faces = [face for one in running for face in one.result()]
        assert len({worker.pid for worker in both.workers()} - {victim}) == 2
        assert [found(both.clients[1], 100 * i) for i in range(6)] == [[faces[12 * i]] for i in range(6)]
        told = [line["message"] for line in both.lines() if line["logger"] == "aboveboard.serve"]
        assert both.server.stop() == 0
    assert len(told) == 1
    assert f"process {victim}) ended with -9; it is started again" in told[0]
    assert sorted(assert_whole(tmp_path / "data")) == sorted(faces)


def test_a_search_process_that_dies_is_started_again_and_no_search_is_wrong(tmp_path):
    """Killed again and again under searches and deletions: each answer is right or InternalServerError, never empty."""
    with deployed(tmp_path) as both:
        both.clients[0].create_collection(CollectionId="a")
        faces = [index(both.clients[0], subject) for subject in range(8)]
        errors, is_over = Counter(), threading.Event()

        def ask(client):
            subject = 0
            while not is_over.is_set():
                subject = (subject + 1) % 7
                try:
                    assert found(client, subject) == [faces[subject]]
                except ClientError as error:
                    errors[error.response["Error"]["Code"]] += 1

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(ask, both.server.client()) for _ in range(4)]
            try:
                for _ in range(4):
                    both.search_process().kill()
                    time.sleep(0.3)
                both.clients[1].delete_faces(CollectionId="a", FaceIds=[faces[7]])
                assert found(both.clients[0], 7) == []
            finally:
                is_over.set()
            for one in running:
                one.result()
        assert set(errors) <= {"InternalServerError"}
        assert [found(client, 3) for client in both.clients] == [[faces[3]]] * 2


def test_without_a_search_process_a_search_is_an_internal_error_and_all_else_goes_on(tmp_path):
    """As long as it cannot be started again; afterwards searches are answered."""
    with deployed(tmp_path) as both:
        client = both.clients[0]
        client.create_collection(CollectionId="a")
        face = index(client, 1)
        victim = both.search_process()
        os.kill(both.server.pid, signal.SIGSTOP)  # nobody starts it again
        try:
            victim.kill()
            with pytest.raises(ClientError) as failed:
                client.search_faces(CollectionId="a", FaceId=face)
            assert [one["FaceId"] for one in client.list_faces(CollectionId="a")["Faces"]] == [face]
        finally:
            os.kill(both.server.pid, signal.SIGCONT)
        assert failed.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        assert failed.value.response["Error"]["Code"] == "InternalServerError"
        assert found(client, 1) == [face]
    assert_whole(tmp_path / "data")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_all_processes_end_with_the_first(tmp_path, number):
    """SIGTERM in mid-traffic: what is in flight is answered, exit code 0. kill -9: nobody outlives it. Nothing acknowledged is lost."""
    with deployed(tmp_path) as both:
        both.clients[0].create_collection(CollectionId="a")
        children, faces, enough = both.children(), [], threading.Event()
        assert len(children) == 3

        def work(start):
            client = both.server.client()
            for subject in range(start, start + 1000):
                try:
                    faces.append(index(client, subject))
                except (BotoCoreError, json.JSONDecodeError):
                    return  # hung up after an answer, or refused: nobody listens any more
                if len(faces) > 10:
                    enough.set()

        with ThreadPoolExecutor(4) as pool:
            running = [pool.submit(work, 1000 * i) for i in range(4)]
            assert enough.wait(60)
            both.server.process.send_signal(number)
            code = both.server.process.wait(60)
            for one in running:
                one.result()
        gone, alive = psutil.wait_procs(children, 20)
        assert alive == []
        assert code == (0 if number == signal.SIGTERM else -9)
        assert len(gone) == 3
        assert {line["logger"] for line in both.lines()} == {"aboveboard.requests"}
    assert set(faces) <= set(assert_whole(tmp_path / "data"))
