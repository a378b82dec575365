"""What the default pack is worth on labelled photographs: python benchmarks/verification.py FOLDER (of person/photograph.jpg)."""

from __future__ import annotations

import sys
from pathlib import Path

from report import write

from aboveboard import settings
from aboveboard.evaluation.protocol import shipped_errata
from aboveboard.evaluation.run import verification
from aboveboard.vision.packs import PackFolder


def percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


def main(folder: Path) -> None:
    result = verification(folder, PackFolder(settings.load().models).load("yunet-sface"), shipped_errata())
    as_is, corrected = result["as_is"], result["corrected"]
    rows = [[f"TAR at FMR {rate}", percent(as_is["tar"][rate]), percent(corrected["tar"][rate])] for rate in as_is["tar"]]
    for similarity, worth in result["at_similarity"].items():
        low, high = worth["tar_interval"]
        rows.append([f"TAR at similarity {similarity}", "", f"{percent(worth['tar'])} (95 % {percent(low)} to {percent(high)})"])
    rows.append(["failures to enrol", str(result["failures_to_enrol"]), str(result["failures_to_enrol"])])
    write(
        "verification",
        ["", "as is", "corrected by the errata"],
        rows,
        f"{result['photographs']:,} photographs, all pairs: {as_is['mated']:,} mated and {as_is['non_mated']:,} non-mated as is.",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
