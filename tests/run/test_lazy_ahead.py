"""Begin sees the queries of lazy tasks, so that a valid one needs no process; what it cannot see, it leaves alone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import attrs
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project


def one_query(function: Callable[[], Any]) -> Flow:
    @materialize(lazy=True)
    def query() -> Table[Any]:
        return Table(function(), "query")

    with Flow("ahead") as flow, Stage("one"):
        query()
    return flow


def number() -> sa.TextClause:
    return sa.text("select 1 as x")


def published_once(project: Project, flow: Flow) -> None:
    session = project.session(flow, "first run")
    begin(session, "one")
    execute(session, "one.query")
    publish(session, "one")


def test_a_valid_query_is_decided_by_begin(project: Project) -> None:
    published_once(project, one_query(number))

    report = begin(project.session(one_query(number), "second run"), "one")

    assert report.closed
    assert report.valid == ["one.query"]


def test_a_query_that_cannot_be_seen_ahead_fails_in_its_own_step(project: Project) -> None:
    published_once(project, one_query(number))

    def broken() -> Any:
        raise ZeroDivisionError("the user's own error")

    session = project.session(one_query(broken), "second run")
    report = begin(session, "one")
    assert report.decisions["one.query"].reason.value == "decided_later"
    with pytest.raises(ZeroDivisionError):
        execute(session, "one.query")


def test_a_query_that_takes_too_long_is_left_to_its_own_step_which_finds_it_valid(project: Project) -> None:
    published_once(project, one_query(number))
    released = threading.Event()

    def slow() -> Any:
        released.wait(60)
        return number()

    session = project.session(one_query(slow), "second run")
    session = attrs.evolve(session, config=session.config.evolve(begin_query_seconds=0.05))
    report = begin(session, "one")
    assert report.decisions["one.query"].reason.value == "decided_later"
    released.set()
    assert execute(session, "one.query").decision.valid
    assert not publish(session, "one").published, "in the end nothing had changed"


def test_seeing_queries_ahead_can_be_switched_off(project: Project) -> None:
    published_once(project, one_query(number))
    session = project.session(one_query(number), "second run")
    session = attrs.evolve(session, config=session.config.evolve(begin_query_seconds=0))

    assert begin(session, "one").decisions["one.query"].reason.value == "decided_later"


def test_a_lazy_task_that_loads_data_is_left_to_its_own_step(project: Project) -> None:
    called: list[str] = []

    @materialize(version="1")
    def source() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}), "source")

    @materialize(lazy=True, input_type=pl.DataFrame)
    def query(table: pl.DataFrame) -> Table[Any]:
        called.append("query")
        return Table(sa.select(sa.literal(table["x"][0]).label("x")), "query")

    def flow() -> Flow:
        with Flow("loads") as flow:
            with Stage("one"):
                made = source()
            with Stage("two"):
                query(made)
        return flow

    project.run(flow())
    session = project.session(flow(), "second run")
    begin(session, "one")
    called.clear()

    assert begin(session, "two").decisions["two.query"].reason.value == "decided_later"
    assert called == []


def test_after_a_query_that_takes_too_long_the_others_are_decided_all_the_same(project: Project) -> None:
    released = threading.Event()
    slow: list[str] = []
    threads: list[threading.Thread] = []

    @materialize(lazy=True)
    def query(name: str) -> Table[Any]:
        threads.append(threading.current_thread())
        if name in slow:
            released.wait(60)
        return Table(sa.select(sa.literal(name).label("x")), name)

    with Flow("ahead") as flow, Stage("one"):
        for name in ("a", "b", "c", "d"):
            query(name)
    project.run(flow)
    threads.clear()
    slow.append("b")

    session = project.session(flow, "second run")
    session = attrs.evolve(session, config=session.config.evolve(begin_query_seconds=0.5))
    report = begin(session, "one")
    released.set()

    found = [decision.reason.value for decision in report.decisions.values()]
    assert found == ["valid", "decided_later", "valid", "valid"]
    assert threads[0] is threads[1], "no thread for each query"
    assert threads[1] is not threads[2] is threads[3], "another one went on"
