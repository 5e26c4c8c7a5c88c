"""A project of 42 tasks over thirteen runs: what each executes is listed, and its tables are those of a fresh run."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from scenario_flow import Source, shop

from pipedag_airflow import AUTO_VERSION, CacheValidationMode
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    from conftest import Project

    from pipedag_airflow import Result
    from pipedag_airflow.testing.postgres import PostgresServer

# On PostgreSQL alone: 42 tasks cost a third there of what they cost in a file of DuckDB's.
pytestmark = pytest.mark.databases("postgres")


@attrs.frozen
class Run:
    """A run: what was edited before it, how it was started, and what it is to execute.

    Args:
        about: What the run is about.
        executed: The tasks that are executed, by stage.
        edits: What changes in the project's source.
        start: Arguments of ``flow.run``.
        select: What is selected; nothing is everything.
        fresh: The stages whose tables are those of a fresh run of this source; in the others nothing has changed.
    """

    about: str
    executed: dict[str, str]
    edits: dict[str, Any] = attrs.field(factory=dict)
    start: dict[str, Any] = attrs.field(factory=dict)
    select: tuple[str, ...] = ()
    fresh: frozenset[str] = frozenset({"raw", "clean", "checks", "features", "model", "mart", "archive"})


NOTHING = frozenset[str]()
COLUMNS = "select table_name, column_name, data_type from information_schema.columns"
#: A task without a version, which runs whenever its stage does.
EXPORT = {"mart": "export"}

RUNS = [
    Run(
        "the first run executes everything, and a call that stands there twice once",
        {
            "raw": "customers products settings vat stores orders orders__2 orders__3 orders__4 calendar script",
            "clean": "customers products stores orders orders__2 orders__3 orders__4 all_orders prices",
            "checks": "count_orders gaps",
            "features": "by_customer by_product by_store by_month encoder scaled limits",
            "model": "split train predict score importance",
            "mart": "report loyal summary currencies totals export",
            "archive": "archive",
        },
        fresh=NOTHING,
    ),
    Run("nothing was edited", EXPORT, fresh=NOTHING),
    Run(
        "a version is raised: everything that is made from the table follows; the score stays, so do the totals",
        {
            "raw": "customers",
            "clean": "customers",
            "features": "by_customer",
            "model": "split train predict score",
            "mart": "report loyal export",
            "archive": "archive",
        },
        {"customers": 5},
    ),
    Run(
        "a query is edited: what is before it stays, and the score is another one",
        {
            "clean": "customers",
            "features": "by_customer",
            "model": "split train predict score",
            "mart": "report loyal totals export",
            "archive": "archive",
        },
        {"groups": 3},
    ),
    Run(
        "a literal is edited",
        {
            "raw": "vat",
            "clean": "prices",
            "features": "by_product scaled",
            "model": "predict score importance",
            "mart": "report totals export",
            "archive": "archive",
        },
        {"vat": 7},
    ),
    Run(
        "a cache function says something new",
        {
            "raw": "products",
            "clean": "products prices",
            "features": "by_product encoder scaled",
            "model": "predict score importance",
            "mart": "report totals export",
            "archive": "archive",
        },
        {"day": 2},
    ),
    Run(
        "the code of tasks with AUTO_VERSION is edited, and a task is renamed",
        {
            "clean": "products prices",
            "features": "by_product encoder scaled",
            "model": "predict score importance",
            "mart": "overview totals export",
            "archive": "archive",
        },
        {"bonus": 2, "report": "overview"},
    ),
    Run(
        "a new version of a task fails: nothing that depends on it runs or changes",
        {"model": "train"},
        {"model": "2", "broken": True},
        start={"fail_fast": False},
        fresh=NOTHING,
    ),
    Run(
        "the task is mended: it runs, and what depends on it",
        {"model": "train predict score", "mart": "overview export", "archive": "archive"},
        {"broken": False},
    ),
    Run("tasks are removed: nothing runs, and their tables leave", EXPORT, {"stores": False}),
    Run(
        "a query is edited and its stage alone is run",
        {"features": "by_product scaled"},
        {"discount": 0},
        select=("stage:features",),
        fresh=frozenset({"features"}),
    ),
    Run(
        "the next whole run does the rest",
        {"model": "predict score", "mart": "overview totals export", "archive": "archive"},
    ),
    Run(
        "whatever may read something new is forced to: it runs, and what is made from its table",
        {
            "raw": "products",
            "clean": "products prices",
            "features": "by_product encoder scaled",
            "model": "predict score importance",
            "mart": "overview export",
            "archive": "archive",
        },
        start={"cache_validation_mode": CacheValidationMode.FORCE_FRESH_INPUT},
        fresh=NOTHING,
    ),
]


def executed(result: Result) -> dict[str, str]:
    """Return the tasks whose functions were called, or whose queries were executed, by stage."""
    ran = [
        task.id.split(".")
        for task, state in result.task_states.items()
        if state in (FinalTaskState.COMPLETED, FinalTaskState.FAILED)
    ]
    stages = groupby(sorted(ran, key=lambda place: place[0]), key=lambda place: place[0])
    return {stage: " ".join(task for _, task in tasks) for stage, tasks in stages}


def called(result: Result) -> list[str]:
    """Return the names of the executed tasks with a version of their own: those note that they are called."""
    return [
        task.name
        for task, state in result.task_states.items()
        if state in (FinalTaskState.COMPLETED, FinalTaskState.FAILED)
        and not task.unbound.lazy
        and task.unbound.version is not AUTO_VERSION
    ]


def contents(project: Project, result: Result) -> dict[str, dict[str, Any]]:
    """Return what readers see: by stage and table its columns, their types and its rows."""
    found: dict[str, dict[str, Any]] = {}
    with project.database.reader() as query:
        for stage, tables in project.tables(result).items():
            columns = query(f"{COLUMNS} where table_schema = '{stage}'")
            assert {table for table, *_ in columns} == {*tables}
            found[stage] = {
                table: (
                    sorted(column[1:] for column in columns if column[0] == table),
                    sorted(query(f'select * from "{stage}"."{table}"'), key=repr),
                )
                for table in tables
            }
    return found


def values(result: Result) -> dict[str, str]:
    """Return all results in words: values as they are, tables and blobs by their names."""
    return {task.id: repr(value) for task, value in result.task_values.items()}


def test_over_many_runs_exactly_what_an_edit_concerns_is_executed_and_readers_see_what_a_fresh_run_gives(
    project: Project, postgres: PostgresServer
) -> None:
    source = Source()
    before: dict[str, dict[str, Any]] = {}
    for run in RUNS:
        source = attrs.evolve(source, **run.edits)
        result = project.run(shop(source, project.call), *run.select, **run.start)

        assert executed(result) == run.executed, run.about
        assert project.called == called(result), run.about
        assert result.successful is not source.broken
        after = contents(project, result)
        expected = before or after
        if run.fresh:
            with postgres.database() as url:
                address = url.set(drivername="postgresql").render_as_string(hide_password=False)
                other = type(project)(project.folder / "fresh" / url.database, type(project.database)(address))
                fresh = other.run(shop(source, other.call))
                made = contents(other, fresh)
                expected = {stage: made[stage] if stage in run.fresh else before[stage] for stage in before}
                if not run.select:
                    assert values(result) == values(fresh), run.about
        assert after == expected, run.about
        before = after
    assert len(result.flow.tasks) == 39
    assert not {"raw.stores", "clean.stores", "features.by_store"} & {
        f"{stage}.{table}" for stage, tables in before.items() for table in tables
    }
