"""What the tests of cases share."""

from __future__ import annotations

import re

import pytest
from botocore.exceptions import ClientError

from aboveboard.accountability.replay import Replay
from aboveboard.accountability.verify_ledger import Report


def replayed(server, since=0):
    """What is wrong with the decisions of a server's ledger from an entry on, when they are made again."""
    policies = server.app.gate.policies
    again = Replay({pack.sha256: pack for pack in policies.all()}, report := Report())
    for line in server.app.ledger.entries():
        again.add(line)
    again.end()
    return [one for one in report.findings if int(re.search(r"entry (\d+): ", str(one))[1]) >= since]


def code_of(call):
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"], caught.value.response["Error"]["Message"]
