"""What the tests of users share: a face of a person, and giving faces to a user."""

from __future__ import annotations

from kit import picture


def index(client, collection, person, take=0, variation=0.1, external="e"):
    """The face id of a photograph of one person."""
    data = picture(person, take=take, variation=variation)
    return client.index_faces(CollectionId=collection, Image={"Bytes": data}, ExternalImageId=external)["FaceRecords"][0]["Face"]["FaceId"]


def associate(client, collection, user, *faces, **more):
    return client.associate_faces(CollectionId=collection, UserId=user, FaceIds=list(faces), **more)


def three_people(client, collection):
    """Three faces each of persons 1, 2 and 3, and users 'one', 'two', 'three' without faces: {(person, take): face id}."""
    faces = {(person, take): index(client, collection, person, take) for person in (1, 2, 3) for take in range(3)}
    for user in ("one", "two", "three"):
        client.create_user(CollectionId=collection, UserId=user)
    return faces


def users_of(client, collection):
    return {face["FaceId"]: face.get("UserId") for face in client.list_faces(CollectionId=collection)["Faces"]}
