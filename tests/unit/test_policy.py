"""The one decision, as a table and as properties."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aboveboard.accountability.policy import DUTIES, LOOKS, ROLES, Asked, Pack, Policies, decide, read_pack
from aboveboard.errors import BadRequest, NoSuch

POLICIES = Policies("general", "general")
GENERAL, STRICT = POLICIES.get("general"), POLICIES.get("public-safety")
TEXT = """
id = "p"
version = "1"
title = "t"
authority = "a"
[threshold]
floor = 90
absent = 95
absent_origin = "policy"
allow_none = false
citation = "c"
[candidates]
maximum = 10
citation = "c"
[review]
mode = "none"
citation = "c"
[roles]
separate = [["admin", "reviewer"]]
citation = "c"
"""


def ask(pack: Pack, threshold: float | None, duty: str = "search.image", roles=("investigator",), limit: int = 80):
    return decide(pack, Asked(duty, roles, threshold, limit))


@pytest.mark.parametrize(
    ("pack", "threshold", "expected"),
    [
        (GENERAL, None, (80, "default")),
        (GENERAL, 0, (0, "none")),
        (GENERAL, 0.1, (0.1, "request")),
        (GENERAL, 100, (100, "request")),
        (STRICT, None, (99, "policy")),
        (STRICT, 99, (99, "request")),
        (STRICT, 100, (100, "request")),
        (STRICT, 98.9999, "public-safety/threshold.floor"),
        (STRICT, 0, "public-safety/threshold.none"),
    ],
)
def test_thresholds(pack, threshold, expected):
    """Absent -> the pack's value; explicit and below the floor -> refused, never raised; 0 -> no threshold, where the pack allows it."""
    decision = ask(pack, threshold)
    assert (decision.rule if isinstance(expected, str) else (decision.threshold, decision.origin)) == expected


@given(
    st.sampled_from([GENERAL, STRICT]), st.none() | st.floats(0, 100), st.sampled_from(sorted(DUTIES)),
    st.sets(st.sampled_from(ROLES)), st.integers(1, 4096),
)  # fmt: skip
def test_whatever_is_allowed_is_within_the_packs_bounds(pack, threshold, duty, roles, limit):
    """For every request: allowed looks keep floor, limit and roles; refusals name the pack's rule and how to comply."""
    decision = decide(pack, Asked(duty, roles, threshold, limit))
    if not decision.is_allowed:
        assert decision.rule.startswith(f"{pack.id}/")
        assert decision.message.startswith(f"Refused by rule {decision.rule}: ")
        return
    assert roles & set(DUTIES[duty])
    assert decision.withhold_identities == (pack.review.mode == "enforce")
    if duty in LOOKS:
        assert decision.threshold >= pack.threshold.floor
        assert decision.origin != "none" or pack.threshold.allow_none
        assert threshold is None or decision.threshold == threshold
        assert decision.limit <= min(limit, pack.candidates.maximum)
        assert not any({one, other} <= roles for one, other in pack.roles.separate)


def test_strictness_is_a_partial_order():
    """public-safety is at least as strict as general, not the other way round; each as strict as itself; crossed packs are neither."""
    assert STRICT.is_at_least_as_strict_as(GENERAL)
    assert not GENERAL.is_at_least_as_strict_as(STRICT)
    assert STRICT.is_at_least_as_strict_as(STRICT)
    looser = [
        dataclasses.replace(STRICT, threshold=dataclasses.replace(STRICT.threshold, floor=98.9)),
        dataclasses.replace(STRICT, threshold=dataclasses.replace(STRICT.threshold, absent=98.9)),
        dataclasses.replace(STRICT, threshold=dataclasses.replace(STRICT.threshold, allow_none=True)),
        dataclasses.replace(STRICT, candidates=dataclasses.replace(STRICT.candidates, maximum=101)),
        dataclasses.replace(STRICT, review=dataclasses.replace(STRICT.review, mode="none")),
        dataclasses.replace(STRICT, roles=dataclasses.replace(STRICT.roles, separate=STRICT.roles.separate[1:])),
    ]
    for pack in looser:
        assert not pack.is_at_least_as_strict_as(STRICT)
        assert STRICT.is_at_least_as_strict_as(pack)


def test_the_hash_of_a_pack_is_that_of_its_content():
    """Any change of a rule gives another hash; the same rules read twice give the same."""
    assert read_pack(TEXT, "x").sha256 == read_pack(TEXT, "y").sha256
    assert read_pack(TEXT.replace("90", "91"), "x").sha256 != read_pack(TEXT, "x").sha256


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("floor = 90", "floor = 101"), "floor must be 0-100"),
        (("absent = 95", "absent = 89"), "'absent' not below it"),
        (("maximum = 10", ""), "'maximum' is missing"),
        (("[review]", "[reviews]"), "unknown key 'reviews'"),
        (('mode = "none"', 'mode = "sometimes"'), "review mode"),
        (('"reviewer"', '"king"'), "no role 'king'"),
        (('title = "t"', 'title = "t"\nextra = 1'), "unknown key 'extra'"),
        (("maximum = 10", "maximum = 10\nmost = 1"), "unknown key 'most'"),
        (('id = "p"', "id = p"), "not TOML"),
    ],
)
def test_a_pack_with_a_fault_is_refused_by_name(change, words):
    """Unknown and missing keys, numbers out of range, roles that do not exist."""
    with pytest.raises(BadRequest, match=words):
        read_pack(TEXT.replace(*change), "own.toml")


def test_a_default_looser_than_the_minimum_refuses_to_start():
    """And an unknown pack too."""
    with pytest.raises(BadRequest, match="looser than minimum_policy"):
        Policies("general", "public-safety")
    with pytest.raises(NoSuch, match="known are general, public-safety"):
        Policies("general", "no-such")


def test_the_minimum_binds_looser_tags():
    """A tag that is looser than the minimum yields the minimum; no tag yields the default."""
    strict = Policies("public-safety", "public-safety")
    assert strict.of("general").id == "public-safety"
    assert Policies("public-safety", "general").of(None).id == "public-safety"
    assert Policies("public-safety", "general").of("general").id == "general"


def test_a_duty_may_have_a_usual_threshold_of_its_own():
    """Amazon's default of AssociateFaces is 75: it applies where the pack leaves an absent threshold to the API, and nowhere else."""
    asked = Asked("subject.associate", ("enroller",), None, 1, usual=75)
    general, strict = decide(GENERAL, asked), decide(STRICT, asked)
    assert (general.threshold, general.origin) == (75, "default")
    assert (strict.threshold, strict.origin) == (99, "policy")
    floored = dataclasses.replace(GENERAL, threshold=dataclasses.replace(GENERAL.threshold, floor=78))
    assert decide(floored, asked).threshold == 78


def test_many_comparisons_raise_the_threshold_of_who_names_none():
    """`least` lifts an absent threshold, says so, and leaves one that was asked for alone."""
    for pack, usual in (("general", 80), ("public-safety", 99)):
        rules = Policies("general", "general").get(pack)
        absent = decide(rules, Asked("collection.check", ["enroller"], None, 10, least=99.7))
        assert (absent.threshold, absent.origin) == (99.7, "gallery")
        few = decide(rules, Asked("collection.check", ["enroller"], None, 10, least=10))
        assert (few.threshold, few.origin) == (usual, rules.threshold.absent_origin)
        named = decide(rules, Asked("collection.check", ["enroller"], 99.0, 10, least=99.7))
        assert (named.threshold, named.origin) == (99.0, "request")
