"""Begin evaluates code of the user's to decide a task: its failures are the task's own, and its time is bounded."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import attrs
import polars as pl
import pytest

from pipedag_airflow import AUTO_VERSION, Flow, Stage, materialize
from pipedag_airflow.config.known_secrets import known_secrets
from pipedag_airflow.errors import AutoVersionError, FreshInputError, RunError, StageError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.preview import preview
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

    from pipedag_airflow.run.session import RunSession


def nothing() -> int:
    return 0


def broken() -> int:
    raise ZeroDivisionError("of the cache function")


def leaves() -> int:
    raise SystemExit(3)


def unfollowable() -> Any:
    """Return a function whose code holds what AUTO_VERSION cannot see into."""
    lock = threading.Lock()

    def function() -> int:
        with lock:
            return 1

    return function


def two_tasks(project: Project, cache: Callable[[], Any] | None = None, odd: Any = None) -> Flow:
    """Return a flow of a good task beside an odd one."""
    version: dict[str, Any] = {"version": "1"} if odd is None else {"version": AUTO_VERSION, "input_type": pl.LazyFrame}

    def constant() -> int:
        project.call("odd")
        return 1

    @materialize(version="1")
    def good() -> int:
        project.call("good")
        return 2

    with Flow("two") as flow, Stage("one"):
        materialize(odd or constant, cache=cache, name="odd", **version)()
        good()
    return flow


def impatient(session: RunSession, seconds: float) -> RunSession:
    return attrs.evolve(session, config=session.config.evolve(begin_query_seconds=seconds))


FAILURES = [
    pytest.param({"cache": broken}, ZeroDivisionError, "cache function: ZeroDivisionError: of", id="cache function"),
    pytest.param({"cache": leaves}, RunError, "cache function: SystemExit: 3", id="cache function that exits"),
    pytest.param({"cache": object}, TypeError, "cache function: UnsupportedValueError", id="its result"),
    pytest.param({"odd": unfollowable()}, AutoVersionError, "AUTO_VERSION: AutoVersionError", id="AUTO_VERSION"),
]


@pytest.mark.parametrize(("given", "error", "detail"), FAILURES)
def test_what_fails_while_begin_decides_a_task_fails_in_its_own_step_and_no_other(
    project: Project, given: dict[str, Any], error: type[BaseException], detail: str
) -> None:
    session = project.session(two_tasks(project, **given))

    odd, good = begin(session, "one").decisions.values()

    assert (odd.reason.value, good.reason.value) == ("decided_later", "first_run")
    assert odd.detail.startswith(detail)
    execute(session, "one.good")
    with pytest.raises(error):
        execute(session, "one.odd")
    with pytest.raises(StageError, match=r"one\.odd"):
        publish(session, "one")
    assert project.called == ["good"]


@pytest.mark.parametrize("given", [{"cache": broken}, {"odd": unfollowable()}], ids=["cache function", "AUTO_VERSION"])
def test_a_task_that_cannot_be_decided_in_its_own_step_has_failed(project: Project, given: dict[str, Any]) -> None:
    session = project.session(two_tasks(project, **given))
    begin(session, "one")
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the record is compared with it
        execute(session, "one.odd")

    rows = project.query("select state, reason, detail from pipedag_metadata.task where node = 'one.odd'")
    assert rows == [("failed", "failed", f"{raised.type.__name__}: {raised.value}")]


def test_what_a_begin_notes_of_an_exception_has_no_secrets_and_is_not_too_long(project: Project) -> None:
    known_secrets.learn(["swordfish"])

    def chatty() -> int:
        raise RuntimeError("swordfish " + 3000 * "x")

    odd, _ = begin(project.session(two_tasks(project, cache=chatty)), "one").decisions.values()
    assert odd.detail.startswith("cache function: RuntimeError: *** xxx")
    assert len(odd.detail) < 2100


def test_an_argument_that_cannot_be_compared_is_not_called_a_failure_of_a_cache_function(project: Project) -> None:
    arguments: list[Any] = [1]

    @materialize(version="1")
    def odd(arguments: list[Any]) -> int:
        return len(arguments)

    with Flow("odd") as flow, Stage("one"):
        odd(arguments)
    arguments[0] = {1, 2}
    (decision,) = begin(project.session(flow), "one").decisions.values()
    assert decision.detail.startswith("arguments: UnsupportedValueError: Task 'one.odd'")


@pytest.mark.parametrize(("given", "error", "detail"), FAILURES)
def test_a_plan_of_a_run_says_which_task_cannot_be_decided(
    project: Project, given: dict[str, Any], error: type[BaseException], detail: str
) -> None:
    del error
    odd, good = preview(project.session(two_tasks(project, **given))).values()

    assert odd.detail.startswith(detail)
    assert good.reason.value == "first_run"


def test_a_run_in_one_process_gives_the_exception_of_a_cache_function_once_and_runs_the_rest(project: Project) -> None:
    result = project.run(two_tasks(project, cache=broken), fail_fast=False)

    assert not result.successful
    assert isinstance(result.exception, ZeroDivisionError)
    assert project.called == ["good"]


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
def test_a_cache_function_that_takes_too_long_is_left_to_the_step_of_its_task(project: Project, lazy: bool) -> None:
    released = threading.Event()

    def slow() -> int:
        released.wait(60)
        return 1

    def flow(cache: Callable[[], int]) -> Flow:
        @materialize(version=None if lazy else "1", lazy=lazy, cache=cache)
        def first() -> int:
            return 1

        with Flow("slow") as flow, Stage("one"):
            first()
            materialize(nothing, version="1", cache=nothing, name="second")()
        return flow

    project.run(flow(lambda: 1))
    session = impatient(project.session(flow(slow), "second run"), 0.3)

    report = begin(session, "one")

    assert report.decisions["one.first"].reason.value == "decided_later"
    assert report.decisions["one.first"].detail == "not known after 0.3 s"
    assert report.decisions["one.second"].valid, "the others are decided all the same"
    released.set()
    execute(session, "one.first")
    publish(session, "one")


@pytest.mark.parametrize("given", [{"cache": nothing}, {"odd": nothing}], ids=["cache function", "AUTO_VERSION"])
def test_a_begin_that_is_given_no_time_evaluates_no_code(project: Project, given: dict[str, Any]) -> None:
    project.run(two_tasks(project, **given))
    session = impatient(project.session(two_tasks(project, **given), "second run"), 0)

    odd, good = begin(session, "one").decisions.values()

    assert odd.reason.value == "decided_later"
    assert good.valid
    assert execute(session, "one.odd").decision.valid, "its own step finds it out"


def test_a_cache_function_that_begin_called_is_not_called_by_the_step_of_its_task(project: Project) -> None:
    calls: list[str] = []
    session = project.session(two_tasks(project, cache=lambda: calls.append("called")))

    begin(session, "one")
    execute(session, "one.odd")

    assert calls == ["called"]


def test_a_run_that_asserts_that_there_is_no_fresh_input_still_refuses_it(project: Project) -> None:
    flow = two_tasks(project, cache=nothing)
    config = project.config(cache_validation={"mode": "assert_no_fresh_input"})

    with pytest.raises(FreshInputError):
        project.run(flow, config=config)
