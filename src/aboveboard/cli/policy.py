"""Verbs about policy packs: which there are, what they allow and why, how they differ, who has signed them."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aboveboard import settings as configuration
from aboveboard import strict
from aboveboard.cli.common import DONE, REFUSED, Data, Json, OperatorName, advice, columns, open_as, out, printable, show_json
from aboveboard.cli.keeping import NO_MODELS
from aboveboard.errors import BadRequest, Exists

if TYPE_CHECKING:
    from aboveboard.accountability.catalogue import Policies
    from aboveboard.accountability.explaining import Difference, Finding
    from aboveboard.accountability.packs import Pack
    from aboveboard.accountability.policy import Asked, Decision

policies = typer.Typer(help="Read the rules of searches, ask what they allow, check and sign your own.", no_args_is_help=True)

_VERDICTS = {"refuses": "REFUSES", "wants a reason": "REASON?", "noted": "noted", "kept": "kept"}
_COLOURS = {"refuses": "red", "wants a reason": "yellow", "noted": "yellow", "kept": "green"}
_WIDTH = 12
Version = Annotated[str, typer.Option("--version", metavar="V", help="Another version than the one that is in force now.")]


@policies.command("list")
def list_(data: Data = None, as_json: Json = False) -> None:
    """List the packs that ship and those of this deployment: dates, who has signed them, and what a collection stands under without one."""
    settings = configuration.load(data)
    known = _policies(data)
    table = columns("pack", "version", "in force", "status", "what it is")
    for pack in sorted(known.all(), key=lambda one: (one.id, one.effective_from)):
        roles = [name for name, id_ in (("default", settings.default_policy), ("minimum", settings.minimum_policy)) if id_ == pack.id]
        if as_json:
            keys = ("id", "version", "title", "authority", "status", "effective_from", "effective_to", "sha256")
            signed = known.signatures.get(pack.sha256)
            show_json({**{key: getattr(pack, key) for key in keys}, "signed_by": signed.authority if signed else None, "used_as": roles})
        else:
            used = f" ({' and '.join(roles)})" if roles else ""
            table.add_row(pack.id + used, pack.version, pack.dates, _status(known, pack), pack.title)
    if not as_json:
        out().print(table)


@policies.command("show")
def show(
    pack_id: Annotated[str, typer.Argument(metavar="PACK", help="The pack's id.")],
    version: Version = "",
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Print every rule of a pack: its values, its mode and where it comes from."""
    known = _policies(data)
    pack = _version(known, pack_id, version)
    if as_json:
        show_json({"sha256": pack.sha256, "is_loadable": known.is_loadable(pack), "pack": pack.plain()})
        return
    _heading(known, pack)
    for name, value in pack.plain().items():
        for rule in value if isinstance(value, list) else [value] if isinstance(value, dict) else []:
            shown = {key: part for key, part in rule.items() if key not in ("mode", "citation", "floors")}
            typer.echo()
            _entry(rule["mode"], name, "; ".join(f"{key} {_value(part)}" for key, part in shown.items()), rule["citation"])
            for floor in rule.get("floors", []):
                shown = {key: part for key, part in floor.items() if key != "citation"}
                _entry("", f"{name}.floors", "; ".join(f"{key} {_value(part)}" for key, part in shown.items()), floor["citation"])


@policies.command("check")
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A pack or an overlay, as TOML.")], data: Data = None, as_json: Json = False
) -> None:
    """Say whether a pack can be loaded; of an overlay what it tightens, of any pack which others it is at least as strict as."""
    from aboveboard.accountability.catalogue import read_text
    from aboveboard.accountability.explaining import differences

    known = _policies(data)
    raw = strict.parse(read_text(file), file.name)
    pack = known.read(raw, file.name)
    base = known.get(str(raw["extends"])) if "extends" in raw else None
    found = differences(pack, base) if base else []
    stricter = [one.id for one in known.all() if one.id != pack.id and pack.is_at_least_as_strict_as(one)]
    minimum = known.get(configuration.load(data).minimum_policy)
    is_below = not pack.is_at_least_as_strict_as(minimum)
    if as_json:
        facts = {"id": pack.id, "version": pack.version, "sha256": pack.sha256, "extends": base.id if base else None}
        shown = [asdict(one) for one in found]
        show_json({**facts, "tightens": shown, "at_least_as_strict_as": stricter, "below_minimum": is_below})
        return
    typer.echo(f"{printable(file)} can be loaded: {pack.id}, version {pack.version}, {pack.dates}, sha256 {pack.sha256}")
    if base:
        typer.echo(f"it tightens '{base.id}' in:" if found else f"it changes no rule of '{base.id}'")
        _differ(found, "here", base.id)
    typer.echo(f"at least as strict as: {', '.join(stricter) or 'no other'}")
    if is_below:
        loose = ", ".join(pack.looser_than(minimum))
        text = (
            f"looser than this deployment's minimum_policy '{minimum.id}' ({loose}): a collection tagged '{pack.id}' would stand under that"
        )
        out().print(text, style="yellow")
    if (loose := known.loosened(pack)) and pack.sha256 not in known.signatures:
        text = f"looser than the version of '{pack.id}' before it ({loose}): in force nowhere before an authority has signed it"
        out().print(text, style="yellow")
    if pack.status == "unverified":
        out().print(
            f"a template: in force nowhere before an authority has signed it: {advice(f'policy sign {pack.id}', data)}", style="yellow"
        )


@policies.command("diff")
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="A pack's id, or a file with a pack.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compare two packs rule by rule: the values that differ, and who is stricter."""
    from aboveboard.accountability.explaining import differences

    known = _policies(data)
    first, second = (_pack_or_file(known, name) for name in (one, other))
    found = differences(first, second)
    if as_json:
        show_json({"first": first.id, "second": second.id, "differences": [asdict(part) for part in found]})
        return
    _differ(found, _label(first, second), _label(second, first))
    sides = [first.is_at_least_as_strict_as(second), second.is_at_least_as_strict_as(first)]
    labels = _label(first, second), _label(second, first)
    if all(sides):
        typer.echo(f"{labels[0]} and {labels[1]} are equally strict; dates are another matter")
    elif any(sides):
        typer.echo(f"{labels[sides.index(True)]} allows nothing that {labels[sides.index(False)]} refuses; dates are another matter")
    else:
        typer.echo("neither is at least as strict as the other")


@policies.command("explain")
def explain(
    collection: Annotated[str, typer.Option("--collection", "-c", metavar="ID", help="Collection of this deployment.")] = "",
    pack_id: Annotated[str, typer.Option("--pack", metavar="PACK", help="A pack instead, for a certified investigator.")] = "",
    who: Annotated[str, typer.Option("--for", metavar="NAME", help="Operator who would search; by default who asks.")] = "",
    purpose: Annotated[str, typer.Option("--purpose", metavar="WORD", help="What the case is for; without one there is no case.")] = "",
    offence: Annotated[str, typer.Option("--offence", metavar="WORD", help="Because of which offence.")] = "",
    on: Annotated[str, typer.Option("--on", metavar="DATE", help="Day or time (RFC 3339); now by default.")] = "",
    threshold: Annotated[float | None, typer.Option("--threshold", min=0, max=100, metavar="T", help="0: none at all.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=4096, metavar="N", help="How many candidates are asked for.")] = 80,
    faces: Annotated[int, typer.Option("--faces", min=0, metavar="N", help="With --pack: faces in the gallery.")] = 1000,
    document: Annotated[
        list[str] | None,
        typer.Option("--document", metavar="KIND[:STATE]", help="Authority document: requested, granted (as by default) or refused."),
    ] = None,
    emergency: Annotated[str, typer.Option("--emergency", metavar="TIME", help="When an emergency began.")] = "",
    probe: Annotated[str, typer.Option("--probe", metavar="KIND", help="What the probe is.")] = "photograph",
    edit: Annotated[list[str] | None, typer.Option("--edit", metavar="EDIT", help="How the probe was edited.")] = None,
    reason: Annotated[bool, typer.Option("--reason", help="A reason is given.")] = False,
    uncertified: Annotated[bool, typer.Option("--uncertified", help="With --pack: for an investigator without a certificate.")] = False,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """May this operator search this collection, for this purpose, then, at this threshold? Exit code 3 where a rule refuses it.

    Every rule that has to do with it is shown with where it comes from and, where it is not kept, how to comply. Nothing is searched.
    """
    from aboveboard.accountability import explaining
    from aboveboard.service import policies as service

    if bool(collection) == bool(pack_id):
        raise BadRequest("name a collection with --collection, or a pack with --pack")
    asked = _asked(purpose, offence, on, document or [], emergency, probe, edit or [], reason=reason, threshold=threshold, limit=limit)
    known = _policies(data)
    if collection:
        app, session = open_as(data, operator, NO_MODELS)
        pack, asked = service.in_deployment(app, session, collection, who or session.operator.name, asked)
        subject, target = who or session.operator.name, f"{collection}, {asked.comparisons:,} faces,"
    else:
        pack, asked = known.get(pack_id, asked.at), _of_anybody(asked, faces, uncertified=uncertified)
        subject, target = f"{'an un' if uncertified else 'a '}certified investigator", f"a collection of {faces:,} faces under {pack_id}"
    decision, findings = explaining.explain(pack, asked)
    if as_json:
        facts = {"id": pack.id, "version": pack.version, "sha256": pack.sha256, "status": _status(known, pack)}
        shown = {"is_allowed": decision.is_allowed, "decision": asdict(decision), "policy": facts, "asked": asked.plain()}
        show_json({**shown, "rules": [asdict(one) for one in findings]})
    else:
        _answer(known, pack, asked, decision, findings, f"May {subject} search {target}")
    raise typer.Exit(DONE if decision.is_allowed else REFUSED)


@policies.command("key")
def key(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, such as legislature.example.org.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New file for the key that signs; keep it secret.")],
) -> None:
    """Make an authority's key to sign packs with, and print the line for authorities.txt of those who trust it."""
    from aboveboard.storage.notes import Signer

    typer.echo(Signer.make(name, file).verifier_key)


@policies.command("sign")
def sign(
    pack_id: Annotated[str, typer.Argument(metavar="PACK", help="The pack's id.")],
    file: Annotated[Path, typer.Option("--key", metavar="FILE", help="The authority's key, of `aboveboard policy key`.")],
    version: Version = "",
    to: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Another file than ID-VERSION.sig beside the packs.")] = None,
    data: Data = None,
) -> None:
    """Sign a pack as an authority, which puts a template in force: a signed note of its id, version and sha256."""
    from aboveboard.accountability.catalogue import AUTHORITIES, read_text, statement
    from aboveboard.storage.notes import Signer

    pack, signer, folder = _version(_policies(data), pack_id, version), Signer.read(file), configuration.load(data).policies
    if to is None:
        trusted = folder / AUTHORITIES
        if not trusted.is_file() or signer.verifier_key not in read_text(trusted).split():
            # A signature of nobody known would keep the deployment from starting.
            text = f"this deployment does not trust {signer.name}: add this line to {trusted}, or name another file with --out"
            raise BadRequest(f"{text}: {signer.verifier_key}")
    target = to or folder / f"{pack.id}-{pack.version}.sig"
    try:
        with target.open("xb") as new:
            new.write(signer.sign(statement(pack)))
    except FileExistsError as error:
        raise Exists(f"{target} is there already; name another file with --out") from error
    typer.echo(f"{signer.name} has signed {pack.id} version {pack.version}, sha256 {pack.sha256}: {printable(target)}")


def _policies(data: Path | None) -> Policies:
    """Every pack there is, whatever the deployment's default: it may be what is about to be signed."""
    from aboveboard.accountability.catalogue import Policies

    return Policies("", "", configuration.load(data).policies)


def _version(known: Policies, pack: str, version: str) -> Pack:
    from aboveboard.storage.database import now

    found = known.get(pack, now())
    versions = {one.version: one for one in known.all() if one.id == pack}
    if version and version not in versions:
        raise BadRequest(f"there is no version '{version}' of '{pack}'; there is {', '.join(versions)}")
    return versions[version] if version else found


def _pack_or_file(known: Policies, name: str) -> Pack:
    from aboveboard.accountability.catalogue import read_text
    from aboveboard.storage.database import now

    return known.read(strict.parse(read_text(Path(name)), name), name) if name.endswith(".toml") else known.get(name, now())


def _label(pack: Pack, other: Pack) -> str:
    return pack.id if pack.id != other.id else f"{pack.id} {pack.version}"


def _status(known: Policies, pack: Pack) -> str:
    signed = known.signatures.get(pack.sha256)
    return f"signed by {signed.authority}" if signed else pack.status


def _heading(known: Policies, pack: Pack) -> None:
    """What a pack is, before its rules."""
    _entry("policy", f"{pack.id} {pack.version}", f"{pack.title}; in force {pack.dates}", "")
    _entry("of", "", pack.authority, "")
    if not known.is_loadable(pack):
        _entry("status", "", "UNVERIFIED: a template or a looser version, in force nowhere before an authority has signed it", "")
    if pack.banner:
        _entry("banner", "", pack.banner, "")


def _entry(left: str, name: str, text: str, citation: str, colour: str = "dim") -> None:
    """A word in the left column, a name, an indented text and where it comes from, folded to the terminal."""
    console = out()
    width = max(40, min(console.width, 110) - _WIDTH)
    body = [name] if name else []
    body += textwrap.wrap(text, width, break_on_hyphens=False)
    body += textwrap.wrap(f"Source: {citation}", width, break_on_hyphens=False) if citation else []
    for i, line in enumerate(body):
        console.print(f"{left if i == 0 else '':<{_WIDTH}}", style=colour if i == 0 else "", end="")
        console.print(
            printable(line), style="dim" if citation and i >= len(body) - len(textwrap.wrap(f"Source: {citation}", width)) else ""
        )


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(" + ".join(one) if isinstance(one, list) else "any" if one == "*" else str(one) for one in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _differ(found: list[Difference], first: str, second: str) -> None:
    """Rules that differ, with the values of both."""
    names = {
        "first": f"{first} is stricter",
        "second": f"{second} is stricter",
        "neither": "neither is stricter",
        "each in part": "each in part",
    }
    for one in found:
        _entry(one.rule, names[one.stricter], "", "")
        for key, mine, theirs in one.values:
            _entry("", "", f"{key}: {_brief(mine)} ({first}), {_brief(theirs)} ({second})", "")


def _brief(value: Any) -> str:
    """A value of a rule on one line; of lists of tables what they say."""
    if isinstance(value, list) and any(isinstance(one, dict) for one in value):
        parts = ({key: part for key, part in one.items() if key != "citation"} for one in value)
        return " | ".join("; ".join(f"{key} {_value(part)}" for key, part in one.items()) for one in parts)
    return _value(value) or "none"


def _asked(
    purpose: str, offence: str, on: str, documents: list[str], emergency: str, probe: str, edits: list[str], *,
    reason: bool, threshold: float | None, limit: int,
) -> Asked:  # fmt: skip
    """What is asked, without who asks it. Raises BadRequest for a word that is none and a time that cannot be read."""
    from aboveboard.accountability.packs import check_words
    from aboveboard.accountability.policy import Asked
    from aboveboard.accountability.rules import EDITS, KINDS, OFFENCES, PROBES, PURPOSES
    from aboveboard.storage.database import now

    at = on or now()
    _check_time(at, "--on")
    if emergency:
        _check_time(emergency, "--emergency")
    if not purpose and (offence or documents or emergency or reason or edits or probe != "photograph"):
        raise BadRequest("offence, documents, emergency, reason and probe belong to a case; name its purpose with --purpose")
    split = [(kind, state or "granted") for kind, _, state in (one.partition(":") for one in documents)]
    for given, words, option in (
        ([purpose] if purpose else [], PURPOSES, "--purpose"), ([offence] if offence else [], OFFENCES, "--offence"),
        ([kind for kind, _ in split], KINDS, "--document"), ([probe], PROBES, "--probe"), (edits, EDITS, "--edit"),
        ([state for _, state in split], ("requested", "granted", "refused"), "--document KIND:STATE"),
    ):  # fmt: skip
        check_words(given, words, option)
    papers = [
        {"kind": kind, "requested_at": at} | ({} if state == "requested" else {"decided_at": at, "granted": state == "granted"})
        for kind, state in split
    ]
    case = {
        "purpose": purpose, "expires_at": "9999-01-01", "offence": offence, "emergency_at": emergency, "documents": papers,
        "probe": probe, "edits": edits, "has_reason": reason,
    }  # fmt: skip
    raw = {"duty": "search.image", "roles": ["investigator"], "at": at, "threshold": threshold, "limit": limit}
    return Asked.from_plain(raw | ({"case": case} if purpose else {}))


def _check_time(text: str, option: str) -> None:
    from aboveboard.accountability.packs import moment

    try:
        moment(text)
    except ValueError as error:
        raise BadRequest(f"{option}: '{text}' is no time; write one like 2027-12-02 or 2027-12-02T10:00:00Z") from error


def _of_anybody(asked: Asked, faces: int, *, uncertified: bool) -> Asked:
    """The question for an investigator who passed his test at that time, unless he is uncertified."""
    from dataclasses import replace

    from aboveboard.accountability.policy import Certificate

    return replace(asked, comparisons=faces, certificate=None if uncertified else Certificate(asked.at, "9999-01-01", 1.0))


def _answer(known: Policies, pack: Pack, asked: Asked, decision: Decision, findings: list[Finding], question: str) -> None:
    """The answer for people: yes or no, what was asked, under which pack, then rule by rule."""
    case = asked.case
    what = f"for {case.purpose}{f', {case.offence},' if case.offence else ''}" if case else "without a case"
    named = (
        "naming no threshold" if asked.threshold is None else f"at threshold {asked.threshold:g}" if asked.threshold else "with none at all"
    )
    typer.echo(f"{question} {what} at {asked.at}, {named}?")
    template = (
        ""
        if known.is_loadable(pack)
        else " (a template, which is not in force)"
        if pack.status == "unverified"
        else " (a looser version, which is not in force)"
    )
    if decision.is_allowed:
        bound = f"at threshold {decision.threshold:g}" if decision.threshold else "without a threshold"
        out().print(f"Yes, {bound} (origin {decision.origin}), with at most {decision.limit} candidates.{template}", style="bold green")
    else:
        out().print(f"No: {decision.rule} refuses it.{template}", style="bold red")
    typer.echo()
    _heading(known, pack)
    for one in findings:
        typer.echo()
        _entry(_VERDICTS[one.verdict], one.rule, one.text, one.citation, _COLOURS[one.verdict])
