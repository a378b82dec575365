"""Two openings of one data folder, in one process and in two: each sees the other's acknowledged writes at its next request."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError
from kit import Server, assert_ledger_whole, basis, null_settings, picture, process_serving

from aboveboard import bootstrap


@pytest.fixture
def two(own_server):
    """Clients of two servers over one data folder."""
    other = Server(bootstrap.open_app(own_server.app.settings), own_server.key)
    first = own_server.client()
    first.create_collection(CollectionId="a")
    yield first, other.client()
    other.stop()


def index(client, subject):
    return client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)}, ExternalImageId=f"e{subject}")["FaceRecords"][0]["Face"][
        "FaceId"
    ]


def found(client, subject):
    return [
        match["Face"]["FaceId"]
        for match in client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(subject)})["FaceMatches"]
    ]


def test_each_sees_what_the_other_wrote(two):
    """Faces indexed and deleted on either side, in turns; both galleries are warm in memory from the start."""
    enrolled = {}
    for subject in range(12):
        writer, reader = two[subject % 2], two[1 - subject % 2]
        assert found(reader, subject) == []
        enrolled[subject] = index(writer, subject)
        assert found(reader, subject) == found(writer, subject) == [enrolled[subject]]
        if subject % 3 == 2:
            gone = enrolled.pop(subject - 1)
            reader.delete_faces(CollectionId="a", FaceIds=[gone])
            assert found(writer, subject - 1) == found(reader, subject - 1) == []
            with pytest.raises(ClientError, match="faceId was not found"):
                writer.search_faces(CollectionId="a", FaceId=gone)
        for client in two:
            assert client.describe_collection(CollectionId="a")["FaceCount"] == len(enrolled)
            answer = client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(subject)})
            assert basis(answer)["gallery-size"] == str(len(enrolled))


def test_a_collection_deleted_and_made_anew_elsewhere_is_another_one(two):
    """No face of the old collection is found in the new one of the same id, on either side."""
    first, second = two
    index(first, 1)
    assert found(second, 1)
    first.delete_collection(CollectionId="a")
    with pytest.raises(second.exceptions.ResourceNotFoundException):
        found(second, 1)
    second.create_collection(CollectionId="a")
    assert found(first, 1) == found(second, 1) == []
    face = index(second, 1)
    assert found(first, 1) == [face]


def test_a_policy_tightened_on_one_side_binds_the_other(two):
    """The tag is read at each search."""
    first, second = two
    arn = first.describe_collection(CollectionId="a")["CollectionARN"]
    second.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(1)}, FaceMatchThreshold=1)
    first.tag_resource(ResourceArn=arn, Tags={"aboveboard:policy": "public-safety"})
    with pytest.raises(second.exceptions.AccessDeniedException, match="public-safety"):
        second.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(1)}, FaceMatchThreshold=1)


def test_page_tokens_and_keys_are_good_on_both_sides(two):
    """They belong to the deployment, not to the process."""
    first, second = two
    for subject in range(3):
        index(first, subject)
    token = first.list_faces(CollectionId="a", MaxResults=2)["NextToken"]
    assert len(second.list_faces(CollectionId="a", NextToken=token)["Faces"]) == 1


def test_the_same_photograph_indexed_on_both_sides_at_once_is_one_face(two):
    """Idempotence holds across processes."""
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda i: index(two[i % 2], 1), range(16)))
    assert len(ids) == 1
    assert two[0].describe_collection(CollectionId="a")["FaceCount"] == 1


def test_two_server_processes_write_one_whole_ledger(tmp_path):
    """Two real processes index and search at once: every face is found by both, entries have no gap, the root is right."""
    data = tmp_path / "data"
    with process_serving(data) as one, process_serving(data, one.key) as other:
        clients = [one.client(), other.client()]
        clients[0].create_collection(CollectionId="a")

        def work(i):
            index(clients[i % 2], i)
            return found(clients[1 - i % 2], i)

        with ThreadPoolExecutor(6) as pool:
            faces = list(pool.map(work, range(30)))
        assert all(len(found_ids) == 1 for found_ids in faces)
        assert [found(clients[0], i) for i in range(30)] == faces
    app = bootstrap.open_app(null_settings(data))
    entries = assert_ledger_whole(app)
    app.database.close()
    assert sum(entry["type"] == "faces.enrolled" for entry in entries) == 30
    assert sum(entry["type"] == "look.outcome" for entry in entries) == 60
    intents = {entry["audit_id"]: entry["seq"] for entry in entries if entry["type"] == "look.intent"}
    assert all(intents[entry["audit_id"]] == entry["intent"] < entry["seq"] for entry in entries if entry["type"] == "look.outcome")


def test_first_starts_at_once_make_one_deployment(tmp_path):
    """Six openings of a new data folder at the same time: one master key, one first operator, nobody fails."""
    for attempt in range(5):
        barrier = threading.Barrier(6)

        def start(_, data=tmp_path / str(attempt), barrier=barrier):
            barrier.wait()
            app = bootstrap.open_app(null_settings(data))
            made = app.operators.first(app.gate.policy_of(None))
            app.database.close()
            return made is not None, app.keyring.mark("x")

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(start, range(6)))
        assert sum(is_made for is_made, _ in found) == 1
        assert len({mark for _, mark in found}) == 1
