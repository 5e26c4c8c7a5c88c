"""Another run publishes a stage between two statements of a step, and each sees what is there then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.metadata import MetadataRepository
from pipedag_airflow.core.selector import select
from pipedag_airflow.errors import CacheError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.preview import preview
from pipedag_airflow.run.summary import published_by

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

    from pipedag_airflow.run.session import RunSession

pytestmark = pytest.mark.databases("postgres")


def doubled(version: str) -> Flow:
    @materialize(version=version)
    def number() -> int:
        return int(version)

    @materialize(version="1")
    def double(number: int) -> int:
        return 2 * number

    with Flow("doubled") as flow:
        with Stage("input"):
            given = number()
        with Stage("output"):
            double(given)
    return flow


@pytest.fixture
def before_tasks_are_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Have something done, once, when the rows of stages have been read, and those of tasks have not."""

    def once(do: Callable[[], Any]) -> None:
        left = [do]
        read_tasks = MetadataRepository.read_tasks

        def read(self: MetadataRepository, *args: Any, **kwargs: Any) -> Any:
            if left:
                left.pop()()
            return read_tasks(self, *args, **kwargs)

        monkeypatch.setattr(MetadataRepository, "read_tasks", read)

    return once


def publish_input(project: Project, version: str) -> Callable[[], Any]:
    flow = doubled(version)
    return lambda: project.run(flow, flow["input"])


@pytest.fixture
def session(project: Project) -> RunSession:
    """A run of one stage, which reads what is published of the other."""
    project.settings["generations_to_keep"] = 1
    flow = doubled("1")
    project.run(flow, flow["input"])
    return project.session(flow, selection=select(flow.plan(), "stage:output"))


def test_begin_reads_what_is_published_in_the_end(
    project: Project, session: RunSession, before_tasks_are_read: Callable[..., None]
) -> None:
    before_tasks_are_read(publish_input(project, "2"))
    begin(session, "output")
    assert execute(session, "output.double").value == 4


def test_a_task_reads_what_is_published_in_the_end(
    project: Project, session: RunSession, before_tasks_are_read: Callable[..., None]
) -> None:
    begin(session, "output")
    before_tasks_are_read(publish_input(project, "2"))
    assert execute(session, "output.double").value == 4


def test_a_dry_run_looks_at_what_is_published_in_the_end(
    project: Project, session: RunSession, before_tasks_are_read: Callable[..., None]
) -> None:
    before_tasks_are_read(publish_input(project, "2"))
    assert not preview(session)["output.double"].valid


def test_a_result_that_is_asked_for_is_what_is_published_in_the_end(
    project: Project, session: RunSession, before_tasks_are_read: Callable[..., None]
) -> None:
    before_tasks_are_read(publish_input(project, "2"))
    with session.config:
        assert session.flow.tasks["input.number"].get_output_from_store() == 2


def test_what_is_not_published_is_an_error_all_the_same(project: Project) -> None:
    flow = doubled("1")
    with pytest.raises(CacheError, match=r"nothing is published of 'input.number'"):
        project.run(flow, flow["output"])


def test_a_summary_has_the_tables_of_the_generation_that_it_names(
    project: Project, before_tasks_are_read: Callable[..., None]
) -> None:
    def listed(version: str) -> Flow:
        @materialize(version=version)
        def numbers() -> Table:
            return Table(pl.DataFrame({"x": range(int(version))}), "numbers")

        with Flow("listed") as flow, Stage("stage"):
            numbers()
        return flow

    project.settings["generations_to_keep"] = 1
    result = project.run(listed("1"))
    before_tasks_are_read(lambda: project.run(listed("2")))
    [stage] = published_by(result)
    assert (stage.generation, [table.rows for table in stage.tables]) == (2, [2])
