"""The engines that need nothing but this environment, on the suite of all engines."""

from __future__ import annotations

import multiprocessing
from functools import partial
from typing import TYPE_CHECKING

import dask
import pytest
from distributed import Client, LocalCluster

from pipedag_airflow.engine import DaskEngine, OrchestrationEngine, SequentialEngine
from pipedag_airflow.testing.engine_suite import EngineSuite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import sqlalchemy as sa

    from pipedag_airflow import ConfigContext


@pytest.fixture(scope="class")
def quick_start() -> Iterator[None]:
    """Processes are forked from one that has all modules, as on Python 3.14; starting anew they take seconds."""
    multiprocessing.set_forkserver_preload(["dask.multiprocessing", "pipedag_airflow.testing.engine_suite"])
    with dask.config.set({"multiprocessing.context": "forkserver"}):
        yield


@pytest.fixture(scope="class")
def client() -> Iterator[Client]:
    """A cluster, which DaskEngine takes for as long as its client is active."""
    with (
        LocalCluster(n_workers=1, threads_per_worker=3, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


class Engine(EngineSuite):
    @pytest.fixture
    def make_config(self, instances: Callable[[str], ConfigContext]) -> Callable[[str], ConfigContext]:
        return instances


class OnPostgres:
    @pytest.fixture
    def database(self, postgres_url: sa.URL) -> str:
        return postgres_url.render_as_string(hide_password=False)

    @pytest.fixture
    def locks(self) -> dict[str, object]:
        """In the database, where a lock of the process that began the run shows that it lives."""
        return {"class": "database"}


class TestSequentialEngine(Engine):
    parallel = False
    separate_processes = False

    @pytest.fixture
    def make_engine(self) -> Callable[[], OrchestrationEngine]:
        return SequentialEngine


class TestDaskInOneThread(Engine):
    parallel = False
    separate_processes = False

    @pytest.fixture
    def make_engine(self) -> Callable[[], OrchestrationEngine]:
        return partial(DaskEngine, scheduler="synchronous")


class TestDaskInThreads(Engine):
    separate_processes = False

    @pytest.fixture
    def make_engine(self) -> Callable[[], OrchestrationEngine]:
        return partial(DaskEngine, scheduler="threads", num_workers=3)


class TestDaskInThreadsOnPostgres(OnPostgres, TestDaskInThreads):
    pass


class TestDaskInProcesses(Engine):
    @pytest.fixture
    def make_engine(self, quick_start: None) -> Callable[[], OrchestrationEngine]:
        return partial(DaskEngine, num_workers=3)


class TestDaskInProcessesOnPostgres(OnPostgres, TestDaskInProcesses):
    pass


class TestDaskOnACluster(Engine):
    """Of one process: what others do, the ones above show; here a client is active, and has a queue of its own."""

    separate_processes = False

    @pytest.fixture
    def make_engine(self, client: Client) -> Callable[[], OrchestrationEngine]:
        return DaskEngine
