"""A step of a run is at work while another one publishes the stage: a task that was cleared too late, or a begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.metadata import GenerationState
from pipedag_airflow.run import begin as begin_module
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

    from pipedag_airflow.run.session import RunSession

pytestmark = pytest.mark.databases("duckdb", "postgres")


class Meanwhile:
    """What happens once, in the middle of a step."""

    def __init__(self) -> None:
        self.action: Callable[[], object] | None = None

    def happen(self) -> None:
        action, self.action = self.action, None
        if action is not None:
            action()


def session(project: Project, meanwhile: Meanwhile, *, materialized: bool = False) -> RunSession:
    @materialize(version="1")
    def numbers() -> Table[Any]:
        project.call("numbers")
        table: Table[Any] = Table(pd.DataFrame({"call": [len(project.called)]}), "numbers")
        if materialized:
            meanwhile.happen()
            table.materialize()
        meanwhile.happen()
        return table

    with Flow("flow") as flow, Stage("stage"):
        numbers()
    return project.session(flow)


def build(run: RunSession) -> None:
    begin(run, "stage")
    execute(run, "stage.numbers")


def states(run: RunSession) -> dict[int, GenerationState]:
    with run.store.transaction() as transaction:
        return {record.number: record.state for record in transaction.metadata.generations(stage="stage")}


@pytest.mark.parametrize("materialized", [False, True])
@pytest.mark.parametrize("unchanged", [False, True])
def test_a_task_that_is_cleared_while_its_stage_is_published_is_made_in_another_generation(
    project: Project, materialized: bool, unchanged: bool
) -> None:
    meanwhile = Meanwhile()
    run = session(project, meanwhile, materialized=materialized)
    build(run)
    if unchanged:
        publish(run, "stage")
        begin(run, "stage", close=False)
    meanwhile.action = lambda: publish(run, "stage")

    report = execute(run, "stage.numbers", revision=1)

    closed = {1: GenerationState.PUBLISHED} | ({2: GenerationState.UNCHANGED} if unchanged else {})
    assert states(run) == closed | {len(closed) + 1: GenerationState.OPEN}
    assert not report.decision.valid
    assert project.query("select call from stage.numbers") == [(1,)]
    assert publish(run, "stage").generation == len(closed) + 1
    assert project.query("select call from stage.numbers") == [(3,)]


def test_a_begin_that_decides_while_its_stage_is_published_begins_it_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = Meanwhile()
    run = session(project, meanwhile)
    build(run)
    meanwhile.action = lambda: publish(run, "stage")
    monkeypatch.setattr(begin_module, "crash_point", lambda name: meanwhile.happen())

    report = begin(run, "stage")

    assert report.closed
    assert states(run) == {1: GenerationState.PUBLISHED, 2: GenerationState.UNCHANGED}
    assert project.query("select call from stage.numbers") == [(1,)]
