"""Which functions are called in each cache validation mode, and in the normal run after it.

The table of all combinations is in test_cache_policy.py.
"""

from __future__ import annotations

from shutil import copytree
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import CacheValidationMode, Flow, Stage, Table, materialize
from pipedag_airflow.errors import FreshInputError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.outputs import prepare
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Project

NORMAL, ASSERT, IGNORE, FORCE_FRESH, FORCE_ALL = (
    CacheValidationMode.NORMAL,
    CacheValidationMode.ASSERT_NO_FRESH_INPUT,
    CacheValidationMode.IGNORE_FRESH_INPUT,
    CacheValidationMode.FORCE_FRESH_INPUT,
    CacheValidationMode.FORCE_CACHE_INVALID,
)


def flow_of(project: Project, day: int = 1, *, rows: int = 2) -> Flow:  # noqa: C901 - a task of each kind
    """A flow of each kind of task.

    Args:
        project: Where calls are noted.
        day: What the cache functions return, and what is in the frame of the lazy task.
        rows: What stands in the query of the lazy task.
    """

    def noted(name: str) -> Any:
        def cache_function(*_: Any) -> int:
            project.call(f"cache of {name}")
            return day

        return cache_function

    @materialize(version="1", cache=noted("value"))
    def value() -> int:
        project.call("value")
        return 7

    @materialize(version="1", cache=noted("read"))
    def read() -> Table[Any]:
        project.call("read")
        return Table(pd.DataFrame({"day": [day]}), "read")

    @materialize(version="1")
    def fixed() -> Table[Any]:
        project.call("fixed")
        return Table(pd.DataFrame({"x": [1]}), "fixed")

    @materialize(lazy=True, cache=noted("query"))
    def query() -> Table[Any]:
        return Table(sa.text(" union all ".join(f"select {row} as x" for row in range(rows))), "query")

    @materialize(version="1", cache=noted("steps"))
    def steps() -> Table[Any]:
        project.call("steps")
        first = Table(sa.text("select 1 as x"), "step").materialize()
        return Table(sa.select(first.c.x), "steps")

    @materialize(lazy=True, cache=noted("lazy steps"))
    def lazy_steps() -> Table[Any]:
        first = Table(sa.text("select 1 as x"), "lazy_step").materialize()
        return Table(sa.select(first.c.x), "lazy_steps")

    @materialize(lazy=True)
    def frame() -> Table[Any]:
        return Table(pl.DataFrame({"day": [1, 2, 3]}), "frame")

    def consumer(name: str) -> Any:
        @materialize(name=name, version="1", input_type=pl.DataFrame)
        def consume(_: Any) -> int:
            project.call(name)
            return 0

        return consume

    @materialize
    def always() -> int:
        project.call("always")
        return 1

    with Flow("modes") as flow:
        with Stage("raw"):
            sources = {task.__name__: task() for task in (value, read, fixed, query, steps, lazy_steps, frame)}
            always()
        with Stage("mart"):
            for name, source in sources.items():
                consumer(f"after {name}")(source)
    return flow


def tasks_called(project: Project) -> set[str]:
    """The tasks that were called, none of them twice; lazy ones, which are called in every run, do not count."""
    called = [name for name in project.called if not name.startswith("cache of")]
    assert sorted(called) == sorted({*called})
    return {*called}


def cache_functions_called(project: Project) -> list[str]:
    return sorted(name.removeprefix("cache of ") for name in project.called if name.startswith("cache of"))


ALWAYS = {"always"}  # a task without version runs in every mode
FRESH = {"value", "read", "steps", "after read", "after query", "after steps", "after lazy_steps"} | ALWAYS
ALL = FRESH | {"fixed", "after fixed", "after frame", "after value"}
CACHE_FUNCTIONS = ["lazy steps", "query", "read", "steps", "value"]
NO_VERSION = {"ignore_task_version": True}

FRESH_TABLES = {"read", "query", "step", "steps", "lazy_step", "lazy_steps"}
ALL_TABLES = FRESH_TABLES | {"fixed", "frame"}
#: The lazy tasks themselves have no version; those that read them have one.
VERSIONED_TABLES = {"read", "fixed", "step", "steps"}


class Case(NamedTuple):
    """A run in a mode, after a first run, and the normal run after it."""

    arguments: dict[str, Any]
    day: int
    ran: set[str]
    cache_functions: list[str]
    stored: set[str]
    then_ran: set[str]

    def check(self, project: Project) -> None:
        before = project.places("raw")
        project.run(flow_of(project, self.day), **self.arguments)
        assert tasks_called(project) == self.ran
        assert cache_functions_called(project) == self.cache_functions
        assert {name for name, place in project.places("raw").items() if place != before[name]} == self.stored

        project.run(flow_of(project, self.day))
        assert tasks_called(project) == self.then_ran


def mode_is(mode: CacheValidationMode, **more: Any) -> dict[str, Any]:
    return {"cache_validation_mode": mode} | more


def first_run(project: Project) -> None:
    project.run(flow_of(project))
    assert tasks_called(project) == ALL
    assert cache_functions_called(project) == CACHE_FUNCTIONS


@pytest.fixture(scope="module")
def after_first_run(project_in: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that has run once, to be copied."""
    project = project_in(tmp_path_factory.mktemp("first"))
    first_run(project)
    return project.folder


FORCED = Case(mode_is(FORCE_ALL), 1, ALL, CACHE_FUNCTIONS, ALL_TABLES, ALWAYS)
FORCED_FRESH = Case(mode_is(FORCE_FRESH), 1, FRESH, CACHE_FUNCTIONS, FRESH_TABLES, ALWAYS)


@pytest.mark.parametrize(
    "case",
    [
        Case(mode_is(NORMAL), 2, FRESH, CACHE_FUNCTIONS, FRESH_TABLES, ALWAYS),
        Case(mode_is(IGNORE), 2, ALWAYS, [], set(), FRESH),
        Case({"ignore_cache_function": True}, 2, ALWAYS, [], set(), FRESH),
        Case(mode_is(ASSERT), 2, ALWAYS, [], set(), FRESH),
        FORCED_FRESH,
        FORCED,
        Case(NO_VERSION, 1, ALL, CACHE_FUNCTIONS, VERSIONED_TABLES, ALWAYS),
        Case(mode_is(IGNORE, **NO_VERSION), 1, ALL, ["read", "steps", "value"], VERSIONED_TABLES, ALWAYS),
        Case(mode_is(FORCE_FRESH, **NO_VERSION), 1, ALL, CACHE_FUNCTIONS, ALL_TABLES - {"frame"}, ALWAYS),
        FORCED._replace(arguments=mode_is(FORCE_ALL, **NO_VERSION)),
    ],
    ids=lambda case: " ".join(map(str, case.arguments.values())),
)
def test_what_runs_in_a_mode_and_in_the_normal_run_after_it(
    project_in: Callable[[Path], Project], after_first_run: Path, tmp_path: Path, case: Case
) -> None:
    case.check(project_in(copytree(after_first_run, tmp_path / "copy")))


@pytest.mark.databases("postgres")
def test_what_runs_in_postgres_in_the_modes_that_force(project: Project) -> None:
    project.settings["stage_commit_technique"] = "read_views"
    first_run(project)
    FORCED.check(project)
    FORCED_FRESH.check(project)


def test_what_runs_although_fresh_input_is_ignored_is_stored_under_what_its_cache_function_says(
    project: Project,
) -> None:
    project.run(flow_of(project, 1))
    project.run(flow_of(project, 2, rows=3), cache_validation_mode=IGNORE)
    assert tasks_called(project) == {"after query"} | ALWAYS
    assert cache_functions_called(project) == ["query"]

    # The source is as it was at first, but the table of the new query was made from the other day.
    project.run(flow_of(project, 1, rows=3))
    assert tasks_called(project) == {"after query"} | ALWAYS
    project.run(flow_of(project, 1, rows=3))
    assert tasks_called(project) == ALWAYS


def test_fresh_input_that_must_not_be_read_is_an_error_that_names_the_task(project: Project) -> None:
    with pytest.raises(FreshInputError, match=r"'raw\.value' .*'assert_no_fresh_input'.*runs \(first_run\)") as caught:
        project.run(flow_of(project), cache_validation_mode=ASSERT)

    assert isinstance(caught.value, AssertionError)
    assert project.called.count("value") == 0
    assert project.objects("raw") == set()


def test_a_lazy_task_with_another_query_would_read_fresh_input_too(project: Project) -> None:
    project.run(flow_of(project))
    with pytest.raises(FreshInputError, match=r"'raw\.query' .*query_changed"):
        project.run(flow_of(project, rows=3), cache_validation_mode=ASSERT)

    assert project.query("select count(*) from raw.query") == [(2,)]


def test_a_step_that_is_repeated_does_not_force_again(project: Project) -> None:
    flow = flow_of(project)
    project.run(flow)
    project.settings["cache_validation"] = {"mode": "force_cache_invalid"}
    project.called.clear()
    for _ in range(2):
        begin(project.session(flow), "raw")
    for task in flow["raw"].tasks:
        for _ in range(2):
            execute(project.session(flow), task.id)
        begin(project.session(flow), "raw")

    assert cache_functions_called(project) == CACHE_FUNCTIONS
    assert [name for name in project.called if not name.startswith("cache of")] == [
        "value",
        "read",
        "fixed",
        "steps",
        "always",
    ]
    assert publish(project.session(flow), "raw").published


@pytest.mark.parametrize(
    ("arguments", "lazy"),
    [({}, False), ({"cache_validation_mode": FORCE_ALL}, False), ({"cache_validation_mode": FORCE_ALL}, True)],
    ids=str,
)
def test_the_same_call_twice_in_a_stage_runs_once_in_every_mode(
    project: Project, arguments: dict[str, Any], lazy: bool
) -> None:
    def flow() -> Flow:
        @materialize(version=None if lazy else "1", lazy=lazy)
        def numbers() -> Table[Any]:
            project.call("numbers")
            return Table(sa.text("select 1 as x") if lazy else pd.DataFrame({"x": [1]}), "numbers")

        with Flow("twins") as flow, Stage("one"):
            numbers(), numbers()
        return flow

    for _ in range(2):
        result = project.run(flow(), **arguments)
        assert project.tables(result) == {"one": {"numbers": 1}}
        assert lazy or project.called.count("numbers") == (0 if _ and not arguments else 1)


# --- frames of lazy tasks -----------------------------------------------------------------------------------------


def frame_flow(project: Project, make: Any) -> Flow:
    @materialize(lazy=True)
    def frame() -> Any:
        project.call("frame")
        return make()

    @materialize(version="1", input_type=pl.DataFrame)
    def consumer(table: pl.DataFrame) -> int:
        project.call("consumer")
        return table.height

    with Flow("frames") as flow, Stage("frames"):
        consumer(frame())
    return flow


LETTERS = {"n": [1, 2, None], "s": ["a", None, "c"]}


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (lambda: pl.DataFrame(LETTERS), lambda: pl.DataFrame(LETTERS), True),
        (lambda: pd.DataFrame(LETTERS), lambda: pd.DataFrame(LETTERS, index=[7, 8, 9]), True),
        (lambda: Table(pl.DataFrame(LETTERS)), lambda: pl.DataFrame(LETTERS).lazy().collect(), True),
        (lambda: Table(pl.LazyFrame(LETTERS)), lambda: pl.DataFrame(LETTERS), True),
        (lambda: pl.DataFrame(LETTERS), lambda: pl.DataFrame(LETTERS).reverse(), False),
        (lambda: pl.DataFrame(LETTERS), lambda: pl.DataFrame(LETTERS).select("s", "n"), False),
        (lambda: pl.DataFrame(LETTERS), lambda: pl.DataFrame(LETTERS).rename({"n": "m"}), False),
        (lambda: pl.DataFrame({"n": [1]}), lambda: pl.DataFrame({"n": [1]}, schema={"n": pl.Int32}), False),
        (lambda: pd.DataFrame({"n": [1]}), lambda: pd.DataFrame({"n": [2]}), False),
        (lambda: Table(pl.DataFrame(LETTERS)), lambda: Table(pl.DataFrame(LETTERS), indexes=[["s"]]), False),
    ],
)
def test_what_a_lazy_task_returns_is_the_same_frame_if_it_holds_the_same(
    project: Project, before: Any, after: Any, same: bool
) -> None:
    flow = frame_flow(project, before)

    def identity(result: Any) -> str:
        return prepare(project.session(flow), flow["frames"]["frame"], result, "call", 1, {}).outputs[0].cache_key

    assert (identity(before()) == identity(after())) is same


@pytest.mark.parametrize("ahead", [20, 0], ids=["judged in begin", "judged in its own step"])
def test_a_frame_of_a_lazy_task_is_valid_while_it_holds_the_same(project: Project, ahead: int) -> None:
    project.settings["begin_query_seconds"] = ahead
    project.run(frame_flow(project, lambda: pl.DataFrame(LETTERS)))
    for rows, valid in [(3, True), (2, False)]:
        flow = frame_flow(project, lambda rows=rows: pl.DataFrame(LETTERS).head(rows))
        result = project.run(flow)
        assert (result.task_states[flow["frames"]["frame"]] is FinalTaskState.CACHE_VALID) is valid
        assert ("consumer" in project.called) is not valid


def test_a_lazy_frame_is_collected_once(project: Project) -> None:
    def noted(frame: pl.DataFrame) -> pl.DataFrame:
        project.call("collected")
        return frame

    project.settings["begin_query_seconds"] = 0
    flow = frame_flow(project, lambda: Table(pl.LazyFrame(LETTERS).map_batches(noted)))

    assert project.executed(flow) == ["frame", "collected", "consumer"]


def test_a_frame_that_cannot_be_hashed_is_made_in_every_run(
    project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> str:
        raise OverflowError("too large")

    monkeypatch.setattr("pipedag_airflow.run.outputs.content_hash", refuse)
    for _ in range(2):
        assert "consumer" in project.executed(frame_flow(project, lambda: pl.DataFrame(LETTERS)))
    assert "frames.frame: the data of table" in caplog.text
