"""Runs that wait for each other's stages: no longer than they must, with an end, in no circle, and saying for whom."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.errors import StageBusyError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.session import RunSession

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from conftest import Project


def flow_of(name: str, order: Iterable[str], meet: Callable[[], object] = lambda: None) -> Flow:
    """A flow of independent stages in some order, and of one that reads them all."""

    def task_of(stage: str) -> Any:
        @materialize(name=f"make_{stage}", version="1")
        def make() -> Table[Any]:
            meet()
            return Table(pl.DataFrame({"x": [1]}), stage)

        return make

    @materialize(version="1", input_type=pl.DataFrame)
    def read(tables: list[pl.DataFrame]) -> Table[Any]:
        return Table(pl.concat(tables), f"read_by_{name}")

    with Flow(name) as flow:
        made = {}
        for stage in order:
            with Stage(stage):
                made[stage] = task_of(stage)()
        with Stage(f"of_{name}"):
            read([made[stage] for stage in sorted(made)])
    return flow


def chain() -> Flow:
    """Stages a, b and c, each of which reads the one before."""

    @materialize(version="1")
    def first() -> int:
        return 1

    @materialize(version="1")
    def after(number: int) -> int:
        return number + 1

    with Flow("chain") as flow:
        with Stage("a"):
            number = first()
        for stage in ("b", "c"):
            with Stage(stage):
                number = after(number)
    return flow


def build(session: RunSession, stage: str) -> None:
    begin(session, stage)
    for node in session.plan.stage_by_name[stage].tasks:
        execute(session, node)


def held(session: RunSession) -> dict[str, str]:
    """Which run holds which stage."""
    return {lease.stage: lease.owner.run_id for lease in session.locks.leases()}


def test_two_runs_of_one_flow_pipeline_stage_by_stage(project: Project) -> None:
    first, second = (RunSession(chain(), project.config(), Owner.of_run(run), engine="test") for run in ("1", "2"))
    for stage in ("a", "b"):
        build(first, stage)
        publish(first, stage)
    # A stage is kept until the one that reads it is published.
    assert held(first) == {"b": "1"}
    build(first, "c")
    build(second, "a")
    publish(second, "a")
    assert held(first) == {"a": "2", "b": "1", "c": "1"}
    with pytest.raises(StageBusyError, match="Stage 'b' is held by run 1"):
        begin(second, "b")
    publish(first, "c")
    for stage in ("b", "c"):
        build(second, stage)
        publish(second, stage)
    assert held(first) == {}


def test_flows_of_disjoint_stages_are_at_work_at_the_same_time(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """Each waits within each of its tasks until the other one is there, too."""
    together = threading.Barrier(2)
    flows = [flow_of(name, stages, lambda: together.wait(60)) for name, stages in (("one", "ab"), ("two", "cd"))]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda flow: flow.run(config=project.config(wait_seconds=0.1)), flows))
    assert [result.successful for result in results] == [True, True]
    assert "Waiting for stage" not in caplog.text


def test_flows_that_share_stages_in_opposite_orders_do_not_wait_for_each_other_in_a_circle(project: Project) -> None:
    """Each has made one of the two stages, and wants to read it beside the one that the other has made."""
    config = {"wait_seconds": 60}
    both_hold_one = threading.Barrier(2)
    met: set[int] = set()

    def meet() -> None:
        if threading.get_ident() not in met:
            met.add(threading.get_ident())
            both_hold_one.wait(60)

    flows = [flow_of("forth", ["a", "b"], meet), flow_of("back", ["b", "a"], meet)]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda flow: flow.run(config=project.config(**config)), flows))

    assert [result.successful for result in results] == [True, True]
    assert len(met) == 2
    assert project.query(
        "select (select count(*) from of_forth.read_by_forth), count(*) from of_back.read_by_back"
    ) == [(2, 2)]
    assert project.config().lock_manager.leases() == []


def test_a_run_gives_up_when_it_has_waited_for_long_enough_and_names_the_holder(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    flow = flow_of("flow", ["a"])
    holder = RunSession(flow, project.config(), Owner.of_run("airflow:flow/slow"), engine="test")
    begin(holder, "a")
    with pytest.raises(StageBusyError, match=r"Given up after \d s of waiting.*held by run airflow:flow/slow on host"):
        project.run(flow, config=project.config(wait_seconds=0.6))
    assert "Waiting for stage a: Stage 'a' is held by run airflow:flow/slow on host" in caplog.text
    assert holder.locks.waits_for(holder.run_id) == []
    assert holder.locks._read("a").tickets == ()
