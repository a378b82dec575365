"""Whatever is done in whatever order: collections, faces, users and tags are what a model of them says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from kit import picture
from mirror import NOBODY, Mirror

SHOWN = {"1": (1,), "2": (2,), "12": (1, 2), "312": (3, 1, 2), "21": (2, 1), "none": ()}
PHOTOGRAPHS = {name: picture(*subjects) for name, subjects in SHOWN.items()}
names, photographs = st.sampled_from(["a", "b"]), st.sampled_from(sorted(SHOWN))
users, keys = st.sampled_from(["u", "v", "w:1"]), st.sampled_from(["k", "ä b", "x/y"])
_runs = itertools.count()


def person(photograph: str, rank: int) -> str:
    """Drawn faces are told apart by their number."""
    return str(SHOWN[photograph][rank])


class Traffic(RuleBasedStateMachine):
    """One operator's requests against the shared server."""

    client: Any

    def __init__(self) -> None:
        super().__init__()
        self.mirror = Mirror(self.client, PHOTOGRAPHS, person, f"traffic-{next(_runs)}-", exact=True)
        self.mirror.create("a")
        for photograph in ("312", "12", "2"):
            self.mirror.index("a", photograph, "x")
        for user in ("u", "v"):
            self.mirror.create_user("a", user)
        self.mirror.associate("a", "u", list(self.mirror.galleries["a"].faces)[:3])
        self.gone = [NOBODY]

    def a_gallery(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.mirror.galleries)))

    def some_faces(self, data: st.DataObject, name: str) -> list[str]:
        """Faces of the gallery, and those that were removed from one."""
        faces = [*self.mirror.galleries[name].faces][-8:]
        return data.draw(st.lists(st.sampled_from(faces + self.gone[-2:]), min_size=1, max_size=5, unique=True))

    @rule(name=names)
    def create(self, name: str) -> None:
        self.mirror.create(name)

    @rule(name=names)
    @precondition(lambda self: len(self.mirror.galleries) > 1)
    def delete(self, name: str) -> None:
        self.mirror.delete(name)

    @rule(data=st.data(), photograph=photographs, external=st.sampled_from(["x", "y"]))
    def index(self, data: st.DataObject, photograph: str, external: str) -> None:
        self.mirror.index(self.a_gallery(data), photograph, external)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = self.a_gallery(data)
        chosen = [face_id for face_id in self.some_faces(data, name) if face_id != NOBODY]
        self.mirror.remove(name, chosen)
        self.gone += [face_id for face_id in chosen if face_id not in self.mirror.galleries[name].faces]

    @rule(data=st.data(), photograph=photographs.filter(lambda name: bool(SHOWN[name])))
    def search(self, data: st.DataObject, photograph: str) -> None:
        name = self.a_gallery(data)
        self.mirror.search_by_image(name, photograph)
        self.mirror.search_by_face(name, self.some_faces(data, name)[0])
        self.mirror.search_users(name, photograph)

    @rule(data=st.data(), tags=st.dictionaries(keys, st.sampled_from(["", "v", "ö"]), max_size=3), gone=st.lists(keys, max_size=3))
    def tag(self, data: st.DataObject, tags: dict[str, str], gone: list[str]) -> None:
        name = self.a_gallery(data)
        self.mirror.tag(name, tags)
        self.mirror.untag(name, gone)

    @rule(data=st.data(), user=users, is_made=st.booleans())
    def make_or_delete_user(self, data: st.DataObject, user: str, is_made: bool) -> None:
        (self.mirror.create_user if is_made else self.mirror.delete_user)(self.a_gallery(data), user)

    @rule(data=st.data(), user=users)
    def associate(self, data: st.DataObject, user: str) -> None:
        name = self.a_gallery(data)
        self.mirror.associate(name, user, self.some_faces(data, name))

    @rule(data=st.data(), user=users)
    def disassociate(self, data: st.DataObject, user: str) -> None:
        name = self.a_gallery(data)
        self.mirror.disassociate(name, user, self.some_faces(data, name))

    @invariant()
    def agrees(self) -> None:
        self.mirror.agree(size=3)

    def teardown(self) -> None:
        for name in list(self.mirror.galleries):
            self.mirror.delete(name)


def run(client: Any, examples: int, steps: int) -> None:
    machine = type("Traffic", (Traffic,), {"client": client})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=steps))


def test_the_server_holds_what_it_acknowledged(rekognition):
    """Four runs of 20 verbs; after each, everything that can be listed."""
    run(rekognition, 4, 20)


@pytest.mark.long
def test_the_server_holds_what_it_acknowledged_for_long(rekognition):
    """The same, longer."""
    run(rekognition, 60, 50)
