"""The one decision, as properties: what policies/table.csv does not say row by row."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from aboveboard import strict
from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.explaining import differences, explain
from aboveboard.accountability.packs import Pack, read_pack
from aboveboard.accountability.policy import CASEWORK, DUTIES, LOOKS, WRITES, Asked, CaseFacts, Certificate, Document, decide, judge_gallery
from aboveboard.accountability.rules import EDITS, KINDS, OFFENCES, PROBES, PURPOSES, ROLES, DocumentRule
from aboveboard.errors import BadRequest

POLICIES = Policies("general", "general")
GENERAL, STRICT = POLICIES.get("general"), POLICIES.get("public-safety")
SHIPPED = list(POLICIES.all())
AT = "2028-01-10T08:00:00Z"
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Comparing packs takes milliseconds, and making a counterexample smaller would take minutes."""
TIMES = st.sampled_from(["2027-12-01", "2028-01-08T08:00:00Z", "2028-01-09T08:00:00Z", AT, "2028-01-10T08:00:01Z", "2029-01-01"])

papers = st.builds(
    lambda kind, requested, decided: Document(kind, requested, *decided),
    st.sampled_from(KINDS), TIMES, st.just((None, None)) | st.tuples(TIMES, st.booleans()),
)  # fmt: skip
cases = st.builds(
    CaseFacts,
    st.sampled_from(list(PURPOSES)),
    st.sampled_from(["2999-01-01", "2028-01-01"]),
    st.sampled_from(["", *OFFENCES]),
    st.sampled_from(["", "", "", "2028-01-01"]),
    st.just("") | TIMES,
    st.lists(papers, max_size=3).map(tuple),
    st.sampled_from(PROBES),
    st.lists(st.sampled_from(EDITS), max_size=2, unique=True).map(tuple),
    st.booleans(),
)
certificates = st.none() | st.builds(Certificate, TIMES, st.sampled_from(["2028-01-09", "2999-01-01"]), st.sampled_from([0.5, 0.95, 1.0]))
requests = st.builds(
    Asked,
    st.sampled_from(sorted(DUTIES)),
    st.sets(st.sampled_from(ROLES)).map(lambda roles: tuple(sorted(roles))),
    st.just(AT),
    st.none() | st.sampled_from([0.0, 50.0, 79.9, 80.0, 95.0, 96.03, 99.0, 100.0]) | st.floats(0, 100),
    st.integers(1, 4096),
    st.none() | st.just(75.0),
    st.sampled_from([0.0, 90.0, 99.7]),
    st.sampled_from([0, 1, 1000, 10**6, 10**8]),
    cases,
    certificates,
    st.sampled_from(["", "", "", "the operator 'ann'"]),
).map(lambda asked: asked if asked.duty in CASEWORK else dataclasses.replace(asked, case=None))


def some(known: Any) -> st.SearchStrategy[list[str]]:
    """A list of words, or any of them."""
    return st.just(["*"]) | st.lists(st.sampled_from(list(known)), max_size=6, unique=True)


modes = st.sampled_from(["enforce", "enforce", "reason", "record"])
floors = st.fixed_dictionaries(
    {
        "purposes": some(PURPOSES), "offences": some(OFFENCES), "similarity": st.sampled_from([0.0, 90.0, 99.0]),
        "fpir": st.sampled_from([0.0, 0.003]), "citation": st.just("c"),
    }
)  # fmt: skip
rules = st.fixed_dictionaries(
    {
        "documents": st.lists(
            st.fixed_dictionaries(
                {
                    "mode": modes, "purposes": some(PURPOSES), "offences": some(OFFENCES), "kind": st.sampled_from(KINDS),
                    "state": st.sampled_from(["requested", "granted"]), "emergency_hours": st.sampled_from([0, 24, 48]),
                    "citation": st.just("c"),
                }
            ), max_size=2,
        ),
        "purposes": st.fixed_dictionaries(
            {"mode": modes, "required": st.booleans(), "allow": some(PURPOSES), "deny": some(PURPOSES), "citation": st.just("c")}
        ),
        "offences": st.fixed_dictionaries(
            {"mode": modes, "purposes": some(PURPOSES), "allow": some(OFFENCES), "citation": st.just("c")}
        ),
        "probes": st.fixed_dictionaries(
            {
                "mode": modes, "types": st.lists(st.sampled_from(PROBES), unique=True), "citation": st.just("c"),
                "edits": st.lists(st.sampled_from(EDITS), unique=True),
            }
        ),
        "threshold": st.fixed_dictionaries(
            {
                "mode": modes, "floor": st.sampled_from([0.0, 90.0]), "fpir": st.sampled_from([0.0, 0.003]),
                "when_absent": st.sampled_from(["apply", "refuse"]), "absent": st.sampled_from([0.0, 80.0, 95.0]),
                "absent_origin": st.sampled_from(["default", "policy"]), "allow_none": st.booleans(), "citation": st.just("c"),
                "floors": st.lists(floors, max_size=2),
            }
        ),
        "certificate": st.fixed_dictionaries(
            {
                "mode": modes, "required": st.booleans(), "max_age_days": st.sampled_from([0, 1, 365]),
                "least_score": st.sampled_from([0.0, 0.9]), "citation": st.just("c"),
            }
        ),
        "candidates": st.fixed_dictionaries({"mode": modes, "maximum": st.sampled_from([5, 100]), "citation": st.just("c")}),
        "roles": st.fixed_dictionaries(
            {"mode": modes, "separate": st.sampled_from([[], [["admin", "investigator"]]]), "citation": st.just("c")}
        ),
    }
)  # fmt: skip


@st.composite
def packs(draw: Any, base: dict[str, Any] | None = None) -> Pack:
    """A pack with up to three rules unlike those of a shipped one, or of the pack `base`; only such as can be loaded."""
    raw = {**(base or draw(st.sampled_from(SHIPPED)).plain()), "effective_from": ""}
    for name in draw(
        st.lists(
            st.sampled_from(["documents", "purposes", "offences", "probes", "threshold", "certificate", "candidates", "roles"]), max_size=3
        )
    ):
        raw[name] = draw(rules)[name]
    try:
        return read_pack(raw, "drawn")
    except BadRequest:
        assume(False)
        raise


@st.composite
def families(draw: Any) -> list[Pack]:
    """Three packs that are often comparable: each a change of the one before."""
    first = draw(packs())
    second = draw(packs(first.plain()))
    return [first, second, draw(packs(second.plain()))]


@given(packs(), requests)
def test_whatever_is_allowed_is_within_the_packs_bounds(pack, asked):
    """For every pack and request: allowed looks keep floor, limit and roles; refusals name the pack's rule and how to comply."""
    decision = decide(pack, asked)
    if not decision.is_allowed:
        assert decision.rule.startswith(f"{pack.id}/")
        assert decision.message.startswith(f"Refused by rule {decision.rule}: ")
        return
    assert set(asked.roles) & set(DUTIES[asked.duty])
    assert not (asked.suspended and asked.duty in LOOKS | WRITES)
    assert decision.withhold_identities == (pack.review.mode == "enforce" and pack.review.reviewers > 0)
    if asked.duty not in LOOKS:
        return
    assert asked.threshold is None or decision.threshold == asked.threshold
    noted = {name.partition("/")[2] for name in decision.departures}
    if decision.origin == "none":
        assert pack.threshold.allow_none or "threshold.none" in noted
    else:
        assert decision.threshold >= decision.floor or "threshold.floor" in noted
    assert decision.limit <= pack.candidates.maximum or pack.candidates.mode != "enforce"
    assert pack.roles.mode != "enforce" or not any({one, other} <= set(asked.roles) for one, other in pack.roles.separate)
    if asked.duty in CASEWORK and pack.certificate.required and pack.certificate.mode == "enforce":
        assert asked.certificate is not None
        assert asked.certificate.score >= pack.certificate.least_score


@given(packs(), requests)
def test_a_decision_depends_on_nothing_else(pack, asked):
    """Made again, from what an entry of the ledger and the kept pack say, it is the same to the last word; the entry says it all."""
    again = decide(read_pack(pack.plain(), "kept"), Asked.from_plain(asked.plain()))
    assert again == decide(pack, asked)
    assert Asked.from_plain(asked.plain()) == asked


@settings(max_examples=30, deadline=None, phases=UNSHRUNK)
@given(families())
def test_strictness_is_a_preorder(family):
    """Reflexive and transitive, whatever the rules."""
    one, two, three = family
    for pack in family:
        assert list(pack.looser_than(pack)) == []
    for a, b, c in ((one, two, three), (three, two, one)):
        if a.is_at_least_as_strict_as(b) and b.is_at_least_as_strict_as(c):
            assert a.is_at_least_as_strict_as(c), list(a.looser_than(c))


@settings(max_examples=40, deadline=None, phases=UNSHRUNK)
@given(families(), st.lists(requests, min_size=5, max_size=5))
def test_a_stricter_pack_allows_nothing_that_a_looser_one_refuses(family, asking):
    """For every pair of packs of which one is at least as strict; a list that is cut where the other refuses it is no more than that."""
    for strict_one, loose in (family[:2], family[1::-1], family[1:], family[:0:-1]):
        if not strict_one.is_at_least_as_strict_as(loose):
            continue
        for asked in asking:
            decision, other = decide(strict_one, asked), decide(loose, asked)
            if decision.is_allowed and not other.is_allowed:
                assert other.rule == f"{loose.id}/candidates", other.message
                assert decision.limit <= loose.candidates.maximum
            if decision.is_allowed and other.is_allowed and asked.duty in LOOKS:
                assert decision.threshold >= other.floor or decision.departures or decision.origin == "none"


@pytest.mark.parametrize("pack", SHIPPED, ids=lambda pack: pack.id)
def test_every_shipped_pack_is_at_least_as_strict_as_general(pack):
    """So that a minimum_policy of general stands before none of them; and only general is as loose."""
    assert list(pack.looser_than(GENERAL)) == []
    assert GENERAL.is_at_least_as_strict_as(pack) == (pack.id in ("general",))


LOOSER = {
    "threshold": [("floor", 98.9), ("absent", 98.9), ("allow_none", True), ("mode", "record"), ("floors", ())],
    "candidates": [("maximum", 101), ("mode", "reason")],
    "review": [("reviewers", 0), ("mode", "record")],
    "roles": [("separate", STRICT.roles.separate[1:]), ("mode", "record")],
    "purposes": [("required", False), ("deny", STRICT.purposes.deny[1:]), ("mode", "reason")],
    "offences": [("purposes", STRICT.offences.purposes[1:]), ("mode", "record")],
    "probes": [("types", (*STRICT.probes.types, "sketch")), ("edits", (*STRICT.probes.edits, "composite"))],
    "certificate": [("required", False), ("max_age_days", 366), ("max_age_days", 0), ("mode", "record")],
    "leads": [("maximum", 11), ("floor", 89.0), ("mode", "record")],
    "gallery": [("max_factor", 10.5), ("max_factor", 0.0)],
    "retention": [("expired_days", 31), ("expired_days", 0)],
    "suspension": [("refusals", 21), ("refusals", 0), ("hours", 23), ("ledger", False), ("mode", "record")],
}


@pytest.mark.parametrize(("rule", "key", "value"), [(rule, *one) for rule, ways in LOOSER.items() for one in ways])
def test_a_rule_that_is_loosened_is_named(rule, key, value):
    """Each rule of public-safety, each way; `floors` without the one for missing people is not looser but stricter."""
    other = dataclasses.replace(STRICT, **{rule: dataclasses.replace(getattr(STRICT, rule), **{key: value})})
    expected = [] if key == "floors" else [rule]
    assert list(other.looser_than(STRICT)) == expected
    (found,) = differences(other, STRICT)
    assert (found.rule, found.stricter) == (rule, "first" if key == "floors" else "second")


def test_a_purpose_that_is_only_recorded_as_denied_does_not_hide_its_floor():
    """Such a purpose is allowed, so that its floor counts when packs are compared."""
    raw = STRICT.plain()
    raw["purposes"] |= {"mode": "record", "allow": ["victim"]}
    base = read_pack(raw, "base")
    raw["threshold"]["floors"].insert(0, {"purposes": ["suspect"], "offences": ["*"], "similarity": 50.0, "fpir": 0.0, "citation": "c"})
    lower = read_pack(raw, "lower")
    assert list(lower.looser_than(base)) == ["threshold"]


def test_the_hash_of_a_pack_is_that_of_its_content():
    """Any change of a rule gives another hash; the same rules read twice give the same."""
    assert read_pack(STRICT.plain(), "x").sha256 == STRICT.sha256
    other = dataclasses.replace(STRICT, candidates=dataclasses.replace(STRICT.candidates, maximum=99))
    assert other.sha256 != STRICT.sha256


FAULTS = [
    (("threshold", "floor"), 101.0, "floor must be 0-100"),
    (("threshold", "absent"), 98.0, "'absent' not below it"),
    (("threshold", "fpir"), 1.0, "fpir 0 or more and below 1"),
    (("threshold", "floors", 0, "purposes"), ["missing"], "'missing' is not one of suspect"),
    (("candidates", "maximum"), -1, "candidates maximum must be 0 or more"),
    (("review", "mode"), "sometimes", "review mode must be one of enforce, reason, record"),
    (("roles", "separate"), [["admin", "king"]], "no role 'king'"),
    (("purposes", "allow"), ["curiosity"], "'curiosity' is not one of suspect"),
    (("offences", "allow"), ["heresy"], "'heresy' is not one of homicide"),
    (("probes", "types"), ["dream"], "probes types must be one of photograph"),
    (("effective_from",), "soon", "write times like"),
    (("effective_to",), "2000-13-01", "write times like"),
    (("reports", 0, "due"), "02-30", "days of a year like 02-01"),
    (("reports", 0, "due"), "02-29", "days of a year like 02-01"),
    (("reports", 0, "due"), "2-1", "'2-1' is no day of a year"),
    (("threshold", "absent_origin"), "gallery", "absent_origin must be one of policy, default"),
    (("leads", "floor"), 100.5, "leads floor must be 0-100"),
    (("certificate", "least_score"), 95.0, "certificate least_score must be 0-1"),
    (("retention", "expired_days"), 800_000, "retention expired_days must be 0 or more, and at most 100,000"),
    (("effective_to",), "9999-12-31T23:59:59-14:00", "is beyond the years 1 to 9999; write times like"),
    (("extra",), 1, "unknown key 'extra'"),
    (("candidates", "most"), 1, "unknown key 'most'"),
    (("title",), 7, "title must be a str"),
]


@pytest.mark.parametrize(("path", "value", "words"), FAULTS, ids=[".".join(map(str, fault[0])) for fault in FAULTS])
def test_a_pack_with_a_fault_is_refused_by_name(path, value, words):
    """Unknown keys, numbers out of range, words that are none, dates that cannot be."""
    raw = STRICT.plain()
    part = raw
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(BadRequest, match=words):
        read_pack(raw, "own.toml")


@pytest.mark.parametrize("table", [key for key, value in STRICT.plain().items() if isinstance(value, dict)])
def test_a_rule_without_mode_or_citation_is_refused(table):
    """Nothing in a pack is a recommendation."""
    for key in ("mode", "citation"):
        raw = STRICT.plain()
        del raw[table][key]
        with pytest.raises(BadRequest, match=f"{table}: the key '{key}' is missing"):
            read_pack(raw, "own.toml")


def test_dates_that_end_before_they_begin_are_refused():
    """The first moment after must be later than the first."""
    with pytest.raises(BadRequest, match="later than effective_from"):
        read_pack({**STRICT.plain(), "effective_from": "2027-01-01", "effective_to": "2027-01-01T00:00:00Z"}, "own.toml")


def test_a_duty_may_have_a_usual_threshold_of_its_own():
    """Amazon's default of AssociateFaces is 75: it applies where the pack leaves an absent threshold to the API, and nowhere else."""
    asked = Asked("subject.associate", ("enroller",), AT, None, 1, usual=75)
    general, strict_one = decide(GENERAL, asked), decide(STRICT, asked)
    assert (general.threshold, general.origin) == (75, "default")
    assert (strict_one.threshold, strict_one.origin) == (99, "policy")
    floored = dataclasses.replace(GENERAL, threshold=dataclasses.replace(GENERAL.threshold, floor=78))
    assert decide(floored, asked).threshold == 78


def test_many_comparisons_raise_the_threshold_of_who_names_none():
    """`least` lifts an absent threshold, says so, and leaves one that was asked for alone."""
    for pack, usual in ((GENERAL, 80), (STRICT, 99)):
        absent = decide(pack, Asked("collection.check", ("enroller",), AT, None, 10, least=99.7))
        assert (absent.threshold, absent.origin) == (99.7, "gallery")
        few = decide(pack, Asked("collection.check", ("enroller",), AT, None, 10, least=10))
        assert (few.threshold, few.origin) == (usual, pack.threshold.absent_origin)
        named = decide(pack, Asked("collection.check", ("enroller",), AT, 99.0, 10, least=99.7))
        assert (named.threshold, named.origin) == (99.0, "request")


def test_a_rule_that_wants_a_reason_is_departed_from_with_one():
    """Without it the refusal says so; with it the rule is on record as not kept."""
    raw = STRICT.plain()
    raw["probes"]["mode"] = "reason"
    pack = read_pack(raw, "reason")
    case = CaseFacts("suspect", "2999-01-01", "robbery", probe="sketch")
    asked = Asked("search.image", ("investigator",), AT, None, 10, case=case, certificate=Certificate(AT, "2999-01-01", 1.0))
    refused = decide(pack, asked)
    assert (refused.rule, "or give a reason" in refused.message) == ("public-safety/probe", True)
    assert decide(pack, dataclasses.replace(asked, case=dataclasses.replace(case, has_reason=True))).departures == ("public-safety/probe",)


@pytest.mark.parametrize("pack", SHIPPED, ids=lambda pack: pack.id)
def test_any_is_a_word_of_packs_and_no_purpose_or_offence(pack):
    """`*` in a pack is each word of the closed list; a case that says it has no purpose, and no offence."""
    assert not pack.purposes.allows("*")
    anything = dataclasses.replace(pack.offences, purposes=("*",), allow=("*",))
    assert [anything.allows("suspect", word) for word in ("robbery", "*", "")] == [True, False, False]
    only = DocumentRule("enforce", ("suspect",), ("theft",), "warrant", "granted", 0, "c")
    assert [only.applies(*pair) for pair in (("suspect", "theft"), ("*", "theft"), ("suspect", "*"))] == [True, False, False]


def test_a_gallery_whose_scores_lie_is_not_answered():
    """Above the pack's factor; one that is too small to have any is not judged."""
    assert judge_gallery(STRICT, 10.1, has_reason=True).rule == "public-safety/gallery"
    for factor in (None, 10.0, 0.1):
        assert judge_gallery(STRICT, factor, has_reason=False).is_allowed
    assert judge_gallery(GENERAL, 1000.0, has_reason=False).is_allowed


@given(packs(), requests)
def test_an_explanation_agrees_with_the_decision_and_cites_each_rule(pack, asked):
    """The first rule that refuses is the decision's; what is allowed has none; noted rules are its departures; nothing is uncited."""
    decision, findings = explain(pack, asked)
    assert decision == decide(pack, asked)
    refusing = [one.rule for one in findings if one.verdict in ("refuses", "wants a reason")]
    assert refusing[:1] == ([decision.rule] if decision.rule else [])
    if decision.is_allowed:
        assert [one.rule for one in findings if one.verdict == "noted"] == list(decision.departures)
    for one in findings:
        assert one.citation
        assert one.text
        assert one.rule.startswith(f"{pack.id}/")


def test_a_request_that_is_none_is_refused_by_name():
    """What an entry says was asked is read strictly."""
    with pytest.raises(BadRequest, match="what was asked: unknown key 'mood'"):
        Asked.from_plain({"duty": "detect", "roles": [], "at": AT, "mood": "good"})
    assert strict.table(Asked, {"duty": "detect", "roles": [], "at": AT}, "x") == Asked("detect", (), AT)
