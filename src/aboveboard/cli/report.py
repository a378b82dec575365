"""Verbs that make reports for the public."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aboveboard.cli.common import Data, Json, OperatorName, advice, open_as, out, printable, show_json

reports = typer.Typer(help="Make reports for the public out of the record.", no_args_is_help=True)


@reports.command("transparency")
def transparency(
    first: Annotated[str, typer.Option("--from", metavar="DATE", help="The first day, such as 2027-01-01; days are those of UTC.")],
    last: Annotated[str, typer.Option("--to", metavar="DATE", help="The last day, included.")],
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder that is empty, or not there yet.")],
    agency: Annotated[str, typer.Option("--agency", metavar="NAME", help="Whose report it is, for its heading.")] = "",
    operators: Annotated[bool, typer.Option("--operators", help="Count by operator as well, with their names.")] = False,
    collections: Annotated[bool, typer.Option("--collections", help="Count by collection as well, with their names.")] = False,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Count the searches of a period, their thresholds, refusals and candidates, as a page, CSV and JSON. It is an entry itself."""
    from aboveboard.accountability.transparency import Period
    from aboveboard.service import report

    period = Period(first, last)
    app, session = open_as(data, operator)
    made = report.transparency(app, session, period, to, agency=agency, operators=operators, collections=collections)
    if as_json:
        show_json({"folder": str(to), "ledger": made["ledger"], "searches": made["totals"]["searches"]["all"]})
        return
    counts, without = made["totals"]["searches"]["all"], made["totals"]["thresholds"]["without"]
    out().print(
        f"{printable(to / report.PAGE)}: {counts['made']:,} searches made, {without:,} without a threshold, {counts['refused']:,} refused"
    )
    out().print(
        f"others count again with: {advice('ledger export BUNDLE', data)}, then aboveboard ledger verify BUNDLE --report report.json"
    )
