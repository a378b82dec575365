"""Keys at rest: seals, marks and the master key's file."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.operators import Operators
from aboveboard.accountability.rules import ROLES
from aboveboard.errors import BadPageToken, BadRequest, Exists, NoSuch, Refused, Unavailable
from aboveboard.rekognition import pages
from aboveboard.storage.database import Database
from aboveboard.storage.ledger import Ledger
from aboveboard.storage.secrets import Keyring

KEYRING = Keyring(bytes(range(32)))
PACKS = Policies("general", "general")
GENERAL = PACKS.get("general")


@given(st.binary(max_size=60), st.text(max_size=8), st.text(max_size=8))
def test_what_is_sealed_opens_for_its_purpose_and_owner_only(secret, purpose, owner):
    """Another purpose, owner, key or a changed byte: Unavailable."""
    sealed = KEYRING.seal(secret, purpose, owner)
    assert KEYRING.unseal(sealed, purpose, owner) == secret
    for keyring, data, what, who in (
        (KEYRING, sealed, purpose + "x", owner),
        (KEYRING, sealed, purpose, owner + "x"),
        (Keyring(bytes(32)), sealed, purpose, owner),
        (KEYRING, sealed[:-1] + bytes([sealed[-1] ^ 1]), purpose, owner),
        (KEYRING, bytes([sealed[0] ^ 1]) + sealed[1:], purpose, owner),
    ):
        with pytest.raises(Unavailable):
            keyring.unseal(data, what, who)


def test_sealing_twice_gives_two_ciphertexts():
    """A fresh nonce each time."""
    assert KEYRING.seal(b"x", "p", "o") != KEYRING.seal(b"x", "p", "o")


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_marks_are_equal_for_equal_parts_only(one, other):
    """Parts cannot run together: ("ab", "c") and ("a", "bc") have different marks."""
    assert (KEYRING.mark("p", *one) == KEYRING.mark("p", *other)) == (one == other)
    assert KEYRING.mark("p", *one) != KEYRING.mark("q", *one)
    assert KEYRING.mark("p", *one) != Keyring(bytes(32)).mark("p", *one)


def test_the_master_key_is_made_once_for_its_owner_alone(tmp_path):
    """Mode 0600, 32 random bytes, the same at the next opening."""
    file = tmp_path / "new" / "master.key"
    mark = Keyring.open(file, create=True).mark("p")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(file.read_bytes()) == 32
    assert Keyring.open(file, create=True).mark("p") == mark
    assert Keyring.open(file, create=False).mark("p") == mark


def test_a_missing_master_key_is_not_made_anew(tmp_path):
    """Where there is a database already, a new key would lock everybody out for ever."""
    with pytest.raises(Unavailable, match="put it back from your backup"):
        Keyring.open(tmp_path / "master.key", create=False)
    assert not (tmp_path / "master.key").exists()


@given(st.integers(0, 2**63 - 1), st.text(min_size=1, max_size=10))
def test_a_page_token_leads_back_to_its_row(row, listing):
    """For its own listing, and within the 255 characters that the model allows."""
    token = pages.token(KEYRING, listing, row)
    assert len(token) <= 255
    assert pages.position(KEYRING, listing, token) == row
    with pytest.raises(BadPageToken):
        pages.position(KEYRING, listing + "x", token)


@given(st.text(min_size=1, max_size=60))
def test_any_other_text_is_no_page_token(text):
    """BadPageToken, no other exception."""
    with pytest.raises(BadPageToken):
        pages.position(KEYRING, "faces", text)


def test_no_token_is_the_beginning():
    """None and the empty text."""
    assert pages.position(KEYRING, "faces", None) == pages.position(KEYRING, "faces", "") == 0


@pytest.fixture
def operators(tmp_path):
    database = Database(tmp_path / "a.db")
    yield Operators(database, KEYRING, Ledger(database))
    database.close()


def test_an_operator_is_known_by_his_key(operators):
    """Name, roles in the house's order, and the secret."""
    key = operators.add("a.b+c@d", ["reviewer", "admin"], "test", GENERAL)
    known = operators.by_key(key.id)
    operator, secret = known.operator, known.secret
    assert (operator.name, operator.roles, secret) == ("a.b+c@d", ("admin", "reviewer"), key.secret)
    assert operators.named("a.b+c@d") == operator
    assert operators.by_key(key.id + "X") is None


def test_keys_and_secrets_look_like_amazons(operators):
    """20 capitals and digits, 40 characters of base64: what SDKs and their tools expect."""
    key = operators.add("a", ["admin"], "test", GENERAL)
    assert len(key.id) == 20
    assert key.id.isalnum()
    assert len(key.secret) == 40


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "a" * 65, "a\n", "<b>"])
def test_names_that_cannot_be_are_refused(operators, name):
    """1 to 64 plain characters: a name stands in every entry of the ledger."""
    with pytest.raises(BadRequest, match="name"):
        operators.add(name, ["admin"], "test", GENERAL)


def test_roles_that_cannot_be_are_refused(operators):
    """None, or one that does not exist."""
    for roles in ([], ["king"], ["admin", "king"]):
        with pytest.raises(BadRequest, match="role"):
            operators.add("a", roles, "test", GENERAL)
    assert operators.all() == []


def test_roles_that_the_deployments_pack_keeps_apart_are_refused(operators):
    """The rule is named, and nobody is added."""
    with pytest.raises(Refused, match=r"public-safety/roles.*admin and investigator"):
        operators.add("a", ["admin", "investigator"], "test", PACKS.get("public-safety"))
    assert operators.all() == []


def test_a_taken_name_is_refused(operators):
    """And his first key goes on."""
    key = operators.add("a", ["admin"], "test", GENERAL)
    with pytest.raises(Exists):
        operators.add("a", ["auditor"], "test", GENERAL)
    assert operators.by_key(key.id).operator.roles == ("admin",)
    with pytest.raises(NoSuch, match="aboveboard operator add"):
        operators.named("b")


def test_the_first_operator_is_made_once(operators):
    """All roles under `general`; afterwards nobody is made by himself."""
    operator, _ = operators.first(PACKS.get("general"))
    assert operator.roles == ROLES
    assert operators.first(PACKS.get("general")) is None


def test_the_first_operator_under_a_strict_pack_is_admin_alone(operators):
    """Separate roles from the first day."""
    operator, _ = operators.first(PACKS.get("public-safety"))
    assert operator.roles == ("admin",)


def test_ten_openings_at_once_agree_on_one_master_key(tmp_path):
    """Concurrent first starts do not overwrite each other's key."""
    os.makedirs(tmp_path / "d")  # noqa: PTH103
    for i in range(20):
        file = tmp_path / "d" / f"{i}.key"
        with ThreadPoolExecutor(10) as pool:
            marks = set(pool.map(lambda _, file=file: Keyring.open(file, create=True).mark("p"), range(10)))
        assert len(marks) == 1
