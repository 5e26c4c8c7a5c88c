"""Runs that would wait for each other for ever: the one that was the last to wait gives up, and the others go on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Result, Stage, StageLockContext, Table, materialize
from pipedag_airflow.errors import DeadlockError
from pipedag_airflow.testing.lock_fixtures import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

#: So that a circle that is not found ends the test.
WAIT = {"wait_seconds": PATIENCE}


class Meeting:
    """Where each of two runs comes when it has its first stage, and waits for the other one."""

    def __init__(self) -> None:
        self._both = threading.Barrier(2)
        self._come: set[int] = set()

    def __call__(self) -> None:
        if threading.get_ident() not in self._come:
            self._come.add(threading.get_ident())
            self._both.wait(PATIENCE)


def task_of(stage: str, *does: Callable[[], object]) -> Any:
    @materialize(name=f"make_{stage}", version="1")
    def make() -> Table[Any]:
        for do in does:
            do()
        return Table(pl.DataFrame({"x": [1]}), stage)

    return make


def nested(name: str, outer: str, inner: str, meet: Callable[[], object]) -> Flow:
    with Flow(name) as flow, Stage(outer):
        task_of(outer, meet)()
        with Stage(inner):
            task_of(inner)()
    return flow


def side_by_side(name: str, stages: tuple[str, ...], *does: Callable[[], object]) -> Flow:
    with Flow(name) as flow:
        for stage in stages:
            with Stage(stage):
                task_of(stage, *does)()
    return flow


def run_both(*runs: Callable[[], Result]) -> tuple[list[Result], list[Exception]]:
    """Run both in threads; return what succeeded and what failed."""
    with ThreadPoolExecutor(len(runs)) as threads:
        done = [threads.submit(run) for run in runs]
    errors = [error for each in done if isinstance(error := each.exception(), Exception)]
    return [each.result() for each in done if each.exception() is None], errors


@pytest.fixture
def locking(project: Project, request: pytest.FixtureRequest) -> Project:
    """A project with leases in its database, if that is a server."""
    if "postgres" in request.node.name:
        project.settings["lock_manager"] = {"class": "pipedag_airflow.backend.lock.DatabaseLockManager"}
    return project


@pytest.mark.databases("duckdb", "postgres")
def test_of_flows_that_nest_the_same_stages_in_opposite_orders_one_gives_up_at_once(locking: Project) -> None:
    meet = Meeting()
    flows = [nested("forth", "a", "b", meet), nested("back", "b", "a", meet)]
    (result,), (error,) = run_both(*(lambda flow=flow: flow.run(config=locking.config(**WAIT)) for flow in flows))
    assert isinstance(error, DeadlockError)
    won, outer, inner = ("forth", "a", "b") if result.flow.name == "forth" else ("back", "b", "a")
    assert f"can never have stage {outer!r}" in str(error)
    assert f"run {result.run_id} waits for stage {inner!r} of run local:" in str(error)
    assert locking.query("select (select count(*) from a.a), count(*) from b.b") == [(1, 1)]
    assert locking.config().lock_manager.leases() == []
    assert locking.config().lock_manager.waits_for(result.run_id) == []
    (other,) = [flow for flow in flows if flow.name != won]
    assert other.run(config=locking.config()).successful


def test_runs_that_keep_what_has_failed_do_not_wait_for_each_other_for_ever(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("as it should")

    meet = Meeting()
    flows = [side_by_side("forth", ("a", "b"), meet, fail), side_by_side("back", ("b", "a"), meet, fail)]
    config = {"fail_fast": False, **WAIT}
    results, _ = run_both(*(lambda flow=flow: flow.run(config=project.config(**config)) for flow in flows))
    assert [result.successful for result in results] == [False, False]
    assert caplog.text.count(" failed: DeadlockError: ") == 1
    assert project.config().lock_manager.leases() == []


def test_runs_of_parts_of_stages_do_not_wait_for_each_other_for_ever(project: Project) -> None:
    """A stage of which parts are selected is not published, and kept until the run ends."""
    meet = Meeting()
    flows = [side_by_side("forth", ("a", "b"), meet), side_by_side("back", ("b", "a"), meet)]

    def run(flow: Flow) -> Result:
        return flow.run(*flow.tasks.values(), config=project.config(**WAIT))

    results, errors = run_both(*(lambda flow=flow: run(flow) for flow in flows))
    assert (len(results), [type(error) for error in errors]) == (1, [DeadlockError])


@pytest.mark.parametrize("runs", [1, 2])
def test_open_contexts_that_keep_stages_do_not_wait_for_each_other_for_ever(project: Project, runs: int) -> None:
    """Also if it is by several runs that they have them."""
    meet = Meeting()

    def run(stages: tuple[str, str]) -> Result:
        config = project.config(**WAIT)
        with StageLockContext():
            if runs == 1:
                return side_by_side("one", stages, meet).run(config=config)
            side_by_side("first", stages[:1], meet).run(config=config)
            return side_by_side("second", stages[1:]).run(config=config)

    results, errors = run_both(lambda: run(("a", "b")), lambda: run(("b", "a")))
    assert (len(results), [type(error) for error in errors]) == (1, [DeadlockError])
    assert project.config().lock_manager.leases() == []
