"""No call home: in a network namespace without a route everything works, and nothing even tries to leave the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit import picture

from aboveboard import settings


def without_a_network(*command: str) -> str:
    """Run a program where there is no network but loopback; returns what it prints."""
    for unshare in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode == 0:
            done = subprocess.run([*unshare, *command], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout
    raise AssertionError("this machine makes no network namespaces: run the tests as root or allow user namespaces")


@pytest.mark.parametrize("pack", ["null", "yunet-sface"])
def test_every_operation_works_without_a_route_and_connects_to_loopback_only(tmp_path, photographs, pack):
    """Server and client in a namespace whose only interface is lo: all fifteen operations of it answer; an audit hook sees every
    connection and every name that is looked up, and none is another machine's."""
    images = [tmp_path / f"{i}.png" for i in range(3)]
    for i, image in enumerate(images):
        image.write_bytes(picture(i) if pack == "null" else photographs[("obama", "obama2", "biden")[i]])
    program = str(Path(__file__).with_name("offline.py"))
    models = str(settings.load().models)
    told = json.loads(without_a_network(sys.executable, program, str(tmp_path / "data"), pack, models, *map(str, images)).splitlines()[-1])
    assert told["is_sealed"]
    assert told["interfaces"] == ["lo"]
    assert told["routes"] == []
    assert told["faces"] >= 3
    assert told["found"] >= 1
    assert "Person" in told["labels"]
    connected = [what for event, what in told["seen"] if event == "socket.connect"]
    assert connected
    assert all(what.startswith("('127.0.0.1',") for what in connected)
    assert {what for event, what in told["seen"] if event != "socket.connect"} <= {"'127.0.0.1'"}


def test_onnxruntime_sends_no_usage_data_and_keeps_no_id_of_the_machine(tmp_path):
    """It would begin at its import, with an id and a queue of events below the home; Python's audit hooks do not see its connections."""
    code = "from aboveboard.vision import session; import onnxruntime; onnxruntime.get_available_providers()"
    environment = {"HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
