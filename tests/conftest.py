"""Fixtures for every test: a running server over a fresh data folder, real boto3 clients, photographs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from kit import Server, null_settings, serving

from aboveboard import settings as configuration

settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("house")
_names = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regen", action="store_true", help="write the golden folders anew instead of comparing with them")


@pytest.fixture
def regen(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--regen"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on the null pack, policy `general`, shared by the session: take a collection of your own."""
    with serving(null_settings(tmp_path_factory.mktemp("deployment") / "data")) as running:
        yield running


@pytest.fixture(scope="session")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose default policy is `public-safety`; its first operator is admin alone."""
    with serving(null_settings(tmp_path_factory.mktemp("strict") / "data", default_policy="public-safety")) as running:
        yield running


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """make_server(default_policy=...): a server of this test's own, stopped when it ends."""
    with ExitStack() as stack:
        count = itertools.count(1)

        def make(**overrides: str) -> Server:
            return stack.enter_context(serving(null_settings(tmp_path / f"data{next(count)}", **overrides)))

        yield make


@pytest.fixture
def own_server(make_server: Callable[..., Server]) -> Server:
    """A server that this test may break."""
    return make_server()


@pytest.fixture(scope="session")
def rekognition(server: Server) -> Any:
    """A boto3 client of the shared server, as the operator with all roles."""
    return server.client()


@pytest.fixture
def collection(rekognition: Any) -> str:
    """A new, empty collection of the shared server."""
    name = f"collection-{next(_names)}"
    rekognition.create_collection(CollectionId=name)
    return name


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on the default model pack (`make models` installs it)."""
    with serving(configuration.load(tmp_path_factory.mktemp("real") / "data")) as running:
        yield running


@pytest.fixture(scope="session")
def photographs() -> Mapping[str, bytes]:
    """The registry's public-domain photographs by name (`make models` fetches them)."""
    from aboveboard.vision import photographs as photograph_store

    chosen = configuration.load()
    files = photograph_store.fetch_all(chosen.photographs, chosen.package_index, lambda *_: None)
    return {Path(file).stem: Path(file).read_bytes() for file in (files.values() if isinstance(files, Mapping) else files)}
