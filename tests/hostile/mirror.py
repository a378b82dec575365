"""A model of what collections hold: each verb goes to the server and to a few dicts, and both must say the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError
from kit import basis

ARN = "arn:aws:rekognition:us-east-1:000000000000:collection/{}"
NOBODY = "00000000-0000-4000-8000-000000000000"
NO_SUCH = "ResourceNotFoundException"


@dataclass(frozen=True)
class Enrolled:
    """A face: which photograph it is from, as which of its faces (0 is the largest), under which external id."""

    photograph: str
    rank: int
    external: str


@dataclass
class Gallery:
    """A collection: faces in the order of enrolment, tags, and users with their faces."""

    faces: dict[str, Enrolled] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    users: dict[str, set[str]] = field(default_factory=dict)

    @property
    def owners(self) -> dict[str, str]:
        return {face_id: user for user, faces in self.users.items() for face_id in faces}


class Mirror:
    """`photographs` by name; `person(photograph, rank)` says who that face is. Where faces are `exact` copies of each other, as drawn
    ones are, a search must find all faces of a person and no other; else at least those of the very photograph."""

    def __init__(
        self, client: Any, photographs: Mapping[str, bytes], person: Callable[[str, int], str], prefix: str, *, exact: bool
    ) -> None:
        self.client, self.photographs, self.person, self.prefix, self.exact = client, photographs, person, prefix, exact
        self.galleries: dict[str, Gallery] = {}

    def refusal(self, verb: str, **request: Any) -> str:
        """The error code of a request that must be refused."""
        try:
            answer = getattr(self.client, verb)(**request)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        raise AssertionError(f"{verb} {request} was answered: {answer}")

    def create(self, name: str) -> None:
        if name in self.galleries:
            assert self.refusal("create_collection", CollectionId=self.prefix + name) == "ResourceAlreadyExistsException"
        else:
            self.client.create_collection(CollectionId=self.prefix + name)
            self.galleries[name] = Gallery()

    def delete(self, name: str) -> None:
        if name in self.galleries:
            self.client.delete_collection(CollectionId=self.prefix + name)
            del self.galleries[name]
        else:
            for verb in ("delete_collection", "describe_collection", "list_faces"):
                assert self.refusal(verb, CollectionId=self.prefix + name) == NO_SUCH

    def index(self, name: str, photograph: str, external: str) -> None:
        request = {"Image": {"Bytes": self.photographs[photograph]}, "ExternalImageId": external, "QualityFilter": "NONE"}
        gallery = self.galleries[name]
        before = {face_id for face_id, face in gallery.faces.items() if (face.photograph, face.external) == (photograph, external)}
        made = [record["Face"] for record in self.client.index_faces(CollectionId=self.prefix + name, **request)["FaceRecords"]]
        assert before <= {face["FaceId"] for face in made}
        for rank, face in enumerate(made):
            gallery.faces.setdefault(face["FaceId"], Enrolled(photograph, rank, external))

    def remove(self, name: str, face_ids: Sequence[str]) -> None:
        """Faces of users stay; unknown ones are named."""
        gallery = self.galleries[name]
        answer = self.client.delete_faces(CollectionId=self.prefix + name, FaceIds=[*face_ids, NOBODY])
        owners = gallery.owners
        gone = {face_id for face_id in face_ids if face_id in gallery.faces and face_id not in owners}
        assert set(answer["DeletedFaces"]) == gone
        kept = {failure["FaceId"]: failure.get("UserId") for failure in answer["UnsuccessfulFaceDeletions"]}
        assert kept == {face_id: owners.get(face_id) for face_id in [*face_ids, NOBODY] if face_id not in gone}
        gallery.faces = {face_id: face for face_id, face in gallery.faces.items() if face_id not in gone}

    def tag(self, name: str, tags: Mapping[str, str]) -> None:
        self.client.tag_resource(ResourceArn=ARN.format(self.prefix + name), Tags=dict(tags))
        self.galleries[name].tags |= tags

    def untag(self, name: str, keys: Sequence[str]) -> None:
        self.client.untag_resource(ResourceArn=ARN.format(self.prefix + name), TagKeys=list(keys))
        for key in keys:
            self.galleries[name].tags.pop(key, None)

    def search_by_image(self, name: str, photograph: str) -> None:
        request = {"Image": {"Bytes": self.photographs[photograph]}, "FaceMatchThreshold": 99, "MaxFaces": 4096}
        answer = self.client.search_faces_by_image(CollectionId=self.prefix + name, **request)
        assert basis(answer)["gallery-size"] == str(len(self.galleries[name].faces))
        self._found(name, answer["FaceMatches"], photograph, 0, "")

    def search_by_face(self, name: str, face_id: str) -> None:
        request = {"FaceId": face_id, "FaceMatchThreshold": 99, "MaxFaces": 4096}
        if face_id in self.galleries[name].faces:
            face = self.galleries[name].faces[face_id]
            answer = self.client.search_faces(CollectionId=self.prefix + name, **request)
            self._found(name, answer["FaceMatches"], face.photograph, face.rank, face_id)
        else:
            assert self.refusal("search_faces", CollectionId=self.prefix + name, **request) == "InvalidParameterException"

    def _found(self, name: str, matches: Sequence[Any], photograph: str, rank: int, but: str) -> None:
        faces = self.galleries[name].faces
        found = {match["Face"]["FaceId"]: match["Face"] for match in matches}
        same = {face_id for face_id, face in faces.items() if (face.photograph, face.rank) == (photograph, rank)} - {but}
        who = self.person(photograph, rank)
        everyone = {face_id for face_id, face in faces.items() if self.person(face.photograph, face.rank) == who} - {but}
        assert set(found) == everyone if self.exact else same <= set(found) <= set(faces)
        assert {face_id: face["ExternalImageId"] for face_id, face in found.items()} == {
            face_id: faces[face_id].external for face_id in found
        }

    def create_user(self, name: str, user: str) -> None:
        request = {"CollectionId": self.prefix + name, "UserId": user}
        if user in self.galleries[name].users:
            assert self.refusal("create_user", **request) == "ConflictException"
        else:
            self.client.create_user(**request)
            self.galleries[name].users[user] = set()

    def delete_user(self, name: str, user: str) -> None:
        request = {"CollectionId": self.prefix + name, "UserId": user}
        if user in self.galleries[name].users:
            self.client.delete_user(**request)
            del self.galleries[name].users[user]
        else:
            assert self.refusal("delete_user", **request) == NO_SUCH

    def associate(self, name: str, user: str, face_ids: Sequence[str]) -> None:
        """Of drawn faces only those of the person that the user is; of photographs, without a threshold, whatever is nobody's yet."""
        gallery = self.galleries[name]
        request = {"UserId": user, "FaceIds": list(face_ids), "UserMatchThreshold": 90 if self.exact else 0}
        if user not in gallery.users:
            assert self.refusal("associate_faces", CollectionId=self.prefix + name, **request) == NO_SUCH
            return
        answer = self.client.associate_faces(CollectionId=self.prefix + name, **request)
        owners, own = gallery.owners, gallery.users[user]
        fresh = [face_id for face_id in dict.fromkeys(face_ids) if face_id in gallery.faces and face_id not in owners]
        who = {self._who(gallery, face_id) for face_id in own or fresh[:1]}
        given = [face_id for face_id in fresh if not self.exact or self._who(gallery, face_id) in who]
        assert [face["FaceId"] for face in answer["AssociatedFaces"]] == given
        refused = {failure["FaceId"]: failure["Reasons"] for failure in answer["UnsuccessfulFaceAssociations"]}
        assert refused == {
            face_id: ["FACE_NOT_FOUND"] if face_id not in gallery.faces
            else ["ASSOCIATED_TO_A_DIFFERENT_USER"] if face_id in owners else ["LOW_MATCH_CONFIDENCE"]
            for face_id in face_ids if face_id not in given and face_id not in own
        }  # fmt: skip
        own.update(given)

    def disassociate(self, name: str, user: str, face_ids: Sequence[str]) -> None:
        gallery = self.galleries[name]
        request = {"CollectionId": self.prefix + name, "UserId": user, "FaceIds": list(face_ids)}
        if user not in gallery.users:
            assert self.refusal("disassociate_faces", **request) == NO_SUCH
            return
        answer = self.client.disassociate_faces(**request)
        taken = {face["FaceId"] for face in answer["DisassociatedFaces"]}
        assert taken == gallery.users[user] & set(face_ids)
        assert {failure["FaceId"] for failure in answer["UnsuccessfulFaceDisassociations"]} == set(face_ids) - taken
        gallery.users[user] -= taken

    def search_users(self, name: str, photograph: str) -> None:
        gallery = self.galleries[name]
        request = {"Image": {"Bytes": self.photographs[photograph]}, "UserMatchThreshold": 90, "MaxUsers": 500}
        matches = self.client.search_users_by_image(CollectionId=self.prefix + name, **request)["UserMatches"]
        found = {match["User"]["UserId"] for match in matches}
        who = self.person(photograph, 0)
        there = {user for user, faces in gallery.users.items() if who in {self._who(gallery, face_id) for face_id in faces}}
        assert found == there if self.exact else found <= {user for user, faces in gallery.users.items() if faces}

    def _who(self, gallery: Gallery, face_id: str) -> str:
        return self.person(gallery.faces[face_id].photograph, gallery.faces[face_id].rank)

    def agree(self, size: int = 1000) -> None:
        """Everything that can be listed is what it should be, in the order in which it came, on pages of `size`."""
        config = {"PageSize": size}
        pages = self.client.get_paginator("list_collections").paginate(PaginationConfig={"PageSize": 1000})
        mine = [found for page in pages for found in page["CollectionIds"] if found.startswith(self.prefix)]
        assert mine == [self.prefix + name for name in self.galleries]
        for name, gallery in self.galleries.items():
            where = {"CollectionId": self.prefix + name}
            described = self.client.describe_collection(**where)
            assert (described["FaceCount"], described["UserCount"]) == (len(gallery.faces), len(gallery.users))
            pages = list(self.client.get_paginator("list_faces").paginate(**where, PaginationConfig=config))
            assert all(len(page["Faces"]) == size for page in pages[:-1])
            owners = gallery.owners
            assert [(face["FaceId"], face["ExternalImageId"], face.get("UserId")) for page in pages for face in page["Faces"]] == [
                (face_id, face.external, owners.get(face_id)) for face_id, face in gallery.faces.items()
            ]
            users = self.client.get_paginator("list_users").paginate(**where, PaginationConfig={"PageSize": min(size, 500)})
            listed = {user["UserId"]: user["UserStatus"] for page in users for user in page["Users"]}
            assert listed == {user: "ACTIVE" if faces else "CREATED" for user, faces in gallery.users.items()}
            assert list(listed) == list(gallery.users)
            assert self.client.list_tags_for_resource(ResourceArn=ARN.format(self.prefix + name))["Tags"] == gallery.tags
