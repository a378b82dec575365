"""Verbs about how people stand: certificates, and what is suspended."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from aboveboard.cli.common import Data, Json, OperatorName, advice, columns, open_as, out, printable, show_json
from aboveboard.cli.keeping import NO_MODELS
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.accountability.standing import Suspension

suspensions = typer.Typer(help="Suspend operators, units, collections or the system, and lift that.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]


def certify(
    name: Name,
    examiner: Annotated[str, typer.Option("--examiner", metavar="E", help="Who held the test, as the ledger may name him.")],
    score: Annotated[float, typer.Option("--score", min=0, max=1, metavar="S", help="The share that was right, 0 to 1.")],
    until: Annotated[str, typer.Option("--until", metavar="DATE", help="The first moment after it, such as 2027-06-30; midnight UTC.")],
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Enter that an operator passed a test: strict packs let nobody search without a certificate that holds. The newest counts."""
    from aboveboard.service import standing

    app, session = open_as(data, operator, NO_MODELS)
    held = standing.certify(app, session, name, examiner, score, until)
    if as_json:
        show_json({"operator": name, "examiner": examiner, **asdict(held)})
    else:
        out().print(f"{name} is certified until {held.until}, with a score of {held.score:g}; a pack may ask for more")


def uncertify(name: Name, data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """End an operator's certificates, from the next search on."""
    from aboveboard.service import standing

    app, session = open_as(data, operator, NO_MODELS)
    standing.uncertify(app, session, name)
    if as_json:
        show_json({"operator": name, "certificate": None})
    else:
        out().print(f"{name} holds no certificate any more")


@suspensions.command("make")
def suspension_make(
    scope: Annotated[str, typer.Argument(metavar="operator|unit|collection|system", help="What is suspended.")],
    because: Annotated[str, typer.Option("--because", metavar="TEXT", help="Why; kept beside the ledger, which says only that it was.")],
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Which one; of the system none.")] = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Suspend from the next request on, in a running server too; looks under way are not answered.

    Nobody who is suspended, and nobody in a suspended unit, collection or system, compares or writes; reading and deleting go on.
    """
    from aboveboard.accountability.standing import SCOPES
    from aboveboard.service import standing

    chosen = next((one for one in SCOPES if one == scope), None)
    if chosen is None:
        raise BadRequest(f"'{scope}' cannot be suspended; {', '.join(SCOPES)} can")
    if bool(name) == (chosen == "system"):
        raise BadRequest("the system has no name" if name else f"name the {chosen} that is to be suspended")
    app, session = open_as(data, operator, NO_MODELS)
    made = standing.suspend(app, session, chosen, name, because)
    if as_json:
        show_json(asdict(made))
    else:
        out().print(f"suspended {_what(made)}, as number {made.n}; two people lift it with: {advice(f'suspension lift {made.n}', data)}")


@suspensions.command("lift")
def suspension_lift(
    n: Annotated[int, typer.Argument(metavar="N", help="The suspension's number.")],
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Ask for a suspension to be lifted; the second person who asks lifts it. Neither may be suspended himself."""
    from aboveboard.service import standing

    app, session = open_as(data, operator, NO_MODELS)
    lifted = standing.lift(app, session, n)
    if as_json:
        show_json(asdict(lifted))
    elif lifted.lifted_at:
        out().print(f"lifted suspension {n}: {_what(lifted)}")
    else:
        out().print(f"you ask for suspension {n} to be lifted: {_what(lifted)}; it is, once another person asks too")


@suspensions.command("list")
def suspension_list(data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """List the suspensions, those that were lifted too. --json prints one line each."""
    from aboveboard.service import standing

    app, session = open_as(data, operator, NO_MODELS)
    table = columns("#", "suspended", "by", "since", "because", "lifted")
    for one in standing.suspensions(app, session):
        if as_json:
            show_json(asdict(one))
        table.add_row(str(one.n), _what(one), one.by, one.made_at[:16], printable(one.because), _lifted(one))
    if not as_json:
        out().print(table if table.row_count else "nothing was ever suspended")


def _what(one: Suspension) -> str:
    return "the system" if one.scope == "system" else f"the {one.scope} {one.target}"


def _lifted(one: Suspension) -> Text:
    if one.lifted_at:
        return Text(f"{one.lifted_at[:16]} by {one.lift_asked_by} and {one.lifted_by}", "green")
    return Text(f"no; {one.lift_asked_by} asks for it" if one.lift_asked_by else "no", "yellow")
