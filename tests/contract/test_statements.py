"""What each operation asks of the database: as little from a large collection as from a small one."""

from __future__ import annotations

import uuid

import numpy as np
import pytest
import sqlalchemy as sa
from kit import picture

from aboveboard.biometrics.matching import normalise
from aboveboard.rekognition.operations import offered
from aboveboard.storage.database import now
from aboveboard.storage.schema import COLLECTIONS, FACES, IMAGES, RECORDS, REQUESTS, SUBJECTS, TEMPLATES, TOUCHED

SMALL, LARGE = 1_000, 30_000


def fill(database, collection, n):
    """`n` faces as rows, half of them five each of a user; a record, a mark and a kept answer of each."""
    vectors = normalise(np.random.default_rng(n).normal(size=(n, 64))).astype("<f4")
    first, people = 10 * n, n // 10
    numbers, own = range(first, first + n), {"collection": collection}
    ids = {i: str(uuid.UUID(int=i * 0x9E3779B97F4A7C15F39CC0605CEDC834 % 2**128)) for i in numbers}
    users = [{**own, "n": first + i, "subject_id": f"u{i}", "handle": ids[first + i], "created_at": now()} for i in range(people)]
    faces = [
        {**own, "n": i, "face_id": ids[i], "image_id": ids[i], "external_image_id": "e", "box": [0, 0, 0.5, 0.5], "confidence": 99.0,
         "subject": first + j // 5 if j // 5 < people else None}
        for j, i in enumerate(numbers)
    ]  # fmt: skip
    images = [{**own, "image_id": ids[i]} for i in numbers]
    templates = [{"face": i, "vector": vector.tobytes()} for i, vector in zip(numbers, vectors, strict=True)]
    answers = [{**own, "token": ids[i].encode(), "request": b"", "answer": {}, "created_at": now()} for i in numbers]
    touched = [{**own, "touch": i, "face": i} for i in numbers]
    with database.write() as connection:
        rows = (SUBJECTS, users), (FACES, faces), (TEMPLATES, templates), (IMAGES, images)
        for table, values in (*rows, (RECORDS, [{**one, "source": "x"} for one in images]), (REQUESTS, answers), (TOUCHED, touched)):
            connection.execute(sa.insert(table), values)
        counts = {"face_count": n, "subject_count": people, "generation": 1, "touches": numbers[-1]}
        connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == collection).values(counts))
    return [ids[i] for i in numbers]


def walk(client, collection, ids):
    """Each operation, in an order in which all can be; yields its name once it is answered."""
    own, image = {"CollectionId": collection}, {"Bytes": picture(1)}
    arn = client.describe_collection(**own)["CollectionARN"]
    user = {**own, "UserId": "new"}
    calls = {
        "CreateCollection": {"CollectionId": f"{collection}-other"},
        "ListCollections": {},
        "DescribeCollection": own,
        "TagResource": {"ResourceArn": arn, "Tags": {"k": "v"}},
        "ListTagsForResource": {"ResourceArn": arn},
        "UntagResource": {"ResourceArn": arn, "TagKeys": ["k"]},
        "DetectFaces": {"Image": image},
        "DetectLabels": {"Image": image},
        "CompareFaces": {"SourceImage": image, "TargetImage": image},
        "IndexFaces": {**own, "Image": image},
        "ListFaces": {**own, "MaxResults": 100},
        "SearchFaces": {**own, "FaceId": ids[-1], "MaxFaces": 10, "FaceMatchThreshold": 0},
        "SearchFacesByImage": {**own, "Image": image},
        "CreateUser": user,
        "ListUsers": {**own, "MaxResults": 100},
        "AssociateFaces": {**user, "FaceIds": [ids[-1]]},
        "SearchUsers": {**own, "UserId": "u1"},
        "SearchUsersByImage": {**own, "Image": image},
        "DisassociateFaces": {**user, "FaceIds": [ids[-1]]},
        "DeleteUser": user,
        "DeleteFaces": {**own, "FaceIds": ids[-100:]},
        "DeleteCollection": own,
    }
    assert set(calls) == set(offered())
    for name, request in calls.items():
        getattr(client, client.meta.method_to_api_mapping_inverse[name])(**request)
        yield name


@pytest.fixture
def steps(own_server):
    """How many of a hundred steps of SQLite's machine were made since it was last asked."""
    made = [0]

    def step():
        made[0] += 1
        return 0

    def since():
        before, made[0] = made[0], 0
        return before

    engine = own_server.app.database._engine
    sa.event.listen(engine, "connect", lambda connection, _: connection.set_progress_handler(step, 100))
    engine.dispose()
    return since


def test_no_operation_goes_through_the_collection(own_server, steps):
    """Thirty times the faces, users, records and answers: no operation makes SQLite work markedly more."""
    client, cost = own_server.client(), {}
    client.meta.method_to_api_mapping_inverse = {api: name for name, api in client.meta.method_to_api_mapping.items()}
    for n in (SMALL, LARGE):
        name = f"c{n}"
        client.create_collection(CollectionId=name)
        ids = fill(own_server.app.database, own_server.app.collections.get(name).n, n)
        # What is in memory is loaded; that is done once.
        client.search_users(CollectionId=name, UserId="u0")
        steps()
        cost[n] = {operation: steps() for operation in walk(client, name, ids)}
    more = {name: (few, cost[LARGE][name]) for name, few in cost[SMALL].items() if cost[LARGE][name] > 2 * few + 10}
    assert more == {}


def test_an_erasure_goes_in_slices_of_one_size(own_server, steps):
    """A slice of a large collection is no more work than one of a small, whatever rows it takes."""
    app, most = own_server.app, {}
    for n in (2 * SMALL, LARGE):
        own_server.client().create_collection(CollectionId=f"c{n}")
        fill(app.database, app.collections.get(f"c{n}").n, n)
        own_server.client().delete_collection(CollectionId=f"c{n}")
        (erasure,) = app.erasures.pending()
        steps()
        work = []
        rows = 1
        while rows:
            with app.database.write() as connection:
                rows = app.erasures.slice(connection, erasure)
            work.append(steps())
        with app.database.write() as connection:
            assert app.erasures.end(connection, erasure)
        most[n] = max(work)
    assert most[LARGE] < 1.5 * most[2 * SMALL]
