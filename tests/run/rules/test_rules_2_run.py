"""How a run goes: rules 2.1 to 2.8."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from pipedag_airflow import Blob, Flow, PipedagConfig, RawSql, Stage, StageLockContext, Table, materialize
from pipedag_airflow.engine import SequentialEngine
from pipedag_airflow.errors import CacheError, LockError, StoreError, UnsupportedValueError
from pipedag_airflow.run.launch import find_config
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from conftest import Project

    from pipedag_airflow import Result


on_both_databases = pytest.mark.databases("duckdb", "postgres")


def frame(*values: int) -> pd.DataFrame:
    return pd.DataFrame({"x": [*values]})


@materialize(version="1")
def table() -> Table[Any]:
    return Table(frame(1, 2), "made")


@materialize(input_type=pd.DataFrame)
def fail(_: Any = None) -> None:
    raise ZeroDivisionError("the user's own error")


def test_2_1_1_the_given_configuration_comes_before_the_open_one_and_that_before_the_file(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    (tmp_path / "pipedag.yaml").write_text(
        "instances: {__any__: {instance_id: file}}\nflows: {named: {instance_id: file of the flow}}"
    )
    with Flow("named") as flow:
        pass
    flow.file = tmp_path / "flow.py"
    given, opened, outer = (project.config(instance_id=name) for name in ("given", "opened", "outer"))

    with outer, opened:
        assert find_config(flow, given) is given
        assert find_config(flow) is opened
    assert find_config(flow).instance_id == "file of the flow"


def test_2_1_2_fail_fast_of_a_run_comes_before_that_of_the_configuration(project: Project) -> None:
    with Flow() as flow, Stage("one"):
        fail()

    for configured in (True, False):
        config = project.config(fail_fast=configured)
        assert isinstance(project.run(flow, config=config, fail_fast=False).exception, ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            project.run(flow, config=config, fail_fast=True)


def test_2_1_8_a_run_that_swallows_exceptions_ends_at_the_first_one_and_returns_it(project: Project) -> None:
    with Flow() as flow:
        with Stage("one"):
            fail()
        with Stage("two"):
            other = table()

    result = project.run(flow, config=project.config().evolve(swallow_exceptions=True), fail_fast=True)
    assert isinstance(result.exception, ZeroDivisionError)
    assert result.task_states[other] is FinalTaskState.UNKNOWN


@pytest.mark.parametrize("well", [True, False])
def test_2_1_7_a_run_gives_its_stages_back_at_its_end_or_at_that_of_a_lock_context(
    project: Project, well: bool
) -> None:
    with Flow() as flow, Stage("one"):
        table() if well else fail()
    config = project.config(fail_fast=False)

    project.run(flow, config=config)
    assert config.lock_manager.leases() == []

    with StageLockContext():
        project.run(flow, config=config)
        assert [lease.stage for lease in config.lock_manager.leases()] == ["one"]
    assert config.lock_manager.leases() == []


@on_both_databases
def test_10_51_a_second_run_enters_a_stage_as_soon_as_the_first_one_has_left_it(project: Project) -> None:
    """The first run stays in its last stage until the second one has published the stage before."""
    second_is_through = threading.Event()
    second: list[Future[Result]] = []

    def flow(number: int, work: Callable[[], object]) -> Flow:
        @materialize(version=str(number))
        def early() -> Table[Any]:
            return Table(frame(number), "early")

        @materialize(input_type=pd.DataFrame)
        def then(_: pd.DataFrame) -> None:
            if number == 2:
                second_is_through.set()

        with Flow("pipelined") as flow:
            with Stage("early"):
                made = early()
            with Stage(f"then_{number}"):
                then(made)
            with Stage("late"):
                materialize(name="late")(work)()
        return flow

    with ThreadPoolExecutor(1) as threads:

        def start_second() -> bool:
            second.append(threads.submit(flow(2, lambda: None).run, config=project.config(wait_seconds=60)))
            return second_is_through.wait(60)

        first = project.run(flow(1, start_second))

    assert first.get(first.flow["late"]["late"]) is True
    assert second[0].result().successful
    assert project.query("select x from early.early") == [(2,)]


def test_2_1_5_the_engine_of_a_run_comes_before_that_of_the_configuration(project: Project) -> None:
    class Noting(SequentialEngine):
        def run(self, *arguments: Any, **options: Any) -> Any:
            project.call("engine")
            return super().run(*arguments, **options)

    with Flow() as flow, Stage("one"):
        table()

    assert project.executed(flow) == []
    assert project.executed(flow, orchestration_engine=Noting()) == ["engine"]


def test_2_1_4_a_run_within_a_lock_context_takes_over_what_the_context_keeps(project: Project) -> None:
    with Flow() as flow, Stage("one"):
        table()
    config = project.config()

    with StageLockContext():
        first, second = project.run(flow, config=config), project.run(flow, config=config)
        assert [lease.owner.run_id for lease in config.lock_manager.leases()] == [second.run_id]
        assert first.run_id != second.run_id
    assert config.lock_manager.leases() == []


@on_both_databases
def test_2_2_a_stage_lives_in_its_transaction_until_it_is_committed(project: Project) -> None:
    @materialize
    def names(stage: Stage) -> list[str]:
        return [stage.transaction_name, stage.current_name]

    with Flow() as flow:
        with Stage("one") as one:
            during = names(one)
        with Stage("two"):
            after = names(one)

    result = project.run(flow)

    assert result.get(during) == ["one__g1", "one__g1"]
    assert result.get(after) == ["one", "one"]
    with pytest.raises(LookupError):
        _ = one.current_name


@on_both_databases
def test_2_3_2_and_10_50_a_stage_without_tables_gets_no_schema_for_a_transaction(project: Project) -> None:
    @materialize
    def value() -> list[Any]:
        return [1, Blob("b", "blob")]

    with Flow() as flow, Stage("values"):
        value()

    project.run(flow)

    schemas = {schema for (schema,) in project.query("select schema_name from information_schema.schemata")}
    assert not {schema for schema in schemas if schema.startswith("values")}
    assert "pipedag_metadata" in schemas


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_2_4_5_an_argument_that_cannot_be_stored_is_refused_before_anything_runs(project: Project, value: Any) -> None:
    @materialize
    def take(value: Any) -> None:
        project.call("take")

    with pytest.raises(UnsupportedValueError), Flow() as flow, Stage("one"):
        take(value)
    assert project.called == []
    assert flow.stages  # it is the flow's end that refuses it


def test_2_4_6_a_cache_function_gets_descriptors_and_not_the_tables_themselves(project: Project) -> None:
    got = []

    @materialize(version="1", input_type=pd.DataFrame, cache=lambda *arguments: got.append(arguments))
    def take(df: pd.DataFrame, number: int) -> int:
        return len(df) + number

    with Flow() as flow, Stage("one"):
        taken = take(table(), 3)

    assert project.run(flow).get(taken) == 5
    ((descriptor, number),) = got
    assert (type(descriptor), descriptor.name, descriptor.obj, number) == (Table, "made", None, 3)


@on_both_databases
def test_2_4_7_a_call_without_a_version_is_made_once_in_a_run_and_anew_in_the_next_one(project: Project) -> None:
    @materialize
    def draw(_: int) -> Table[Any]:
        project.call("draw")
        return Table(frame(1), "drawn%%")

    def flow() -> Flow:
        with Flow() as flow, Stage("one"):
            draw(1), draw(1), draw(2)
        return flow

    for _ in range(2):
        states = project.run(flow()).task_states
        assert project.called == ["draw", "draw"]
        assert {task.id: state.name for task, state in states.items()} == {
            "one.draw": "COMPLETED",
            "one.draw__2": "CACHE_VALID",
            "one.draw__3": "COMPLETED",
        }


def test_2_4_7_and_10_8_a_call_that_failed_is_made_and_fails_as_often_as_it_stands_in_the_stage(
    project: Project,
) -> None:
    @materialize
    def fail() -> None:
        project.call("fail")
        raise ZeroDivisionError

    with Flow() as flow, Stage("one"):
        first, twin = fail(), fail()

    result = project.run(flow, fail_fast=False)

    assert not result.successful
    assert project.called == ["fail", "fail"]
    assert {result.task_states[first], result.task_states[twin]} == {FinalTaskState.FAILED}


@on_both_databases
def test_2_4_12_tables_and_blobs_are_loaded_wherever_they_stand_in_an_argument(project: Project) -> None:
    @materialize
    def make(stage: Stage) -> dict[str, Any]:
        script = RawSql(f"create table {stage.current_name}.scripted as select 3 as x", "script")
        return {"list": [Table(frame(1))], "tuple": (Blob("b"), {"key": Table(frame(2))}), "script": script}

    @materialize(input_type=pd.DataFrame)
    def take(whole: dict[str, Any], part: dict[str, Any]) -> list[Any]:
        frames = [whole["list"][0], whole["tuple"][1]["key"], whole["script"]["scripted"], part["key"]]
        return [[int(df["x"].iloc[0]) for df in frames], whole["tuple"][0], type(whole["script"]).__name__]

    with Flow() as flow, Stage("one") as stage:
        made = make(stage)
        taken = take(made, made["tuple"][1])

    assert project.run(flow).get(taken) == [[1, 2, 3, 2], "b", "RawSql"]


@on_both_databases
@pytest.mark.parametrize("fail_fast", [True, False])
def test_2_4_15_of_a_result_of_which_a_part_cannot_be_stored_nothing_is_stored_and_its_names_are_free(
    project: Project, fail_fast: bool
) -> None:
    @materialize
    def three() -> list[Any]:
        return [Table(frame(1), "good"), Blob(1, "blob"), Table(frame(1, 1), "bad", primary_key="x")]

    @materialize
    def late() -> list[Any]:
        return [Table(frame(1), "good"), Blob(1, "blob")]

    with Flow() as flow, Stage("one"):
        three()
        other = late()

    with pytest.raises(StoreError, match="'bad'") if fail_fast else nullcontext():
        result = project.run(flow, fail_fast=fail_fast)
        assert result.task_states[other] is FinalTaskState.COMPLETED
    made = [name for schema, name in project.query(project.database.tables) if schema.startswith("one")]
    assert made == ([] if fail_fast else ["good"])
    assert not (project.folder / "blobs" / "test" / "one" / "blob.pkl").exists()


def test_2_4_16_what_was_stored_is_not_kept_in_memory_and_twins_have_one_result(project: Project) -> None:
    with Flow() as flow, Stage("one"):
        first, twin = table(), table()

    for state in (FinalTaskState.COMPLETED, FinalTaskState.CACHE_VALID):
        result = project.run(flow)
        assert result.task_values[first].obj is None
        assert result.task_values[first].cache_key == result.task_values[twin].cache_key
        assert result.task_states[first] is state


def test_10_40_the_error_of_a_task_is_raised_as_it_is_though_others_read_the_task(project: Project) -> None:
    with Flow() as flow:
        with Stage("one"):
            failed = fail()
        with Stage("two"):
            fail(failed)

    with pytest.raises(ZeroDivisionError) as error:
        project.run(flow, fail_fast=True)
    assert str(error.value) == "the user's own error"


def reader_flow(project: Project, source: Any) -> Flow:
    @materialize(version="1")
    def read(value: Any) -> Any:
        project.call("read")
        return value

    with Flow("read") as flow:
        with Stage("source"):
            value = source()
        with Stage("reader"):
            read(value)
    return flow


@on_both_databases
def test_2_6_an_input_that_was_never_published_is_told(project: Project) -> None:
    flow = reader_flow(project, table)
    with pytest.raises(CacheError, match=r"nothing is published of 'source\.table' \(read by 'reader\.read'\)"):
        project.run(flow, flow["reader"])


@on_both_databases
def test_2_6_what_a_failed_run_has_made_is_no_input_of_another_run(project: Project) -> None:
    def source_of(value: int, well: bool) -> Any:
        @materialize(name="source")
        def source() -> int:
            return value

        def wired() -> Any:
            made = source()
            if not well:
                fail(made)
            return made

        return wired

    project.run(reader_flow(project, source_of(1, well=True)))
    project.run(reader_flow(project, source_of(2, well=False)), fail_fast=False)

    flow = reader_flow(project, source_of(3, well=True))
    result = project.run(flow, flow["reader"])

    assert result.get(flow["reader"]["read"]) == 1


@on_both_databases
def test_2_7_stages_that_were_committed_before_a_failure_stay_and_what_was_not_reached_is_unknown(
    project: Project,
) -> None:
    with Flow() as flow:
        with Stage("good"):
            made = table()
        with Stage("bad"):
            failed = fail(made)
            other = table()
        with Stage("late"):
            late = table()

    with pytest.raises(ZeroDivisionError):
        project.run(flow, fail_fast=True)
    assert project.query("select count(*) from good.made") == [(2,)]
    assert "good" in project.schemas()
    assert not {"bad", "late"} & project.schemas()

    result = project.run(flow, fail_fast=False)
    states = {task: state.name for task, state in result.task_states.items()}
    assert states == {made: "CACHE_VALID", failed: "FAILED", other: "COMPLETED", late: "COMPLETED"}
    assert result.task_values.keys() == {made, other, late}


def test_2_8_what_a_result_cannot_give_is_told(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    with Flow() as flow, Stage("one"):
        made, failed = table(), fail()

    result = project.run(flow, fail_fast=False)

    with pytest.raises(KeyError, match=r"'one\.fail' has no result in this run: its state is failed"):
        result.get(failed)
    with pytest.raises(UnsupportedValueError, match=r"give the type, as_type=pandas\.DataFrame"):
        result.get(made)
    with caplog.at_level(logging.WARNING):
        assert result.get(made, as_type=pd.DataFrame)["x"].tolist() == [1, 2]
    assert "was not successful; 'one.table' may be incomplete" in caplog.text


def test_2_8_with_strict_locking_results_are_only_read_while_their_stages_are_held(project: Project) -> None:
    with Flow() as flow, Stage("one"):
        made = table()
    config = project.config(strict_result_get_locking=True)

    result = project.run(flow, config=config)
    with pytest.raises(LockError, match="can only be read within a StageLockContext"):
        result.get(made, as_type=pd.DataFrame)
    with StageLockContext():
        result = project.run(flow, config=config)
        assert result.get(made, as_type=pd.DataFrame)["x"].tolist() == [1, 2]


@on_both_databases
def test_2_8_a_reference_into_a_result_is_followed(project: Project) -> None:
    @materialize(input_type=pd.DataFrame)
    def make() -> dict[str, Any]:
        return {"tables": (Table(frame(1)), Table(frame(2)))}

    with Flow() as flow, Stage("one"):
        made = make()

    assert project.run(flow).get(made["tables"][1])["x"].tolist() == [2]


def test_2_1_a_dictionary_is_a_configuration(project: Project) -> None:
    config = PipedagConfig({"instances": {"__any__": project.settings}})
    with Flow() as flow, Stage("one"):
        made = table()

    assert flow.run(config=config.get()).task_states[made] is FinalTaskState.COMPLETED
