"""What all tests share."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from pipedag_airflow.config import connections
from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.testing.postgres import PostgresUnavailableError, oldest_postgres_server, postgres_server
from pipedag_airflow.testing.redis import RedisUnavailableError, redis_server
from pipedag_airflow.testing.zookeeper import Ensemble, ZooKeeperUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy as sa

    from pipedag_airflow.testing.postgres import PostgresServer


class FileScheduling(LoadScopeScheduling):
    """The tests of a file run in one process, as they share what they set up.

    Those on Airflow mostly wait: they are two halves, which have an Airflow each and are begun first.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        if not file.startswith("tests/airflow/"):
            return file
        return "tests/airflow: what is done to runs" if Path(file).stem in WHAT_IS_DONE_TO_RUNS else "tests/airflow"


WHAT_IS_DONE_TO_RUNS = {
    "test_celery_on_airflow",
    "test_circles_on_airflow",
    "test_contention_on_airflow",
    "test_operations_on_airflow",
    "test_restarts_on_airflow",
}


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, for what the two on Airflow leave while they wait."""
    return (os.cpu_count() or 1) + 1


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    return FileScheduling(config, log)


settings.register_profile("long", max_examples=3000)


def missing(what: str) -> None:
    """Skip a test that needs what is not here; in CI, where nothing may be missing, it fails."""
    complain = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
    complain(what)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str, str], None]:
    """Skip a test whose program is missing; in CI, where nothing may be missing, it fails."""

    def require(name: str, package: str) -> None:
        if shutil.which(name) is None:
            missing(f"the program {name} is missing: apt-get install {package}")

    return require


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server, started once for all tests."""
    with _available(postgres_server()) as server:
        yield server


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server of the oldest version that is supported."""
    with _available(oldest_postgres_server()) as server:
        yield server


@contextlib.contextmanager
def _available(server: contextlib.AbstractContextManager[PostgresServer]) -> Iterator[PostgresServer]:
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(server)
        except PostgresUnavailableError as error:
            missing(str(error))
        yield started


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """Prefect's temporary server, with a database of its own; it takes long to start, and must not report anywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        from prefect.testing.utilities import prefect_test_harness

        with prefect_test_harness(server_startup_timeout=120):
            yield


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[sa.URL]:
    """An empty database of the test's own."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def oldest_postgres_url(oldest_postgres: PostgresServer) -> Iterator[sa.URL]:
    """An empty database of the test's own in the oldest version that is supported."""
    with oldest_postgres.database() as url:
        yield url


@pytest.fixture(autouse=True)
def _no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test has for a password is a word like any other in the next one."""
    monkeypatch.setattr(known_secrets, "_forms", ())


@pytest.fixture
def outside_of_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections come from the environment, also if another test has loaded the provider into this process."""
    monkeypatch.setattr(connections._Current, "source", connections.EnvironmentConnections())


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a real Redis, started once for all tests."""
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(redis_server())
        except RedisUnavailableError as error:
            missing(str(error))
        yield url


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[Ensemble]:
    """A real ZooKeeper of three servers, started once for all tests; a test that breaks something mends it."""
    yield from _ensemble(3)


@pytest.fixture(scope="session")
def zookeeper_server() -> Iterator[Ensemble]:
    """A real ZooKeeper of one server, likewise."""
    yield from _ensemble(1)


def _ensemble(size: int) -> Iterator[Ensemble]:
    with contextlib.ExitStack() as stack:
        try:
            ensemble = stack.enter_context(Ensemble(size))
        except ZooKeeperUnavailableError as error:
            missing(str(error))
        yield ensemble


def _hush() -> None:
    """Silence what is printed after pytest's own last line.

    DuckDB's binding lists its objects that are alive when the interpreter ends, and Airflow keeps modules that it has
    parsed alive until then. The list is long, and says nothing about our tests.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


atexit.register(_hush)
