"""Taking a stage away from a run by hand: the run learns it from the fence, and the next one goes on where it was."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import Lease, Owner
from pipedag_airflow.errors import StageBusyError, StageError, StaleRunError
from pipedag_airflow.run import launch
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.leases import break_lease, list_leases
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.session import RunSession
from pipedag_airflow.testing.lock_fixtures import until

if TYPE_CHECKING:
    from conftest import Project

DATABASE = {"class": "pipedag_airflow.backend.lock.DatabaseLockManager"}


@pytest.fixture(params=["file", "database"])
def locking(request: pytest.FixtureRequest, project: Project) -> Project:
    if request.param == "database":
        project.settings["lock_manager"] = DATABASE
    return project


def chain(project: Project, *, meanwhile: Any = None) -> Flow:
    @materialize(version="1")
    def one() -> Table[Any]:
        project.call("one")
        return Table(pd.DataFrame({"x": [1, 2]}), "one")

    @materialize(version="1", input_type=pl.DataFrame)
    def two(table: pl.DataFrame) -> Table[Any]:
        project.call("two")
        if meanwhile is not None:
            meanwhile()
        return Table(table, "two")

    with Flow("chain") as flow, Stage("first"):
        two(one())
    return flow


def session_of(project: Project, flow: Flow, run_id: str) -> RunSession:
    """A run whose orchestrator never says that another one is over."""
    return RunSession(flow, project.config(), Owner.of_run(run_id), engine="test")


def test_a_run_that_is_taken_its_stage_at_work_can_neither_store_nor_publish(locking: Project) -> None:
    told: list[str] = []
    flow = chain(locking, meanwhile=lambda: told.append(break_lease(locking.config(), "first")))
    old = session_of(locking, flow, "airflow:chain/old")
    begin(old, "first")
    execute(old, "first.one")
    waiting = session_of(locking, flow, "new")
    with pytest.raises(StageBusyError, match="locks break first"):
        begin(waiting, "first")
    waiting.locks.withdraw("first", waiting.owner)

    with pytest.raises(StaleRunError, match=r"taken from run 'airflow:chain/old': somebody broke its lease"):
        execute(old, "first.two")
    assert told[0].startswith("Stage 'first' was taken from run airflow:chain/old on host ")
    assert "generation 1 cannot be published any more" in told[0]
    with pytest.raises(StaleRunError, match="somebody broke its lease"):
        publish(old, "first")


def test_the_next_run_takes_over_what_was_finished(locking: Project) -> None:
    flow = chain(locking)
    old = session_of(locking, flow, "old")
    begin(old, "first")
    execute(old, "first.one")
    break_lease(locking.config(), "first")

    new = session_of(locking, flow, "new")
    assert begin(new, "first").valid == ["first.one"]
    execute(new, "first.two")
    assert publish(new, "first").generation == 3
    assert locking.called == ["one", "two"]
    with pytest.raises(StaleRunError, match="was taken over by run 'new'"):
        publish(old, "first")


def test_the_same_run_may_begin_again(locking: Project) -> None:
    """A run that was thought to be gone, and whose failed steps are retried."""
    session = session_of(locking, chain(locking), "run")
    begin(session, "first")
    execute(session, "first.one")
    break_lease(locking.config(), "first")

    assert begin(session, "first").valid == ["first.one"]
    execute(session, "first.two")
    assert publish(session, "first").published


def test_the_list_says_who_holds_what_since_when_until_when_and_in_which_generation(locking: Project) -> None:
    assert list_leases(locking.config()) == []
    session = session_of(locking, chain(locking), "airflow:chain/manual__1")
    begin(session, "first")
    locking.config().lock_manager.acquire("another", Owner.this_process("local:1"), seconds=-5)

    another, first = list_leases(locking.config())
    assert another.startswith("another: run local:1 on host ")
    assert "(pid " in another
    assert another.endswith(" s ago")
    assert ", expired " in another
    assert first.startswith("first: run airflow:chain/manual__1 on host ")
    for part in (", since 20", ", last heartbeat ", ", expires in ", ", generation 1"):
        assert part in first


def test_what_nobody_holds_cannot_be_broken(locking: Project) -> None:
    locking.config().lock_manager.acquire("held", Owner.of_run("r"), seconds=30)
    with pytest.raises(StageError, match=r"'first' is held by nobody.* Held are: held\."):
        break_lease(locking.config(), "first")


def test_a_whole_run_with_leases_in_the_database(project: Project) -> None:
    project.settings["lock_manager"] = DATABASE
    flow = chain(project)
    result = project.run(flow)
    assert project.tables(result) == {"first": {"one": 2, "two": 2}}
    assert list_leases(project.config()) == []
    assert project.executed(flow) == []


def test_the_end_of_a_step_does_not_wait_for_a_heartbeat_that_waits_for_the_file(project: Project) -> None:
    """The thread of the step keeps the file of DuckDB open, and leases are in it."""
    project.settings |= {"lock_manager": DATABASE, "lease_seconds": 0.03}
    session = session_of(project, chain(project), "run")
    with session.store.kept_open():
        with session.holding("first"):
            with session.store.transaction():
                pass
            until(lambda: session.store._turn.is_wanted)
        assert not [thread for thread in threading.enumerate() if thread.name == "pipedag-lease-first"]


@pytest.mark.parametrize(
    ("owner", "silent_for", "over"),
    [
        (Owner.of_run("airflow:shop/1"), 3500, False),
        (Owner.of_run("airflow:shop/1"), 3700, True),
        (Owner.this_process("local:1"), 3700, False),
    ],
)
def test_for_a_local_run_a_dag_run_is_over_when_nothing_was_heard_of_it_for_an_hour(
    locking: Project, owner: Owner, silent_for: float, over: bool
) -> None:
    config = locking.config()
    heard = config.lock_manager.now() - silent_for
    assert launch._is_over(config, Lease("first", owner, 1, heard, heard, heard + 60)) is over


def test_a_local_run_takes_over_from_a_dag_run_that_is_over(locking: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = chain(locking)
    deleted = session_of(locking, flow, "airflow:chain/deleted")
    begin(deleted, "first")
    execute(deleted, "first.one")
    monkeypatch.setattr("pipedag_airflow.backend.lock.lease._SILENT", 0)
    assert locking.executed(flow) == ["two"]
