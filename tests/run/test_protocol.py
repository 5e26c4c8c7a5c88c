"""The steps of a run as an orchestrator calls them: in any process, twice, or not at all."""

from __future__ import annotations

import re
import sys
import threading
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest

from pipedag_airflow import Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.errors import (
    CacheError,
    DuplicateNameError,
    FlowChangedError,
    RunError,
    StageBusyError,
    StageError,
    StaleRunError,
    UnsupportedValueError,
)
from pipedag_airflow.run.abandon import abandon
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")


def chain(project: Project, *, version: str = "1", fail: bool = False, extra: str = "x") -> Flow:
    """Two stages; in the first one table after the other."""

    @materialize(version=version)
    def one() -> Table[Any]:
        project.call("one")
        return Table(pd.DataFrame({"x": [1, 2], "version": version}), "one")

    @materialize(version="1", input_type=pl.DataFrame)
    def two(table: pl.DataFrame, name: str) -> Table[Any]:
        project.call("two")
        if fail:
            raise ZeroDivisionError("the user's own error")
        return Table(table.with_columns(name=pl.lit(name)), "two")

    @materialize(version="1", input_type=pl.DataFrame)
    def three(table: pl.DataFrame) -> Table[Any]:
        project.call("three")
        return Table(table, "three")

    with Flow("chain") as flow:
        with Stage("first"):
            made = two(one(), extra)
        with Stage("second"):
            three(made)
    return flow


def steps(project: Project, flow: Flow, run_id: str = "run", stage: str = "first") -> None:
    session = project.session(flow, run_id)
    report = begin(session, stage)
    for node in flow.plan().stage_by_name[stage].tasks:
        if not report.decisions[node].valid:
            execute(session, node)
    if not report.closed:
        publish(session, stage)


def test_a_failing_task_leaves_what_is_published_untouched(project: Project) -> None:
    project.run(chain(project))

    with pytest.raises(ZeroDivisionError, match="own error") as raised:
        project.run(chain(project, version="2", fail=True, extra="y"))

    assert raised.value.__notes__ == ["(raised by task 'first.two' of flow 'chain')"]
    assert project.query("select distinct version from first.one") == [("1",)]
    assert project.query("select distinct name from first.two") == [("x",)]


@pytest.mark.parametrize(
    ("code", "call"), [(0, r"sys\.exit\(0\)"), (None, r"sys\.exit\(\)"), ("no", r"sys\.exit\('no'\)")]
)
@pytest.mark.parametrize("lazy", [False, True])
def test_a_task_that_exits_has_failed_and_others_go_on(project: Project, code: Any, call: str, lazy: bool) -> None:
    @materialize(version=None, lazy=lazy)
    def leaving() -> Any:
        sys.exit(code)

    @materialize(version="1")
    def staying() -> int:
        return 1

    with Flow("exits") as flow:
        with Stage("one"):
            leaving()
        with Stage("two"):
            staying()
    result = project.run(flow, fail_fast=False)

    assert isinstance(result.exception, RunError)
    assert re.search(rf"'one\.leaving' has no result, because .* has called {call}", str(result.exception))
    assert result.task_states[flow.tasks["two.staying"]].value == "completed"
    ((state, detail),) = project.query("select state, detail from pipedag_metadata.task where stage = 'one'")
    assert (state, detail) == ("failed", f"RunError: {result.exception}")


def test_an_interrupt_of_a_task_is_one_of_the_run(project: Project) -> None:
    @materialize(version="1")
    def interrupted() -> int:
        raise KeyboardInterrupt

    with Flow("interrupted") as flow, Stage("one"):
        interrupted()
    with pytest.raises(KeyboardInterrupt):
        project.run(flow, fail_fast=False)
    assert project.query("select count(*) from pipedag_metadata.task where state = 'failed'") == [(0,)]


def test_after_the_mend_the_run_goes_on_with_what_is_missing(project: Project) -> None:
    with pytest.raises(ZeroDivisionError):
        project.run(chain(project, fail=True))
    assert project.called == ["one", "two"]

    assert project.executed(chain(project)) == ["two", "three"]
    assert project.query("select count(*) from first.one") == [(2,)]


def test_what_a_run_that_died_had_finished_is_not_done_again(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow, "dies")
    begin(session, "first")
    execute(session, "first.one")
    project.called.clear()

    result = project.run(chain(project), config=project.config(lock_manager=no_locks()))

    assert project.called == ["two", "three"]
    assert result.successful


def no_locks() -> dict[str, Any]:
    return {"class": "pipedag_airflow.backend.lock.NoLockManager"}


def test_without_fail_fast_independent_work_goes_on_and_the_failed_stage_is_not_published(project: Project) -> None:
    @materialize(version="1")
    def good() -> int:
        project.call("good")
        return 1

    @materialize(version="1")
    def bad() -> int:
        raise ValueError("no")

    @materialize(version="1")
    def after(value: int) -> int:
        project.call("after")
        return value

    with Flow("independent") as flow:
        with Stage("one"):
            broken = bad()
            fine = good()
        with Stage("two"):
            after(fine)
        with Stage("three"):
            lonely = good()
        with Stage("four"):
            after(broken)

    result = project.run(flow, fail_fast=False)

    assert project.called == ["good", "good"]
    assert not result.successful
    assert isinstance(result.exception, ValueError)
    assert result.get(lonely) == 1
    assert {task.id: state for task, state in result.task_states.items()} == {
        "one.bad": FinalTaskState.FAILED,
        "one.good": FinalTaskState.COMPLETED,
        "two.after": FinalTaskState.UNKNOWN,
        "three.good": FinalTaskState.COMPLETED,
        "four.after": FinalTaskState.UNKNOWN,
    }
    assert list(project.generations(result)) == ["three"]


def test_each_step_may_happen_twice(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow)
    first = begin(session, "first")
    assert begin(session, "first").generation == first.generation
    once = execute(session, "first.one")
    twice = execute(session, "first.one")
    assert project.called == ["one"]
    assert twice.value.cache_key == once.value.cache_key
    execute(session, "first.two")
    assert begin(session, "first").valid == ["first.one", "first.two"], "a retry of begin keeps what was made"
    published = publish(session, "first")
    again = publish(session, "first")
    assert (published.published, again.published) == (True, False)
    assert again.generation == published.generation == first.generation


def test_a_zombie_and_its_retry_store_one_result(project: Project) -> None:
    flow = chain(project)
    begin(project.session(flow), "first")
    keys: list[str] = []

    def run() -> None:
        keys.append(execute(project.session(flow), "first.one").value.cache_key)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 3
    assert len(set(keys)) == 1
    session = project.session(flow)
    execute(session, "first.two")
    assert publish(session, "first").published


def test_a_task_opens_its_stage_if_nothing_is_open(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow)

    assert execute(session, "first.one").decision.valid is False


def test_publishing_with_a_task_missing_is_refused_by_name(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow)
    begin(session, "first")
    execute(session, "first.one")

    with pytest.raises(StageError, match=r"task 'first.two' is pending in generation 1\. Run it"):
        publish(session, "first")


def test_publishing_a_task_made_from_an_older_input_is_refused(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow)
    begin(session, "first")
    execute(session, "first.one")
    execute(session, "first.two")
    execute(session, "first.one", revision=1)

    with pytest.raises(StageError, match=r"task 'first.two' was made from inputs that were made anew"):
        publish(session, "first")
    execute(session, "first.two", revision=1)
    assert publish(session, "first").published


def test_a_task_that_begin_found_valid_is_built_anew_when_it_is_executed_all_the_same(project: Project) -> None:
    steps(project, chain(project), "first run")
    flow = chain(project, extra="y")
    session = project.session(flow, "second run")
    assert begin(session, "first").valid == ["first.one"]
    project.called.clear()

    assert execute(session, "first.one", revision=0).decision.reason.value == "forced"
    assert execute(session, "first.two").decision.valid is False
    assert project.called == ["one", "two"]


def test_a_task_whose_input_was_not_made_says_which(project: Project) -> None:
    session = project.session(chain(project))
    begin(session, "first")

    with pytest.raises(CacheError, match=r"'first.two' reads 'first.one', which this run has not made"):
        execute(session, "first.two")


def test_the_run_that_lost_its_stage_can_neither_write_nor_publish(project: Project) -> None:
    flow = chain(project)
    old = project.session(flow, "old")
    begin(old, "first")
    execute(old, "first.one")
    new = project.session(flow, "new")  # its orchestrator says that the old run is over
    begin(new, "first")

    for step in (lambda: execute(without_lock(old), "first.two"), lambda: publish(without_lock(old), "first")):
        with pytest.raises(StaleRunError, match=r"was taken over by run 'new'.*generation 1 may no longer"):
            step()
    execute(new, "first.two")
    assert publish(new, "first").published


def without_lock(session: Any) -> Any:
    """The same run, but blind for the lease: as a zombie is that was paused right after it had looked."""
    import attrs

    return attrs.evolve(
        session, config=session.config.evolve(config_dict=session.config.config_dict | {"lock_manager": no_locks()})
    )


def test_a_stage_that_another_run_holds_is_busy_and_the_holder_is_named(project: Project) -> None:
    import attrs

    flow = chain(project)
    begin(project.session(flow, "holder"), "first")
    waiting = attrs.evolve(project.session(flow, "waits"), is_over=lambda lease: False)

    with pytest.raises(StageBusyError, match="holder"):
        begin(waiting, "first")


def test_a_stage_is_held_until_its_last_reader_is_done(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow)
    steps(project, flow, stage="first")
    assert session.locks.holder("first") is not None
    steps(project, flow, stage="second")
    assert session.locks.leases() == []


def test_abandoning_keeps_what_readers_see_and_frees_the_stage(project: Project) -> None:
    steps(project, chain(project), "first run")
    session = project.session(chain(project, version="2"), "second run")
    begin(session, "first")
    execute(session, "first.one")
    abandon(session, "first")
    abandon(session, "first")

    assert session.locks.holder("first") is None
    assert project.query("select distinct version from first.one") == [("1",)]


def test_a_flow_that_changes_in_mid_run_is_noticed(project: Project) -> None:
    begin(project.session(chain(project)), "first")

    with pytest.raises(FlowChangedError, match=r"the first difference is 'first.two' has other arguments"):
        execute(project.session(chain(project, extra="changed")), "first.one")


def test_a_result_is_filed_under_the_inputs_that_were_read(project: Project) -> None:
    """Another run publishes the input while the task computes: the task decides anew."""
    source = {"value": 1}

    @materialize(version=None)
    def value() -> int:
        return source["value"]

    @materialize(version="1")
    def double(number: int) -> int:
        project.call(f"double({number})")
        if len(project.called) == 1:
            source["value"] = 2
            other = project.session(producer_flow(), "other")
            begin(other, "input")
            execute(other, "input.value")
            publish(other, "input")
        return 2 * number

    def producer_flow() -> Flow:
        with Flow("both") as flow:
            with Stage("input"):
                number = value()
            with Stage("output"):
                double(number)
        return flow

    flow = producer_flow()
    session = project.session(flow)
    steps(project, flow, stage="input")
    begin(session, "output")
    report = execute(session, "output.double")

    assert project.called == ["double(1)", "double(2)"]
    assert report.value == 4


def test_what_a_nested_stage_made_from_data_that_were_never_published_is_made_again(project: Project) -> None:
    values = iter([1, 2])

    @materialize(version="1")
    def outer() -> Table[Any]:
        return Table(pl.DataFrame({"x": [next(values)]}), "outer")

    @materialize(version="1", input_type=pl.DataFrame)
    def inner(table: pl.DataFrame) -> Table[Any]:
        project.call("inner")
        return Table(table, "inner")

    def flow_of(name: str) -> Flow:
        with Flow("nest") as flow, Stage("around"):
            table = outer()
            with Stage("within"):
                inner(table)
        return flow

    flow = flow_of("nest")
    session = project.session(flow, "never publishes the outer stage")
    begin(session, "around")
    execute(session, "around.outer")
    begin(session, "within")
    execute(session, "within.inner")
    publish(session, "within")
    drop_generation(project, "around", 1)

    project.called.clear()

    result = project.run(flow_of("nest"), config=project.config(lock_manager=no_locks()))

    assert project.called == ["inner"]
    assert project.query("select * from within.inner") == project.query("select * from around.outer") == [(2,)]
    assert result.successful


def drop_generation(project: Project, stage: str, number: int) -> None:
    """Lose the tables of a generation, so that they must be made again."""
    project.database.execute(f"drop schema {stage}__g{number} cascade")


def test_two_tasks_that_claim_one_table_name_are_both_named(project: Project) -> None:
    def task_named(name: str) -> Any:
        @materialize(name=name, version="1")
        def function() -> Table[Any]:
            return Table(pd.DataFrame({"x": [1]}), "same")

        return function

    with Flow("names") as flow, Stage("one"):
        task_named("a")()
        task_named("b")()

    with pytest.raises(DuplicateNameError, match=r"'one.a' and 'one.b' both make a table of the name 'same'"):
        project.run(flow)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2, 3}]}, r"Task 'one.bad': result\['a'\]\[1\] is of type set.*sorted"),
        (object(), r"Task 'one.bad': result is of type object"),
        (float("nan"), r"Task 'one.bad': result is nan"),
        (Table(None, "empty"), r"Task 'one.bad': result is an empty Table"),
        (Table(3, "number"), r"Table 'number' of task 'one.bad' holds an object of type int"),
    ],
    ids=["set", "object", "nan", "empty table", "no table"],
)
def test_what_cannot_be_stored_is_refused_with_its_place(project: Project, value: Any, message: str) -> None:
    @materialize(version="1")
    def bad() -> Any:
        return value

    with Flow("bad") as flow, Stage("one"):
        bad()

    with pytest.raises(UnsupportedValueError, match=message):
        project.run(flow)
    assert project.schemas().isdisjoint({"one", "one__g1"})


def test_old_generations_leave_and_the_tables_still_shown_stay(project: Project) -> None:
    config = project.config(generations_to_keep=2, stage_commit_technique="read_views")
    for version in "1234":
        project.run(chain(project, version="1", extra=version), config=config)

    assert {name for name in project.schemas() if name.startswith("first__")} == {"first__g1", "first__g3", "first__g4"}
    assert project.query("select count(*) from first.one, first.two") == [(4,)]


def test_an_unknown_argument_of_run_is_an_error_with_the_nearest_name(project: Project) -> None:
    with pytest.raises(TypeError, match=r"fail_fats.*Did you mean 'fail_fast'"):
        project.run(chain(project), fail_fats=True)


def test_a_stage_can_be_run_by_itself_with_what_others_have_published(project: Project) -> None:
    project.run(chain(project))
    flow = chain(project)
    project.called.clear()

    result = project.run(flow, flow["second"])

    assert project.called == []
    assert list(result.task_states) == [flow["second"]["three"]]


@pytest.mark.parametrize("stages", [["first"] * 4, ["first", "second"] * 2], ids=["of one stage", "of two stages"])
def test_begins_that_happen_at_once_open_one_generation_of_each_stage(project: Project, stages: list[str]) -> None:
    flow = chain(project)
    sessions = [project.session(flow) for _ in stages]
    together = threading.Barrier(len(stages), timeout=60)
    opened: list[tuple[str, int]] = []

    def run(session: Any, stage: str) -> None:
        together.wait()
        opened.append((stage, begin(session, stage).generation))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(sessions, stages, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(opened) == sorted((stage, 1) for stage in stages)


def test_a_zombie_of_a_task_without_version_changes_nothing_either(project: Project) -> None:
    flow = chain(project, version=None)
    session = project.session(flow)
    begin(session, "first")
    both_compute = threading.Barrier(2, timeout=60)
    flow.tasks["first.one"].unbound.fn = waits_for(both_compute, flow.tasks["first.one"].unbound.fn)
    keys: list[str] = []

    def run() -> None:
        keys.append(execute(project.session(flow), "first.one").value.cache_key)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(keys) == 2
    assert keys[0] == keys[1], "what consumers may have read already stays"


def waits_for(barrier: threading.Barrier, function: Any) -> Any:
    def waiting() -> Any:
        barrier.wait()
        return function()

    return waiting


def test_a_zombie_that_fails_does_not_undo_what_its_retry_has_stored(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow)
    begin(session, "first")

    def retry_then_fail() -> None:
        flow.tasks["first.one"].unbound.fn = original
        execute(session, "first.one")
        raise RuntimeError("the zombie fails")

    original = flow.tasks["first.one"].unbound.fn
    flow.tasks["first.one"].unbound.fn = retry_then_fail
    with pytest.raises(RuntimeError, match="the zombie fails"):
        execute(session, "first.one")

    execute(session, "first.two")
    assert publish(session, "first").published


def test_a_stage_that_turns_out_unchanged_late_is_not_published(project: Project) -> None:
    """Begin cannot decide a task whose input is made in the run; if it is made as it was, nothing is published."""

    def flow() -> Flow:
        @materialize
        def today() -> int:
            project.call("today")
            return 1

        @materialize(version="1")
        def report(day: int) -> Table[Any]:
            project.call("report")
            return Table(pl.DataFrame({"day": [day]}), "report")

        with Flow("late") as flow, Stage("one"):
            report(today())
        return flow

    first = project.run(flow())
    second = project.run(flow())

    assert project.called == ["today"]
    assert project.generations(second) == project.generations(first)
    assert second.get(second.flow["one"]["report"], as_type=pl.DataFrame)["day"].to_list() == [1]


def test_a_view_that_somebody_dropped_is_put_back(project: Project) -> None:
    config = project.config(stage_commit_technique="read_views")
    project.run(chain(project), config=config)
    project.database.execute("drop view first.one")

    project.run(chain(project), config=config)
    assert project.called == []
    assert project.query("select count(*) from first.one") == [(2,)]


def test_tasks_cleared_after_the_stage_was_published_are_published_again(project: Project) -> None:
    flow = chain(project)
    session = project.session(flow)
    steps(project, flow)
    project.called.clear()

    execute(session, "first.two", revision=1)
    report = publish(session, "first")

    assert project.called == ["two"]
    assert report.changed == ("two",)


def test_a_script_that_is_built_anew_replaces_what_it_made(project: Project) -> None:
    @materialize(lazy=True)
    def script(stage: Stage) -> RawSql:
        return RawSql(f"create table {stage.current_name}.t as select {len(project.called)} as n")

    with Flow("script") as flow, Stage("one") as stage:
        script(stage)
    session = project.session(flow)
    begin(session, "one")
    execute(session, "one.script")
    project.call("an edit")
    execute(session, "one.script", revision=1)
    publish(session, "one")

    assert project.query("select n from one.t") == [(1,)]


def test_a_flow_that_replaces_the_stage_of_another_one_says_so(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(chain(project))

    @materialize(version="1")
    def other() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}), "other")

    with Flow("intruder") as flow, Stage("first"):
        other()
    project.run(flow)

    assert "Stage first was published by flow 'chain' before; flow 'intruder' replaces it" in caplog.text
    assert "the tables one, two are gone" in caplog.text
