"""A run that loses the stage in its middle: one run publishes, and the other one is told which."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import yaml

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import StageBusyError, StaleRunError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.session import RunSession
from pipedag_airflow.testing.lock_fixtures import until
from pipedag_airflow.testing.postgres import OwnPostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Project

    from pipedag_airflow.backend.lock import Lease
    from pipedag_airflow.testing.postgres import PostgresServer

pytestmark = pytest.mark.databases("postgres")

END_SESSIONS = "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
SESSIONS = "select count(*) from pg_locks where locktype = 'advisory'"


@pytest.fixture
def locking(project: Project) -> Project:
    project.settings["lock_manager"] = {"class": "pipedag_airflow.backend.lock.DatabaseLockManager"}
    return project


def flow_of(run: str, meanwhile: Callable[[], object] = lambda: None) -> Flow:
    """A flow whose table names the run that made it; something happens in the middle of its task."""

    @materialize(version=run)
    def one() -> Table[Any]:
        meanwhile()
        return Table(pl.DataFrame({"run": [run]}), "one")

    with Flow("flow") as flow, Stage("stage"):
        one()
    return flow


def session_of(project: Project, run_id: str, is_over: Callable[[Lease], bool] = lambda lease: False) -> RunSession:
    return RunSession(flow_of(run_id), project.config(), Owner.of_run(run_id), engine="test", is_over=is_over)


def build(session: RunSession) -> None:
    begin(session, "stage")
    execute(session, "stage.one")
    assert publish(session, "stage").published


def end_sessions(project: Project) -> None:
    project.query(END_SESSIONS)
    until(lambda: project.query(SESSIONS) == [(0,)])


def published(project: Project) -> list[tuple[Any, ...]]:
    """Return the run that made what readers see, the run that published it last, and how often anything was."""
    return project.query(
        "select (select run from stage.one), run_id, (select count(*) from pipedag_metadata.generation"
        " where state = 'published') from pipedag_metadata.generation join pipedag_metadata.stage using (stage)"
        " where number = live"
    )


def test_a_run_whose_sign_of_life_was_lost_goes_on_if_nobody_took_its_stage(locking: Project) -> None:
    result = locking.run(flow_of("first", lambda: end_sessions(locking)))
    assert published(locking) == [("first", result.run_id, 1)]
    assert locking.config().lock_manager.leases() == []


def test_a_run_whose_sign_of_life_was_lost_is_told_who_took_its_stage(locking: Project) -> None:
    def another_run() -> None:
        end_sessions(locking)
        build(session_of(locking, "airflow:other/1"))

    with pytest.raises(StaleRunError, match="'stage' was taken over by run 'airflow:other/1'"):
        locking.run(flow_of("first", another_run))
    assert published(locking) == [("airflow:other/1", "airflow:other/1", 1)]


@pytest.fixture
def own_server(postgres: PostgresServer) -> Iterator[OwnPostgresServer]:
    """A server that a test may restart."""
    if not isinstance(postgres, OwnPostgresServer):
        pytest.skip("the server is one of the user's, which is not restarted")
    server = OwnPostgresServer(postgres.binaries, durable=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_a_run_goes_on_after_a_restart_of_the_server_and_nobody_takes_its_stage_meanwhile(
    locking: Project, own_server: OwnPostgresServer
) -> None:
    url = own_server.url.set(drivername="postgresql").render_as_string()
    locking.settings["table_store"]["args"]["url"] = locking.database.url = url

    def restart() -> None:
        own_server.restart()
        with pytest.raises(StageBusyError, match="is held by run local:"):
            begin(session_of(locking, "airflow:other/1"), "stage")

    result = locking.run(flow_of("first", restart))
    assert published(locking) == [("first", result.run_id, 1)]
    build(session_of(locking, "airflow:other/1"))
    assert published(locking) == [("airflow:other/1", "airflow:other/1", 2)]


@pytest.fixture
def paused(locking: Project) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a process with a run, and stop it in its task, until its lease has expired."""
    locking.settings["lease_seconds"] = 0.5
    (locking.folder / "pipedag.yaml").write_text(yaml.safe_dump({"instances": {"__any__": locking.settings}}))
    started: list[subprocess.Popen[bytes]] = []

    def start(run_id: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(Path(__file__).with_name("paused_flow.py")), run_id, str(locking.folder)]
        environment = os.environ | {"PIPEDAG_CONFIG": str(locking.folder / "pipedag.yaml")}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        started.append(process)
        until((locking.folder / "working").exists)
        process.send_signal(signal.SIGSTOP)
        locks = locking.config().lock_manager
        until(lambda: locks.holder("stage").expires < locks.now())
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def go_on(project: Project, process: subprocess.Popen[bytes]) -> tuple[int, str]:
    (project.folder / "go").touch()
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.decode()


def test_a_local_run_that_is_paused_for_longer_than_its_lease_keeps_its_stage(
    locking: Project, paused: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = paused("local")
    with pytest.raises(StageBusyError, match=r"is held by run local:.* last heartbeat"):
        begin(session_of(locking, "airflow:other/1"), "stage")
    exit_code, errors = go_on(locking, process)
    assert exit_code == 0, errors
    ((made_by, _, times),) = published(locking)
    assert (made_by, times) == ("local", 1)


def test_a_paused_step_keeps_its_stage_until_its_run_is_over_and_cannot_publish_then(
    locking: Project, paused: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = paused("airflow:paused/1")
    with pytest.raises(StageBusyError, match=r"is held by run airflow:paused/1.* last heartbeat"):
        begin(session_of(locking, "airflow:other/1"), "stage")
    build(session_of(locking, "airflow:other/1", is_over=lambda lease: True))
    exit_code, errors = go_on(locking, process)
    assert exit_code == 1
    assert "StaleRunError: " in errors
    assert "taken over by run 'airflow:other/1'" in errors
    assert published(locking) == [("airflow:other/1", "airflow:other/1", 1)]
