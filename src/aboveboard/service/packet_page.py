"""A packet as a page for people: one HTML file without anything from elsewhere, to be read on a screen or printed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from aboveboard.accountability.rules import OFFENCES, PURPOSES

_DUTIES = {
    "compare": "comparison of two photographs",
    "search.image": "search of a collection for a photograph",
    "search.face": "search of a collection for an enrolled face",
    "search.subjects.image": "search of a collection's people for a photograph",
    "search.subjects": "search of a collection's people for an enrolled person",
}
_ORIGINS = {
    "request": "asked for",
    "policy": "the policy's, as none was asked for",
    "default": "Amazon's default, as none was asked for",
    "gallery": "from the number of comparisons, as none was asked for",
    "none": "none: whatever was nearest was a candidate",
}
_MEANING = (
    "A candidate is somebody whose enrolled photograph the program found alike enough; it is not an identification. A similarity is a "
    "statement about how often chance alone reaches it (FMR), not the probability that two photographs show one person."
)
_CHECK = "import hmac,sys; print(hmac.new(bytes.fromhex(sys.argv[1]), open(sys.argv[2], 'rb').read(), 'sha256').hexdigest())"
_STYLE = """
:root { color-scheme: light; --ink: #1b1b1b; --soft: #666; --line: #ccc; --warn: #8a4b00; }
body { font: 15px/1.45 "Liberation Serif", Georgia, serif; color: var(--ink); max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { font-family: "Liberation Sans", Helvetica, Arial, sans-serif; line-height: 1.2; }
h2 { border-bottom: 1px solid var(--line); padding-bottom: .2rem; margin-top: 2.2rem; } h3 { margin-bottom: .3rem; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem .2rem 0; border-bottom: 1px solid var(--line); }
th, td { overflow-wrap: anywhere; }
table.facts th { width: 13rem; font-weight: normal; color: var(--soft); } td { font-variant-numeric: tabular-nums; }
code { font: 12px/1.4 "Liberation Mono", monospace; overflow-wrap: anywhere; } .soft { color: var(--soft); }
.warn { color: var(--warn); font-weight: bold; } .named { background: #fff3d6; }
section.look { break-inside: avoid; } @media print { body { margin: 0; max-width: none; font-size: 11pt; } h2 { break-after: avoid; } }
"""


def page(told: Mapping[str, Any]) -> str:
    """The page of a packet, as `packet.write` has it."""
    record = told["record"]
    case, looks = record["case"], record["looks"]
    answered = [look for look in looks if look["is_answered"]]
    empty = sum(not look["candidates"] for look in answered)
    expected = _number(sum(look["expected_false"] or 0 for look in answered))
    made = f"{_count(len(looks), 'look')} {'was' if len(looks) == 1 else 'were'} made in this case"
    chance = f"Chance alone brings E = {expected} false candidates in all of them together."
    refused = _count(len(record["refusals"]), "request")
    banners = sorted({pack["banner"] for pack in told["policies"].values() if pack["banner"]})
    evidence = {one["look"]: one for one in told.get("evidence", [])}
    shown = [one for group in (*(look["candidates"] for look in looks), *(one["leads"] for one in record["leads"])) for one in group]
    parts = [
        f"<h1>Case {_text(told['case'])}</h1>",
        *(f'<p class="warn">{_text(banner)}</p>' for banner in banners),
        f"<p>{made}: {len(answered)} answered, of which {empty} brought up no candidate; {refused} refused. {chance} {_MEANING}</p>",
        _face(told["face"], [one["name"] for one in shown if one["is_named_face"]]),
        "<h2>The case</h2>",
        _facts(_case(case)),
        _documents(case["documents"]),
        "<h2>Looks</h2>",
        *(_look(look, told["calibrations"].get(look["calibration"]["sha256"], {}), evidence.get(look["look"], {})) for look in looks),
        *([] if looks else ["<p>None was made.</p>"]),
        "<h2>Leads below the threshold that were disclosed</h2>",
        *(_disclosure(one) for one in record["leads"]),
        *([] if record["leads"] else ["<p>None.</p>"]),
        "<h2>Refused in this case</h2>",
        _table(
            ("entry", "time", "operator", "what", "rule"),
            ((r["seq"], r["time"], r["operator"], r["duty"], r["rule"]) for r in record["refusals"]),
        ),
        "<h2>Keys that were made for it</h2>",
        _table(
            ("entry", "time", "operator", "until", "declared"),
            ((k["seq"], k["time"], k["operator"], k["expires_at"], _declared(k)) for k in record["keys_made"]),
        ),
        "<h2>What it rests on</h2>",
        *_rests(told, looks),
        "<h2>How to check this</h2>",
        *_how(told),
    ]
    title = f"Packet of case {_text(told['case'])}"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(filter(None, parts)) + "\n</body></html>\n"


def _face(face: str | None, names: Sequence[str]) -> str:
    if face is None:
        return "<p>Everybody who was brought up is a pseudonym here. No face was named when this packet was made.</p>"
    where = ", ".join(dict.fromkeys(map(_text, names)))
    said = f"It is {where}." if names else "It is none of the candidates: no look of this case answered it."
    return f"<p>Made for the face <code>{_text(face)}</code>. {said} Everybody else is a pseudonym.</p>"


def _case(case: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    purpose, offence = case["purpose"], case["offence"]
    yield "purpose", f"{purpose}: {PURPOSES.get(purpose, '')}"
    yield "offence", f"{offence}: {OFFENCES.get(offence, '')}" if offence else "none"
    yield "opened", f"{case['opened_at']} by {case['operator']}"
    yield "ends", case["expires_at"]
    yield "closed", case["closed_at"] or "not yet"
    yield "emergency", "declared when it was opened" if case["is_emergency"] else "none"
    yield "in the record as", case["handle"]


def _documents(documents: Sequence[Mapping[str, Any]]) -> str:
    decided = {True: "granted", False: "refused", None: "not decided"}
    rows = [(one["kind"].replace("_", " "), one["requested_at"], decided[one["granted"]], one["decided_at"] or "") for one in documents]
    return "<h3>Authority documents, as they were entered</h3>" + _table(("kind", "requested", "decision", "decided"), rows)


def _look(look: Mapping[str, Any], calibration: Mapping[str, Any], evidence: Mapping[str, Any]) -> str:
    threshold = look["threshold"]
    value = f"{threshold['value']:.10g}" if threshold["value"] else "none"
    facts: list[tuple[str, Any]] = [
        ("what", _DUTIES.get(look["duty"], look["duty"]) + (f" ({look['collection']})" if look["collection"] else "")),
        ("when, by whom", f"{look['time']}, {look['operator']} ({', '.join(look['roles'])})"),
        ("certificate", _certificate(look["certificate"])),
        ("declared", _declared(look)),
        ("policy", f"{look['policy']['id']}, version {look['policy']['version']}; at most {look['limit']:,} candidates"),
        ("model", f"{look['model']['pack']}, version {look['model']['version']}; calibration {look['calibration']['id']}"),
        ("threshold", f"{value}, {_ORIGINS[threshold['origin']]}; the policy's floor was {threshold['floor']:.10g}"),
        ("not kept", ", ".join(look["departures"])),
    ]
    if look["gallery_size"] is not None and look["fmr"] is not None:
        itself = f", {look['references']:,} of them in this comparison itself" if "references" in look else ""
        factor, limit = look["gallery_factor"], calibration.get("measured_limit", 0)
        beyond = f"; extrapolated: the calibration measured as far as FMR {_number(limit)}" if look["fmr"] < limit else ""
        facts += [
            ("compared with", f"N = {look['gallery_size']:,}{itself}"),
            (
                "by chance alone",
                f"FMR {_number(look['fmr'])} per comparison; E = N x FMR = {_number(look['expected_false'])} false candidates{beyond}",
            ),
            ("FPIR", f"{_percent(look['fpir'])} of searches for somebody who is not enrolled bring up somebody"),
            ("FNIR", f"{_percent(look['fnir'])} of searches for somebody who is enrolled miss him"),
            ("gallery factor", f"{factor['value']:.3g} (95 %: {factor['low']:.3g} to {factor['high']:.3g})" if factor else "not known"),
            ("below the threshold", "none kept" if look["below_threshold"] is None else f"{look['below_threshold']} kept, sealed"),
        ]
    probes = "".join(
        f"<tr><td>{_text(one['name'])}</td>{_code(one['commitment'])}{_code(one['key'] or 'destroyed')}</tr>" for one in look["probes"]
    )
    return (
        f'<section class="look"><h3>Look {look["look"]}</h3>{_facts(facts)}{_answer(look)}{_evidence(evidence, calibration, look)}'
        f"<table><tr><th>probe</th><th>commitment</th><th>its key</th></tr>{probes}</table>"
        f'<p class="soft">audit id {_text(look["audit_id"])}; entries {_entries(look["entries"])}</p></section>'
    )


def _answer(look: Mapping[str, Any]) -> str:
    if look["withheld"]:
        return f'<p class="warn">Nothing was answered: withheld by the rule {_text(look["withheld"])}.</p>'
    if not look["is_answered"]:
        return f"<p>Nothing was compared and nothing answered: {_text(look['reason'] or '')}.</p>"
    if not look["candidates"]:
        return "<p><strong>No candidate.</strong> Nobody reached the threshold.</p>"
    return _candidates(look["candidates"])


def _evidence(said: Mapping[str, Any], calibration: Mapping[str, Any], look: Mapping[str, Any]) -> str:
    """What each candidate's similarity says; nothing where the calibration has no ratios."""
    if not said:
        return ""
    priors, factor, has_ends = list(said["candidates"][0]["posteriors"]), said["divided_by"], "low" in said["candidates"][0]
    known = ("likelihood ratio", "95 % interval", "pairs of one person : of two") if has_ends else ("likelihood ratio",)
    heads = ["who", *known, *(f"posterior, prior {_percent(float(prior))}" for prior in priors)]
    rows = [
        (
            one["name"],
            _number(one["likelihood_ratio"]) + (" (open)" if one["is_open"] else ""),
            *((f"{_number(one['low'])} to {_number(one['high'])}", _pairs(one)) if has_ends else ()),
            *(_percent(one["posteriors"][prior]) for prior in priors),
        )
        for one in said["candidates"]
    ]
    rests = (
        "The interval is found by drawing the calibration's people again, on the pairs beside it; other people may differ more. "
        if has_ends
        else "Its interval is not known: the calibration was made before there were any. "
    )
    whole = f"{calibration['non_mated']:,} comparisons of two people" if "non_mated" in calibration else "the calibration's comparisons"
    divided = f"All are divided by the gallery factor {_number(factor)}. " if factor > 1 else ""
    is_open = any(one["is_open"] for one in said["candidates"])
    opened = "Open: between scores of the calibration, with none near; the ratio may be ten times less, or more. " if is_open else ""
    posteriors = (
        "Posterior: how probable it is that this candidate is the person sought, to who held it as probable before the search as the "
        f"prior says that the person is enrolled at all. {_counted(look)} Nobody measured the priors; read the column that the rest of the "
        "case supports."
    )
    return (
        f"{_table(heads, rows)}<p>Likelihood ratio: how many times likelier such a similarity is of one person than of two. At most "
        f"{_number(said['most'])}, as far as {whole} can tell. {rests}{divided}{opened}{posteriors}</p>"
    )


def _counted(look: Mapping[str, Any]) -> str:
    """Whether the prior of a look's posteriors counts people or faces."""
    if "people" not in look:
        return "It counts faces: somebody with more of them there than others gets too much if his are added up."
    ranks: dict[int, list[str]] = {}
    for rank, one in enumerate(look["candidates"], 1):
        ranks.setdefault(one.get("person", rank), []).append(str(rank))
    same = [f"candidates {', '.join(some)} are of one person" for some in ranks.values() if len(some) > 1]
    told = f" Here {'; '.join(same)}." if same else ""
    return f"It counts the {look['people']:,} people of the collection, not their faces, and is the person's at each of his faces.{told}"


def _pairs(one: Mapping[str, Any]) -> str:
    return f"{one['mated_pairs']:,} : {one['non_mated_pairs']:,}"


def _candidates(items: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f"<tr{' class=named' if one['is_named_face'] else ''}><td>{_text(one['name'])}{', the named face' if one['is_named_face'] else ''}"
        f"</td><td>{one['similarity']:.4f}</td><td>{_number(one['fmr'])}</td><td>{_number(one['expected_false'])}</td></tr>"
        for one in items
    )
    return f"<table><tr><th>who</th><th>similarity</th><th>FMR at it</th><th>E = N x FMR at it</th></tr>{rows}</table>"


def _disclosure(one: Mapping[str, Any]) -> str:
    told = f"Entry {_entries([one['seq']])}, {_text(one['time'])}: {_count(one['count'], 'lead')} shown to {_text(one['operator'])}"
    why = "for a reason that the agency keeps in his words. Leads did not reach the threshold."
    return f"<p>{told}, {why}</p>{_candidates(one['leads'])}"


def _certificate(held: Mapping[str, Any] | None) -> str:
    return f"{100 * held['score']:.3g} % in a test, {held['made_at'][:10]} until {held['until'][:10]}" if held else "the operator held none"


def _entries(numbers: Sequence[int]) -> str:
    return ", ".join(f'<a href="proofs/{n:012d}.json">{n}</a>' for n in numbers)


def _declared(one: Mapping[str, Any]) -> str:
    kind = (one["probe_kind"] or "not declared").replace("_", " ")
    edits = ", ".join(one["edits"]).replace("_", " ")
    return f"{kind}; {f'edited by {edits}' if edits else 'no edit'}; {'a reason was given' if one['gave_reason'] else 'no reason given'}"


def _rests(told: Mapping[str, Any], looks: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    models = {look["model"]["pack"]: look["model"] for look in looks}
    for name, model in models.items():
        card = told["models"].get(name)
        yield f"<h3>Model {_text(name)}, version {_text(model['version'])}</h3>"
        if card is None:
            yield "<p>Its card is not the one that is installed here now; ask the agency for it, by the sha256 of its files.</p>"
        else:
            yield _facts([("name", card["name"]), ("licence", card["licence"]), ("trained on", card["training_data"])])
            yield "<ul>" + "".join(f"<li>{_text(limit)}</li>" for limit in card["limits"]) + "</ul>"
        yield _facts([("sha256", file) for file in model["sha256"]])
    for sha256, name in {look["calibration"]["sha256"]: look["calibration"]["id"] for look in looks}.items():
        found = told["calibrations"].get(sha256)
        yield f"<h3>Calibration {_text(name)}</h3>"
        if found is None:
            yield "<p>It is not the one that is installed here now; ask the agency for it, by its sha256.</p>"
        else:
            names = ("data_set", "data_sha256", "date", "subjects", "photographs", "mated", "non_mated", "measured_limit")
            yield _facts([(name.replace("_", " "), found[name]) for name in names if name in found])
            yield "<p>Rates below the measured limit are extrapolated. Of other people than those of the data set they may differ.</p>"
        yield _facts([("sha256", sha256)])
    for sha256, pack in told["policies"].items():
        yield f"<h3>Policy {_text(pack['id'])}, version {_text(pack['version'])}</h3>"
        rules = ("threshold", "candidates", "leads", "review", "certificate")
        cited = [(name, f"{pack[name]['mode']}; {pack[name]['citation']}") for name in rules]
        yield _facts([("title", pack["title"]), ("authority", pack["authority"]), *cited, ("sha256", sha256)])


def _how(told: Mapping[str, Any]) -> Iterable[str]:
    checkpoint = told["checkpoint"]
    yield (
        f"<p>Each entry that is cited here lies in <code>proofs/</code>, with the proof that it is one of {checkpoint['size']:,} entries "
        f"whose root the deployment has signed: <code>{_text(checkpoint['root'])}</code>. With Python 3.11, the package "
        "<code>cryptography</code> and a verifier key and <code>verify_ledger.py</code> from somebody else than the agency:</p>"
    )
    yield "<p><code>python verify_ledger.py --proof proofs/NUMBER.json --key KEY</code></p>"
    yield "<p>All at once, and that this page says what the entries say: <code>aboveboard case verify FOLDER --key KEY</code></p>"
    yield (
        "<p>Whether a photograph is a probe: the HMAC-SHA256 of the file's bytes under the probe's key is its commitment. "
        f"<code>python -c &quot;{_text(_CHECK)}&quot; KEY FILE</code>. "
        "It must be the very bytes that were sent: a copy that was saved anew is another file.</p>"
    )
    yield (
        "<p>What this does not show: whether these are all entries of the case. That shows in a bundle of the whole ledger "
        f"(<code>aboveboard ledger export</code>): whatever names <code>{_text(told['record']['case']['handle'])}</code> is the case's. "
        "Reasons and references of documents are here as commitments alone; the agency has the words.</p>"
    )
    yield f'<p class="soft">Made at {_text(told["made_at"])} by Aboveboard {_text(told["program"])}.</p>'


def _facts(rows: Iterable[tuple[str, Any]]) -> str:
    body = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows if value != "")
    return f'<table class="facts">{body}</table>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{_text(head)}</th>' for head in heads)}</tr>{body}</table>" if body else "<p>None.</p>"


def _text(value: Any) -> str:
    return escape(str(value))


def _code(value: str) -> str:
    return f"<td><code>{_text(value)}</code></td>"


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _number(value: float) -> str:
    text = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    mantissa, sign, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if sign else text


def _percent(share: float) -> str:
    """Never rounded to 0 or 100 % where it is neither."""
    return "> 99.9 %" if 0.999 < share < 1 else f"{_number(100 * share)} %"
