"""Packs of a deployment's own: overlays that only tighten, versions by date, signatures of authorities."""

from __future__ import annotations

from pathlib import Path

import pytest

from aboveboard.accountability.catalogue import Policies, shipped, statement
from aboveboard.accountability.verify_ledger import open_note
from aboveboard.errors import BadRequest, Exists, NoSuch, Unavailable
from aboveboard.storage.notes import Signer

OVERLAY = 'extends = "public-safety"\nid = "agency"\nversion = "1"\n'
DATED = 'extends = "general"\nid = "agency"\nversion = "{version}"\neffective_from = "{start}"\n'
DATED += "[threshold]\nfloor = {floor}\nabsent = {floor}\n"


def load(folder: Path, default: str = "general", minimum: str = "general") -> Policies:
    return Policies(default, minimum, folder)


def put(folder: Path, text: str, name: str = "agency.toml") -> Path:
    (folder / name).write_text(text)
    return folder


@pytest.fixture
def authority(tmp_path: Path) -> Signer:
    return Signer.make("legislature.example.org", tmp_path / "authority.key")


@pytest.fixture
def folder(tmp_path: Path, authority: Signer) -> Path:
    """A folder in which an authority has signed us-md."""
    made = tmp_path / "policies"
    made.mkdir()
    (made / "authorities.txt").write_text(f"# whose signatures count\n\n{authority.verifier_key}\n")
    (made / "us-md-1.sig").write_bytes(authority.sign(statement(load(made).get("us-md"))))
    return made


# --- overlays ---------------------------------------------------------------------------------------------------------------------


def test_an_overlay_has_its_bases_rules_and_its_own(tmp_path):
    """Keys that it does not name are the base's; the base itself is as it was."""
    known = load(put(tmp_path, OVERLAY + "[threshold]\nfloor = 99.5\nabsent = 99.5\n[candidates]\nmaximum = 20\n"))
    pack, base = known.get("agency"), known.get("public-safety")
    assert (pack.threshold.floor, pack.candidates.maximum) == (99.5, 20)
    assert (pack.purposes, pack.review, pack.candidates.citation) == (base.purposes, base.review, base.candidates.citation)
    assert pack.is_at_least_as_strict_as(base)
    assert known.of("agency", "2026-11-23") is pack


LOOSENING = {
    "threshold": "[threshold]\nfloor = 90.0\nabsent = 90.0\n",
    "candidates": "[candidates]\nmaximum = 200\n",
    "purposes": "[purposes]\ndeny = []\n",
    "review": "[review]\nmode = 'record'\n",
    "candidates, threshold": "[threshold]\nallow_none = true\n[candidates]\nmaximum = 101\n",
}


@pytest.mark.parametrize("rules", LOOSENING)
def test_an_overlay_that_loosens_is_refused_with_the_rules_it_loosens(tmp_path, rules):
    """A floor that is lowered, a longer list, a purpose allowed again, a weaker mode; several at once."""
    with pytest.raises(BadRequest, match=f"agency.toml: it loosens the rules {rules} of 'public-safety'"):
        load(put(tmp_path, OVERLAY + LOOSENING[rules]))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (OVERLAY + "colour = 'blue'\n", "unknown key 'colour'"),
        (OVERLAY + "[threshold]\nlowest = 99.0\n", "unknown key 'lowest'"),
        (OVERLAY.replace('id = "agency"\n', ""), "needs an id of its own"),
        (OVERLAY.replace("agency", "public-safety"), "needs an id of its own"),
        (OVERLAY.replace('"public-safety"', '"no-such"'), "it extends 'no-such', which is no pack; known are eu-26-10, general"),
        (OVERLAY.replace('"public-safety"', '"agency"'), "it extends 'agency', which is no pack"),
        (OVERLAY.replace('"agency"', "agency"), "not TOML"),
        (OVERLAY.replace('"agency"', '"general"').replace('version = "1"', 'version = "2"'), "a pack 'general' of version 2 already"),
        (OVERLAY.replace("public-safety", "us-md") + 'effective_from = "2024-09-30"\n', "in force when 'us-md' is not"),
        (OVERLAY.replace("public-safety", "us-md") + 'effective_from = ""\n', "in force when 'us-md' is not"),
    ],
)
def test_an_overlay_with_a_fault_is_refused(tmp_path, text, words):
    """Unknown keys, no id, a base that is none or itself, another's id and version, dates outside the base's."""
    with pytest.raises(BadRequest, match=words):
        load(put(tmp_path, text))


def test_a_pack_that_is_no_text_is_refused(tmp_path):
    """By its name, not with a traceback."""
    (tmp_path / "agency.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadRequest, match=r"agency.toml is not text"):
        load(tmp_path)


def test_an_overlay_may_stand_on_another_whatever_their_names(tmp_path):
    """A precinct's on an agency's; it may not loosen the agency's either."""
    put(tmp_path, OVERLAY + "[candidates]\nmaximum = 20\n", "z.toml")
    upper = OVERLAY.replace("public-safety", "base").replace("agency", "precinct")
    (tmp_path / "z.toml").write_text((tmp_path / "z.toml").read_text().replace('"agency"', '"base"'))
    assert load(put(tmp_path, upper + "[candidates]\nmaximum = 10\n", "a.toml")).get("precinct").candidates.maximum == 10
    with pytest.raises(BadRequest, match="loosens the rules candidates of 'base'"):
        load(put(tmp_path, upper + "[candidates]\nmaximum = 21\n", "a.toml"))


# --- which is in force ------------------------------------------------------------------------------------------------------------


def test_a_default_looser_than_the_minimum_or_unknown_refuses_to_start(tmp_path):
    """And a template that nobody has signed."""
    with pytest.raises(BadRequest, match="looser than minimum_policy"):
        load(tmp_path, "general", "public-safety")
    with pytest.raises(NoSuch, match="known are eu-26-10, general, public-safety, us-md, us-wa, wcso-2019"):
        load(tmp_path, "no-such")
    for template in ("us-md", "us-wa", "eu-26-10"):
        with pytest.raises(BadRequest, match=f"'{template}' is a template and unverified.*policy sign {template}"):
            load(tmp_path, template)


def test_the_minimum_binds_looser_tags(tmp_path):
    """A tag that is looser than the minimum yields the minimum; no tag yields the default."""
    at = "2026-11-23"
    assert load(tmp_path, "public-safety", "public-safety").of("general", at).id == "public-safety"
    assert load(tmp_path, "public-safety").of(None, at).id == "public-safety"
    assert load(tmp_path, "public-safety").of("general", at).id == "general"
    assert load(tmp_path, "public-safety").of("wcso-2019", at).id == "wcso-2019"
    assert load(tmp_path, "public-safety", "public-safety").of("wcso-2019", at).id == "public-safety"


def test_the_version_is_the_one_in_force_at_the_time_of_the_look(tmp_path):
    """95 becomes 99 on a date, to the second; of two in force the later one stands; before the first one, it says that it is not."""
    put(tmp_path, DATED.format(version="2", start="2027-01-01T00:00:00+01:00", floor=99.0), "a.toml")
    put(tmp_path, DATED.format(version="1", start="2026-01-01", floor=95.0), "b.toml")
    known = load(tmp_path)
    floors = {
        at: known.of("agency", at).threshold.floor for at in ("2026-01-01", "2026-12-31T22:59:59Z", "2026-12-31T23:00:00Z", "2099-01-01")
    }
    assert list(floors.values()) == [95.0, 95.0, 99.0, 99.0]
    assert not known.of("agency", "2025-12-31T23:59:59Z").is_effective("2025-12-31T23:59:59Z")


def test_the_minimum_binds_the_default_on_each_day(folder, authority):
    """A minimum that is loosened next year binds what has no tag, and no collection either, until then."""
    put(folder, DATED.format(version="1", start="2026-01-01", floor=99.0), "a.toml")
    put(folder, DATED.format(version="2", start="2027-01-01", floor=0.0).replace("absent = 0.0", "absent = 80.0"), "b.toml")
    later = next(one for one in load(folder).all() if (one.id, one.version) == ("agency", "2"))
    (folder / "b.sig").write_bytes(authority.sign(statement(later)))
    known = load(folder, "general", "agency")
    for at, floor in (("2026-12-31", 99.0), ("2027-01-01", 0.0)):
        assert known.default(at).threshold.floor == known.of(None, at).threshold.floor == floor


def test_an_expired_pack_stands_and_denies(tmp_path):
    """It does not give way to the default."""
    known = load(put(tmp_path, OVERLAY + 'effective_to = "2026-01-01"\n'))
    pack = known.of("agency", "2026-01-01")
    assert (pack.id, pack.is_effective("2026-01-01"), pack.is_effective("2025-12-31T23:59:59Z")) == ("agency", False, True)


# --- signatures -------------------------------------------------------------------------------------------------------------------


def test_a_template_is_in_force_once_an_authority_has_signed_it(folder, authority):
    """As the default and under a tag; the note opens with the authority's key and says which pack it is about."""
    known = load(folder, "us-md")
    assert known.default("2026-11-23").id == "us-md"
    pack = known.of("us-md", "2026-11-23")
    assert known.signatures[pack.sha256].authority == "legislature.example.org"
    assert open_note(known.signatures[pack.sha256].note, authority.verifier_key).split("\n")[1:4] == ["us-md", "1", pack.sha256]
    with pytest.raises(BadRequest, match="'us-wa' is a template"):
        known.check("us-wa")


def test_a_tag_whose_pack_lost_its_signature_fails_closed(folder):
    """Without the signature nothing is searched, not even under the default."""
    (folder / "us-md-1.sig").unlink()
    with pytest.raises(Unavailable, match=r"the collection's policy cannot be loaded: .*us-md.* is a template"):
        load(folder).of("us-md", "2026-11-23")
    with pytest.raises(Unavailable, match="no policy pack 'gone'"):
        load(folder).of("gone", "2026-11-23")


def test_an_overlay_of_a_template_needs_a_signature_of_its_own(folder, authority):
    """The authority signed other rules; with its signature it is in force."""
    put(folder, OVERLAY.replace("public-safety", "us-md"))
    with pytest.raises(BadRequest, match="'agency' is a template"):
        load(folder).check("agency")
    (folder / "agency.sig").write_bytes(authority.sign(statement(load(folder).get("agency"))))
    load(folder).check("agency")
    put(folder, OVERLAY.replace("public-safety", "us-md") + "[candidates]\nmaximum = 5\n")
    with pytest.raises(BadRequest, match=r"agency.sig: it signs version 1 of 'agency'.*changed after it was signed"):
        load(folder)


def test_an_overlay_of_a_template_cannot_say_that_it_is_none(folder):
    """`published` would do without the signature that the template itself needs."""
    with pytest.raises(BadRequest, match=r"agency.toml: 'us-md' is a template, and so is an overlay of it"):
        load(put(folder, OVERLAY.replace("public-safety", "us-md") + 'status = "published"\n'))


def test_a_later_version_may_tighten_and_loosens_only_signed(folder, authority):
    """A file with a shipped pack's id stands in its place from its date on: not if it is looser, with the rules in which it is."""

    def version(number: str, most: int, name: str) -> None:
        text = dict(shipped())["public-safety.toml"].replace('version = "2"', f'version = "{number}"')
        text = text.replace('effective_from = ""', f'effective_from = "20{number}-01-01"').replace("maximum = 100", f"maximum = {most}")
        put(folder, text, name)

    version("27", 20, "tighter.toml")
    assert load(folder, "public-safety").default("2027-01-01").candidates.maximum == 20
    version("28", 21, "looser.toml")
    with pytest.raises(BadRequest, match="version 28 of the policy pack 'public-safety' loosens the rules candidates of the one before"):
        load(folder, "public-safety")
    with pytest.raises(Unavailable, match="loosens the rules candidates"):
        load(folder).of("public-safety", "2026-11-23")
    looser = load(folder).get("public-safety", "2028-01-01")
    (folder / "looser.sig").write_bytes(authority.sign(statement(looser)))
    assert load(folder, "public-safety").default("2028-01-01").candidates.maximum == 21


def test_a_signature_that_was_changed_is_refused(folder):
    """One digit of the hash, and one sign of the signature itself."""
    file = folder / "us-md-1.sig"
    lines = file.read_text().split("\n")
    for changed in (
        [*lines[:3], "0" * 64, *lines[4:]],
        [*lines[:5], lines[5][:-3] + ("AA=" if lines[5][-3:] != "AA=" else "BA="), *lines[6:]],
    ):
        file.write_text("\n".join(changed))
        with pytest.raises(BadRequest, match=r"us-md-1.sig: the signature of legislature.example.org does not hold"):
            load(folder)


def test_a_signature_of_nobody_known_is_refused(folder, tmp_path):
    """Another key under the same name, no authorities.txt, one that names no key; and what is no note at all."""
    authorities, file = folder / "authorities.txt", folder / "us-md-1.sig"
    other = Signer.make("legislature.example.org", tmp_path / "other.key")
    before = authorities.read_text()
    authorities.write_text(other.verifier_key)
    with pytest.raises(BadRequest, match=r"no authority of authorities.txt has signed it"):
        load(folder)
    authorities.unlink()
    with pytest.raises(BadRequest, match=r"no authority of authorities.txt has signed it"):
        load(folder)
    authorities.write_text("legislature.example.org\n")
    with pytest.raises(BadRequest, match=r"authorities.txt: .* is no Ed25519 verifier key"):
        load(folder)
    authorities.write_text(before)
    file.write_text("yes, we agree")
    with pytest.raises(BadRequest, match=r"no authority of authorities.txt has signed it"):
        load(folder)


def test_a_signed_note_about_something_else_is_refused(folder, authority):
    """A checkpoint, say, under the same key."""
    (folder / "us-md-1.sig").write_bytes(authority.sign("legislature.example.org\n7\nAAAA\n"))
    with pytest.raises(BadRequest, match=r"no authority of authorities.txt has signed it"):
        load(folder)


def test_the_key_file_is_secret_whole_and_never_replaced(tmp_path, authority):
    """Mode 0600; read again it signs the same; no second key in its place; a damaged one is refused by name."""
    file = tmp_path / "authority.key"
    assert file.stat().st_mode & 0o777 == 0o600
    again = Signer.read(file)
    assert (again.verifier_key, again.sign("a\n")) == (authority.verifier_key, authority.sign("a\n"))
    with pytest.raises(Exists, match="is there already"):
        Signer.make("x", file)
    for text in ("", "PRIVATE+KEY+a+b+c", file.read_text().replace("legislature", "senate"), file.read_text()[:-10]):
        file.write_text(text)
        with pytest.raises(BadRequest, match="holds no signing key"):
            Signer.read(file)
    with pytest.raises(BadRequest, match="cannot be read"):
        Signer.read(tmp_path / "none")
    for name in ("", "two words", "a+b"):
        with pytest.raises(BadRequest, match="cannot name a key"):
            Signer.make(name, tmp_path / "new.key")
