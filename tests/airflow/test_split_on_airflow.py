"""A flow with a DAG for each stage, on the real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from looking import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowFolder

pytestmark = pytest.mark.airflow

DIAMOND = """
import polars as pl
from pathlib import Path
from pipedag_airflow import Flow, Stage, Table, materialize


def called(name):
    with (Path("DATA") / "calls").open("a") as calls:
        calls.write(name + " ")


@materialize(version="1")
def source():
    called("source")
    return Table(pl.DataFrame({"x": [1, 2]}), "source")


@materialize(version="VERSION", input_type=pl.DataFrame)
def left(table):
    called("left")
    BODY
    return Table(table.with_columns(version=pl.lit("VERSION")), "left")


@materialize(version="1", input_type=pl.DataFrame)
def right(table):
    called("right")
    return Table(table, "right")


@materialize(version="1", input_type=pl.DataFrame)
def both(left, right):
    called("both")
    return Table(left.join(right, on="x"), "both")


with Flow("NAME", airflow={"split": "stage", "schedule": "@once"}) as flow:
    with Stage("one"):
        table = source()
    with Stage("two"):
        first = left(table)
    with Stage("three"):
        second = right(table)
    with Stage("four"):
        both(first, second)
"""

STAGES = ("one", "two", "three", "four")


class SplitFlow:
    """A flow, and what its runs do."""

    def __init__(self, folder: FlowFolder, text: str = DIAMOND) -> None:
        self.folder, self.client, self.name, self.text = folder, folder.client, folder.name, text

    def write(self, version: str, body: str = "pass") -> None:
        text = self.text.replace("BODY", body).replace("NAME", self.name).replace("VERSION", version)
        self.folder.write(text.replace("DATA", str(self.folder.data)))

    def scheduled(self) -> str:
        """The run that Airflow starts by itself, once, when it is over."""
        run: str = eventually(lambda: [run["dag_run_id"] for run in self.runs(self.name)])[0]
        self.client.wait_run(self.name, run, timeout=240)
        return run

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.request("GET", f"/api/v2/dags/{dag_id}/dagRuns?limit=100")["dag_runs"]
        return found

    def run(self, **conf: object) -> str:
        run = self.client.trigger(self.name, conf)
        self.client.wait_run(self.name, run, timeout=240)
        return run

    def clear(self, run: str, *stages: str) -> None:
        self.client.clear(self.name, run, stages, downstream=True)
        self.client.wait_run(self.name, run, timeout=240)

    def called(self) -> list[str]:
        """What has been called since it was asked last."""
        file = self.folder.data / "calls"
        names = sorted(file.read_text().split()) if file.exists() else []
        file.unlink(missing_ok=True)
        return names

    def ran(self, run: str) -> set[str]:
        """The stages whose own DAG had a part of a run."""
        return {stage for stage in STAGES if self.part(stage, run) is not None}

    def part(self, stage: str, run: str) -> str | None:
        """The state of the run of a stage's own DAG."""
        runs = self.runs(f"{self.name}.{stage}")
        return next((found["state"] for found in runs if found["dag_run_id"] == f"part__{run}"), None)

    def instance(self, dag_id: str, run: str, task: str) -> tuple[str | None, int]:
        """The state of a task instance, and which try it is."""
        found = {each["task_id"]: each for each in self.client.task_instances(dag_id, run)}[task]
        return found["state"], found["try_number"]

    def wait_deferred(self, run: str, stage: str) -> None:
        """Wait until an operator waits, and the scheduler knows: it tries one again that goes on before that."""
        eventually(lambda: self.instance(self.name, run, stage)[0] == "deferred")
        _, tried = self.instance(self.name, run, stage)
        key = f"TaskInstanceKey(dag_id={self.name!r}, task_id={stage!r}, run_id={run!r}, try_number={tried},"
        log = self.folder.airflow.log_folder / "scheduler.log"
        eventually(lambda: f"Received executor event with state success for task instance {key}" in log.read_text())

    def log(self, run: str, stage: str) -> str:
        """The log of the last try of a stage's operator: Airflow may have had one more than the first."""
        return self.client.log(self.name, run, stage, try_number=self.instance(self.name, run, stage)[1])

    def version(self) -> str:
        ((version,),) = set(self.folder.query("select version from four.both"))
        return str(version)


def test_first_unchanged_changed_failing_cleared_and_a_part(flows: Callable[[str], FlowFolder]) -> None:
    diamond = SplitFlow(flows("diamond"))
    client, folder = diamond.client, diamond.folder
    diamond.write("1")
    first = diamond.scheduled()
    assert first.startswith("scheduled__")
    assert client.states("diamond", first) == dict.fromkeys(STAGES, "success")
    assert diamond.ran(first) == set(STAGES)
    assert set(client.states("diamond.two", f"part__{first}")) == {
        "two.begin_transaction",
        "two.left",
        "two.commit_transaction",
    }
    assert diamond.called() == ["both", "left", "right", "source"]
    assert folder.tables() == {"one.source": 2, "two.left": 2, "three.right": 2, "four.both": 2}
    link = client.request("GET", f"/api/v2/dags/diamond/dagRuns/{quote(first)}/taskInstances/two/links")
    assert link["extra_links"]["Run of the stage"].endswith(f"/dags/diamond.two/runs/part__{quote(first, safe='')}")

    unchanged = diamond.run()
    assert client.states("diamond", unchanged) == dict.fromkeys(STAGES, "success")
    assert diamond.ran(unchanged) == set()
    link = client.request("GET", f"/api/v2/dags/diamond/dagRuns/{quote(unchanged)}/taskInstances/two/links")
    assert not link["extra_links"]["Run of the stage"]
    assert (diamond.called(), folder.live()) == ([], dict.fromkeys(STAGES, 1))

    diamond.write("2")
    changed = diamond.run()
    assert diamond.ran(changed) == {"two", "four"}
    assert (diamond.called(), diamond.version()) == (["both", "left"], "2")
    # Not which generations: each try of an operator that finds nothing to do has opened one.
    assert {stage for stage, live in folder.live().items() if live != 1} == {"two", "four"}

    diamond.write("3", "raise ZeroDivisionError('on purpose')")
    failing = diamond.run()
    states = {"one": "success", "two": "failed", "three": "success", "four": "upstream_failed"}
    assert client.states("diamond", failing) == states
    assert (diamond.part("two", failing), diamond.version()) == ("failed", "2")
    assert f"Stage two: run part__{failing} of the DAG diamond.two is failed" in diamond.log(failing, "two")
    folder.wait_until_free()

    diamond.write("3")
    diamond.called()
    diamond.clear(failing, "two")
    assert client.states("diamond", failing) == dict.fromkeys(STAGES, "success")
    assert diamond.part("two", failing) == "success"
    assert (diamond.called(), diamond.version()) == (["both", "left"], "3")

    part = diamond.run(select=["stage:three"], cache_validation_mode="force_cache_invalid")
    skipped = {"one": "skipped", "two": "skipped", "three": "success", "four": "skipped"}
    assert client.states("diamond", part) == skipped
    assert diamond.called() == ["right"]

    alone = client.trigger("diamond.two")
    assert client.wait_run("diamond.two", alone, timeout=240)["state"] == "success"
    assert client.states("diamond.two", alone)["two.left"] == "skipped"
    folder.wait_until_free()

    client.pause("diamond.two")
    diamond.write("4")
    waiting = client.trigger("diamond")
    folder.wait_task("diamond", waiting, "two", "deferred")
    told = eventually(lambda: [line for line in client.log("diamond", waiting, "two").splitlines() if "paused" in line])
    assert f"waits for run part__{waiting} of the DAG diamond.two, which is paused" in told[0]
    client.unpause("diamond.two")
    assert client.wait_run("diamond", waiting, timeout=240)["state"] == "success"
    assert diamond.version() == "4"
    folder.wait_until_free()


def test_a_part_that_is_cleared_marked_or_deleted_under_its_operator(flows: Callable[[str], FlowFolder]) -> None:
    diamond = SplitFlow(flows("facets"))
    client, folder = diamond.client, diamond.folder
    go = folder.data / "go"
    diamond.write("1", f"import time\n    while not Path({str(go)!r}).exists(): time.sleep(0.05)")
    run = eventually(lambda: [run["dag_run_id"] for run in diamond.runs("facets")])[0]
    part = f"part__{run}"
    eventually(lambda: diamond.part("two", run) == "running")
    eventually(lambda: "left" in folder_calls(folder))
    at_work = diamond.instance("facets.two", part, "two.left")

    # Cleared, the operator waits for what is at work.
    client.clear("facets", run, ["two"], downstream=True)
    diamond.wait_deferred(run, "two")
    assert diamond.instance("facets.two", part, "two.left") == at_work == ("running", 1)

    # Marked as done, it is not taken at its word.
    client.set_run_state("facets.two", part, "success")
    assert client.wait_run("facets", run, timeout=240)["state"] == "failed"
    assert client.states("facets", run)["four"] == "upstream_failed"
    assert "has not published 'two': somebody has marked it" in diamond.log(run, "two")
    go.touch()
    diamond.clear(run, "two")
    assert client.states("facets", run) == dict.fromkeys(STAGES, "success")
    assert diamond.version() == "1"

    # Deleted, it is not waited for.
    client.pause("facets.two")
    run = client.trigger("facets", {"select": ["stage:two"], "cache_validation_mode": "force_cache_invalid"})
    eventually(lambda: diamond.part("two", run) == "queued")
    diamond.wait_deferred(run, "two")
    client.request("DELETE", f"/api/v2/dags/facets.two/dagRuns/part__{run}")
    assert client.wait_run("facets", run, timeout=240)["state"] == "failed"
    assert f"run part__{run} of the DAG facets.two was deleted" in diamond.log(run, "two")
    client.pause("facets.two", False)
    diamond.clear(run, "two")
    assert client.states("facets", run)["two"] == "success"
    folder.wait_until_free()


HURRIED = """
import time
import polars as pl
from pathlib import Path
from pipedag_airflow import Flow, Stage, Table, materialize

HERE = Path("DATA")


def wait_for(name):
    while not (HERE / name).exists():
        time.sleep(0.05)


def called(name):
    with (HERE / "calls").open("a") as calls:
        calls.write(name + " ")


@materialize(version="VERSION")
def breaks():
    wait_for("slow")
    called("breaks")
    BODY
    return Table(pl.DataFrame({"x": [1]}), "broken")


@materialize(version="1")
def slow():
    called("slow")
    (HERE / "slow").touch()
    wait_for("go")
    return Table(pl.DataFrame({"x": [2]}), "slow")


@materialize(version="1", input_type=pl.DataFrame)
def later(table):
    called("later")
    return Table(table, "later")


with Flow("NAME", airflow={"split": "stage"}) as flow:
    with Stage("one"):
        breaks()
    with Stage("two"):
        later(slow())
"""


def test_after_a_failure_in_one_part_none_begins_a_task_if_the_run_is_to_fail_fast(
    flows: Callable[[str], FlowFolder],
) -> None:
    hurried = SplitFlow(flows("hurried"), HURRIED)
    client, folder = hurried.client, hurried.folder
    hurried.write("1", "raise ZeroDivisionError('on purpose')")

    run = client.trigger("hurried", {"fail_fast": True})
    folder.wait_task("hurried", run, "one", "failed")
    (folder.data / "go").touch()
    assert client.wait_run("hurried", run, timeout=240)["state"] == "failed"
    assert client.states("hurried", run) == {"one": "failed", "two": "failed"}
    part = client.states("hurried.two", f"part__{run}")
    assert (part["two.slow"], part["two.later"]) == ("success", "failed")
    log = client.log("hurried.two", f"part__{run}", "two.later", try_number=1)
    assert "two.later was not begun: one failed before" in log
    assert (hurried.called(), set(folder.live().values())) == (["breaks", "slow"], {None})
    folder.wait_until_free()

    # The next run takes over what was finished.
    hurried.write("2")
    again = hurried.run()
    assert client.states("hurried", again) == {"one": "success", "two": "success"}
    assert hurried.called() == ["breaks", "later"]
    assert folder.tables() == {"one.broken": 1, "two.slow": 1, "two.later": 1}
    folder.wait_until_free()


def folder_calls(folder: FlowFolder) -> str:
    """What has been called so far."""
    file = folder.data / "calls"
    return file.read_text() if file.exists() else ""
