"""Which functions are called in each cache validation mode, and in the normal run after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import CacheValidationMode, Flow, Stage, Table, materialize
from pipedag_airflow.errors import ConfigError, FreshInputError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    from conftest import Project

NORMAL, ASSERT, IGNORE, FORCE_FRESH, FORCE_ALL = (
    CacheValidationMode.NORMAL,
    CacheValidationMode.ASSERT_NO_FRESH_INPUT,
    CacheValidationMode.IGNORE_FRESH_INPUT,
    CacheValidationMode.FORCE_FRESH_INPUT,
    CacheValidationMode.FORCE_CACHE_INVALID,
)


def flow_of(  # noqa: C901 - a task of each kind
    project: Project, day: int = 1, *, rows: int = 2, with_version_none: bool = False
) -> Flow:
    """A flow of each kind of task.

    Args:
        project: Where calls are noted.
        day: What the cache functions return, and what is in the frame of the lazy task.
        rows: What stands in the query of the lazy task.
        with_version_none: Whether there is a task that always runs.
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
        return Table(sa.text(f"select * from range({rows})"), "query")

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
            sources = {task.__name__: task() for task in (value, read, fixed, query, frame)}
            if with_version_none:
                always()
        with Stage("mart"):
            for name, source in sources.items():
                consumer(f"after {name}")(source)
    return flow


def tasks_called(project: Project) -> set[str]:
    """The tasks that were called; lazy ones, which are called in every run, do not count."""
    return {name for name in project.called if not name.startswith("cache of")}


FRESH = {"value", "read", "after read", "after query"}
TABLES = {"read", "fixed", "after read", "after fixed", "after query", "after frame"}


@pytest.mark.parametrize(
    ("arguments", "day", "ran", "then_ran"),
    [
        ({}, 1, set(), set()),
        ({}, 2, FRESH, set()),
        ({"cache_validation_mode": NORMAL}, 2, FRESH, set()),
        ({"cache_validation_mode": IGNORE}, 2, set(), FRESH),
        ({"ignore_cache_function": True}, 2, set(), FRESH),
        ({"cache_validation_mode": "Ignore_Fresh_Input", "ignore_cache_function": True}, 2, set(), FRESH),
        ({"cache_validation_mode": ASSERT}, 2, set(), FRESH),
        ({"cache_validation_mode": ASSERT, "ignore_cache_function": True}, 2, set(), FRESH),
        ({"cache_validation_mode": FORCE_FRESH}, 1, FRESH, set()),
        ({"cache_validation_mode": FORCE_FRESH}, 2, FRESH, set()),
        ({"cache_validation_mode": FORCE_ALL}, 1, TABLES | {"value", "after value"}, set()),
        ({"ignore_task_version": True}, 1, TABLES | {"value", "after value"}, set()),
        ({"ignore_task_version": True, "cache_validation_mode": IGNORE}, 1, TABLES | {"value", "after value"}, set()),
    ],
    ids=str,
)
def test_what_runs_in_a_mode_and_in_the_normal_run_after_it(
    project: Project, arguments: dict[str, Any], day: int, ran: set[str], then_ran: set[str]
) -> None:
    project.run(flow_of(project))

    project.run(flow_of(project, day), **arguments)
    assert tasks_called(project) == ran

    project.run(flow_of(project, day))
    assert tasks_called(project) == then_ran
    project.run(flow_of(project, day))
    assert tasks_called(project) == set()


@pytest.mark.parametrize(
    ("mode", "stored"),
    [
        (NORMAL, set()),
        (IGNORE, set()),
        (FORCE_FRESH, {"read", "query"}),
        (FORCE_ALL, {"read", "fixed", "query", "frame"}),
    ],
)
def test_which_tables_are_stored_anew(project: Project, mode: CacheValidationMode, stored: set[str]) -> None:
    def places() -> dict[str, str]:
        sql = "select view_name, sql from duckdb_views() where schema_name = 'raw'"
        return dict(project.query(sql))

    project.run(flow_of(project))
    before = places()
    project.run(flow_of(project), cache_validation_mode=mode)

    assert {name for name, place in places().items() if place != before[name]} == stored


@pytest.mark.parametrize("mode", CacheValidationMode)
def test_the_configuration_says_the_mode(project: Project, mode: CacheValidationMode) -> None:
    project.run(flow_of(project))
    project.run(flow_of(project, 2), cache_validation_mode=mode)
    given = tasks_called(project)

    project.settings["instance_id"] = "configured"
    project.settings["table_store"]["args"]["url"] += "2"
    project.run(flow_of(project))
    project.run(flow_of(project, 2), config=project.config(cache_validation={"mode": mode.value.upper()}))
    assert tasks_called(project) == given


@pytest.mark.parametrize("mode", [None, *CacheValidationMode])
def test_a_task_without_version_runs_in_every_mode(project: Project, mode: CacheValidationMode | None) -> None:
    for _ in range(2):
        project.run(flow_of(project, with_version_none=True), cache_validation_mode=mode if _ else None)
        assert project.called.count("always") == 1


CACHE_FUNCTIONS = ["cache of query", "cache of read", "cache of value"]


@pytest.mark.parametrize(
    ("mode", "called"),
    [
        (NORMAL, CACHE_FUNCTIONS),
        (IGNORE, []),
        (ASSERT, []),
        (FORCE_FRESH, CACHE_FUNCTIONS),
        (FORCE_ALL, CACHE_FUNCTIONS),
    ],
)
def test_a_cache_function_is_called_once_or_not_where_its_value_does_not_matter(
    project: Project, mode: CacheValidationMode, called: list[str]
) -> None:
    first_mode = NORMAL if mode is ASSERT else mode
    project.run(flow_of(project), cache_validation_mode=first_mode)
    assert sorted(name for name in project.called if name.startswith("cache of")) == CACHE_FUNCTIONS

    project.run(flow_of(project), cache_validation_mode=mode)
    assert sorted(name for name in project.called if name.startswith("cache of")) == called


def test_what_runs_although_fresh_input_is_ignored_is_stored_under_what_its_cache_function_says(
    project: Project,
) -> None:
    project.run(flow_of(project, 1))
    project.run(flow_of(project, 2, rows=3), cache_validation_mode=IGNORE)
    assert tasks_called(project) == {"after query"}
    assert project.called.count("cache of query") == 1

    # The source is as it was at first, but the table of the new query was made from the other day.
    project.run(flow_of(project, 1, rows=3))
    assert tasks_called(project) == {"after query"}
    project.run(flow_of(project, 1, rows=3))
    assert tasks_called(project) == set()


def test_fresh_input_that_must_not_be_read_is_an_error_that_names_the_task(project: Project) -> None:
    with pytest.raises(FreshInputError, match=r"'raw\.value' .*'assert_no_fresh_input'.*runs \(first_run\)") as caught:
        project.run(flow_of(project), cache_validation_mode=ASSERT)

    assert isinstance(caught.value, AssertionError)
    assert project.called.count("value") == 0
    assert project.query("select count(*) from duckdb_views() where schema_name = 'raw'") == [(0,)]


def test_a_lazy_task_with_another_query_would_read_fresh_input_too(project: Project) -> None:
    project.run(flow_of(project))
    with pytest.raises(FreshInputError, match=r"'raw\.query' .*query_changed"):
        project.run(flow_of(project, rows=3), cache_validation_mode=ASSERT)

    assert project.query("select count(*) from raw.query") == [(2,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cache_validation_mode": NORMAL, "ignore_cache_function": True}, "'normal' and ignore_cache_function"),
        ({"cache_validation_mode": FORCE_FRESH, "ignore_cache_function": True}, "contradicts itself: .*'force_fresh_"),
        ({"cache_validation_mode": "always"}, "'always', but must be one of normal, assert_no_fresh_input"),
    ],
    ids=str,
)
def test_a_mode_that_cannot_be_meant_is_refused(project: Project, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        project.run(flow_of(project), **arguments)
    assert project.called == []


def test_a_configuration_that_contradicts_itself_is_refused_but_a_run_has_the_last_word(project: Project) -> None:
    both = {"cache_validation": {"mode": "force_fresh_input", "disable_cache_function": True}}
    with pytest.raises(ConfigError, match="ignore_cache_function means 'ignore_fresh_input'"):
        project.run(flow_of(project), config=project.config(**both))

    project.run(flow_of(project), config=project.config(**both), cache_validation_mode=NORMAL)
    forced = project.config().evolve(force_task_execution=True)
    project.run(flow_of(project), config=forced)
    assert "after fixed" in project.called


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

    assert sorted(tasks_called(project)) == ["fixed", "read", "value"]
    assert sorted(project.called) == sorted([*CACHE_FUNCTIONS, "fixed", "read", "value"])
    assert publish(project.session(flow), "raw").published


@pytest.mark.parametrize(
    "arguments", [{}, {"cache_validation_mode": FORCE_ALL}, {"ignore_task_version": True}], ids=str
)
@pytest.mark.parametrize("lazy", [False, True])
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

    with Flow("frames") as flow, Stage("one"):
        consumer(frame())
    return flow


LETTERS = {"n": [1, 2, None], "s": ["a", None, "c"]}


@pytest.mark.parametrize(
    ("before", "after", "valid"),
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
@pytest.mark.parametrize("ahead", [20, 0], ids=["judged in begin", "judged in its own step"])
def test_a_frame_of_a_lazy_task_is_valid_while_it_holds_the_same(
    project: Project, before: Any, after: Any, valid: bool, ahead: int
) -> None:
    project.settings["begin_query_seconds"] = ahead
    project.run(frame_flow(project, before))
    first = frame_flow(project, after)

    result = project.run(first)
    assert (result.task_states[first["one"]["frame"]] is FinalTaskState.CACHE_VALID) is valid
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
    assert "one.frame: the data of table" in caplog.text
