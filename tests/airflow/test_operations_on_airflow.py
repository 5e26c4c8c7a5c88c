"""What Airflow and its users do to runs: the rows of docs/operations.md that are not told elsewhere."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import pytest
import sqlalchemy as sa
from looking import eventually

from pipedag_airflow.testing.supervisor import send_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from conftest import FlowFolder

pytestmark = pytest.mark.airflow

# Files in the data folder say what becomes of calls: `hold_x_2` keeps the second one of task x at work, `break_x` lets
# all of them fail. Each call tells the process that it is in.
FLOW = """
import os
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize

data = Path("DATA")


def call(name):
    with (data / "calls").open("a") as calls:
        calls.write(f"{name}\\n")
    number = (data / "calls").read_text().split().count(name)
    (data / f"pid_{name}_{number}").write_text(str(os.getpid()))
    deadline = time.monotonic() + 240
    while (data / f"hold_{name}_{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if (data / f"break_{name}").exists():
        raise ZeroDivisionError("on purpose")
    return number


@materialize(version="1")
def other():
    return Table(pl.DataFrame({"other": [call("other")]}), "other")


@materialize(version="VERSION")
def source():
    return Table(pl.DataFrame({"source": [call("source")]}), "source")


@materialize(version="1", input_type=pl.DataFrame)
def made(table):
    return Table(table.with_columns(made=pl.lit(call("made"))), "made")


@materialize(version="1", input_type=pl.DataFrame)
def report(table):
    return Table(table.with_columns(report=pl.lit(call("report"))), "report")


with Flow("NAME") as flow:
    with Stage("raw"):
        other()
        table = made(source())
        EXTRA
    with Stage("mart"):
        report(table)

dag = flow.to_dag(ARGUMENTS)
"""

TABLES = ("raw.other", "raw.source", "raw.made", "mart.report")
RAW = ("begin_transaction", "other", "source", "made", "commit_transaction")


class Operated:
    """A flow of two stages, and what happens to its runs."""

    def __init__(self, folder: FlowFolder, arguments: str = "") -> None:
        self.folder = folder
        self.client = folder.client
        self.name = folder.name
        self.arguments = arguments
        self._heard = 0

    def write(self, version: str = "1", extra: str = "pass") -> None:
        text = FLOW.replace("DATA", str(self.folder.data)).replace("NAME", self.name).replace("VERSION", version)
        self.folder.write(text.replace("ARGUMENTS", self.arguments).replace("EXTRA", extra))

    def held_up(self, task: str, number: int) -> str:
        """Start a run in which the call of a task goes on until it is let go; wait until nothing else is at work."""
        (self.folder.data / f"hold_{task}_{number}").touch()
        run = self.start()
        eventually(lambda: (self.folder.data / f"pid_{task}_{number}").exists())
        eventually(lambda: self.states(run)["raw.other"] in ("success", "skipped"))
        return run

    def let_go(self, task: str, number: int) -> None:
        (self.folder.data / f"hold_{task}_{number}").unlink()

    def process(self, task: str, number: int) -> psutil.Process:
        """The process that a call of a task is in; its parent is the one that reports to Airflow."""
        return psutil.Process(int((self.folder.data / f"pid_{task}_{number}").read_text()))

    def start(self) -> str:
        return self.client.trigger(self.name)

    def wait(self, run: str, node: str, state: str) -> None:
        self.folder.wait_task(self.name, run, node, state)

    def ends(self, *runs: str) -> set[str]:
        """Wait for the end of all runs that are at work; whatever it was, the data and the metadata agree."""
        states = {str(self.client.wait_run(self.name, run, timeout=240)["state"]) for run in runs}
        self.folder.check_data()
        return states

    def end(self, run: str) -> str:
        """Wait for the end of the only run that is at work."""
        (state,) = self.ends(run)
        return state

    def clear(self, run: str, *nodes: str, downstream: bool = False) -> str:
        self.client.clear(self.name, run, nodes, downstream=downstream)
        return self.end(run)

    def delete(self, run: str) -> None:
        self.client.request("DELETE", f"/api/v2/dags/{self.name}/dagRuns/{quote(run)}")

    def runs(self) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.client.request("GET", f"/api/v2/dags/{self.name}/dagRuns")["dag_runs"]
        return runs

    def states(self, run: str) -> dict[str, str | None]:
        return self.client.states(self.name, run)

    def log(self, run: str, node: str) -> str:
        """The log of the newest try."""
        tries = {task["task_id"]: task["try_number"] for task in self.client.task_instances(self.name, run)}
        return self.client.log(self.name, run, node, try_number=tries[node])

    def called(self) -> list[str]:
        """The calls since this was asked last, sorted."""
        file = self.folder.data / "calls"
        calls = file.read_text().split() if file.exists() else []
        heard, self._heard = self._heard, len(calls)
        return sorted(calls[heard:])

    def shown(self) -> dict[str, tuple[Any, ...]]:
        """What readers see: of which calls the tables are."""
        there = self.folder.tables()
        return {table: self.folder.query(f"select * from {table}")[0] for table in TABLES if table in there}


def kill(*pids: int) -> None:
    send_signal(signal.SIGKILL, pids)


@pytest.fixture(scope="module")
def operated(flows: Callable[[str], FlowFolder]) -> Callable[..., Operated]:
    def make(name: str, arguments: str = "", version: str = "1") -> Operated:
        flow = Operated(flows(name), arguments)
        flow.write(version)
        return flow

    return make


def raw(labels: Iterable[str]) -> list[str]:
    return [f"raw.{label}" for label in labels]


def test_what_is_cleared_when_the_run_is_over(operated: Callable[..., Operated]) -> None:
    flow = operated("over")
    run = flow.start()
    assert flow.end(run) == "success"
    assert flow.called() == ["made", "other", "report", "source"]
    assert flow.shown() == {"raw.other": (1,), "raw.source": (1,), "raw.made": (1, 1), "mart.report": (1, 1, 1)}

    # A task that no other one of its stage reads.
    flow.clear(run, "raw.other")
    assert flow.called() == ["other"]
    assert flow.shown() == {"raw.other": (2,), "raw.source": (1,), "raw.made": (1, 1), "mart.report": (1, 1, 1)}
    log = flow.log(run, "raw.other")
    assert "Stage raw: this run was over with it. It is open again, as generation 2, for raw.other" in log
    assert "Stage raw: its commit was not cleared with raw.other, so it is published here" in log

    # One that others of its stage read.
    flow.clear(run, "raw.source")
    assert flow.states(run)["raw.source"] == "failed"
    assert "Task 'raw.source' was cleared alone, but raw.made of the same stage would" in flow.log(run, "raw.source")
    assert flow.called() == []
    assert flow.folder.live() == {"raw": 2, "mart": 1}

    # Steps that find nothing to do.
    for nodes in (["begin_transaction"], ["commit_transaction"], RAW):
        flow.clear(run, *raw(nodes))
        assert flow.called() == []
    assert flow.folder.live() == {"raw": 2, "mart": 1}

    # Several tasks, but not the commit.
    flow.clear(run, *raw(["other", "source", "made"]))
    assert flow.called() == ["made", "other", "source"]
    assert flow.shown() == {"raw.other": (3,), "raw.source": (2,), "raw.made": (2, 2), "mart.report": (1, 1, 1)}

    # All that follows, as Airflow proposes.
    flow.clear(run, "raw.source", downstream=True)
    assert flow.called() == ["made", "report", "source"]
    assert flow.shown() == {"raw.other": (3,), "raw.source": (3,), "raw.made": (3, 3), "mart.report": (3, 3, 2)}

    # Begin alone, when there is something to do.
    flow.write("2")
    before = flow.shown()
    flow.clear(run, "raw.begin_transaction")
    assert flow.states(run)["raw.begin_transaction"] == "failed"
    assert "raw.source, raw.made would have to run, but was not cleared" in flow.log(run, "raw.begin_transaction")
    assert flow.called() == []
    assert flow.shown() == before

    # A later run has published since; the first one is cleared as a whole, and then deleted.
    assert flow.end(flow.start()) == "success"
    assert flow.called() == ["made", "report", "source"]
    before = flow.shown()
    assert flow.clear(run, *flow.states(run)) == "success"
    assert flow.called() == []
    flow.delete(run)
    assert flow.end(flow.start()) == "success"
    assert flow.called() == []
    assert flow.shown() == before


def test_a_run_that_is_marked_publishes_nothing_and_the_next_one_goes_on(operated: Callable[..., Operated]) -> None:
    flow = operated("marked")
    for number, state in ((1, "success"), (3, "failed")):
        flow.write(str(number))
        run = flow.held_up("made", number)
        before = flow.shown()
        flow.client.set_run_state(flow.name, run, state)
        assert flow.client.run(flow.name, run)["state"] == state
        assert flow.shown() == before

        assert flow.end(flow.start()) == "success"
        assert flow.shown()["raw.made"] == (number // 2 + 1, number + 1)
        eventually(lambda number=number: not alive(flow, number))
        assert flow.client.run(flow.name, run)["state"] == state
    assert flow.called() == ["made"] * 4 + ["other"] + ["report"] * 2 + ["source"] * 2


def alive(flow: Operated, number: int) -> bool:
    return psutil.pid_exists(int((flow.folder.data / f"pid_made_{number}").read_text()))


def test_what_is_marked_as_done_but_is_not_stops_the_run(operated: Callable[..., Operated]) -> None:
    flow = operated("believed")
    run = flow.held_up("made", 1)
    flow.client.set_task_state(flow.name, run, "raw.made", "success")
    assert flow.end(run) == "failed"
    assert flow.states(run)["raw.commit_transaction"] == "failed"
    assert "task 'raw.made' is pending in generation 1" in flow.log(run, "raw.commit_transaction")
    assert flow.shown() == {}

    flow.client.set_task_state(flow.name, run, "raw.commit_transaction", "success")
    assert flow.clear(run, "mart.begin_transaction", downstream=True) == "failed"
    assert flow.states(run)["mart.begin_transaction"] == "failed"
    log = flow.log(run, "mart.begin_transaction")
    assert "'mart' would read 'raw', which this run has not published" in log
    assert "Airflow shows raw.commit_transaction as done" in log
    assert flow.shown() == {}

    assert flow.clear(run, "raw.made", downstream=True) == "success"
    assert flow.called() == ["made", "made", "other", "report", "source"]
    assert flow.shown() == {"raw.other": (1,), "raw.source": (1,), "raw.made": (1, 2), "mart.report": (1, 2, 1)}


RETRIES = 'default_args={"retries": 5, "retry_delay": timedelta(seconds=1), "retry_exponential_backoff": True}'


def test_a_task_that_fails_or_is_killed_is_retried_and_the_stage_is_kept(operated: Callable[..., Operated]) -> None:
    flow = operated("retried", RETRIES + ", max_active_runs=2")
    (flow.folder.data / "break_report").touch()
    run = flow.held_up("made", 1)
    second = flow.start()
    flow.wait(second, "raw.begin_transaction", "deferred")
    kill(flow.process("made", 1).pid)
    eventually(lambda: flow.states(run)["mart.report"] == "up_for_retry")
    assert flow.states(second)["raw.begin_transaction"] == "deferred"
    (flow.folder.data / "break_report").unlink()

    assert flow.ends(run, second) == {"success"}
    called = flow.called()
    assert [name for name in called if name != "report"] == ["made", "made", "other", "source"]
    assert flow.shown()["mart.report"] == (1, 2, called.count("report"))
    assert flow.folder.live() == {"raw": 1, "mart": 1}


def test_a_run_whose_worker_was_killed_loses_its_stage_and_what_is_left_of_it_changes_nothing(
    operated: Callable[..., Operated],
) -> None:
    flow = operated("lost")
    run = flow.held_up("made", 1)
    left = flow.process("made", 1)
    kill(left.ppid())
    forget_heartbeats(flow, run)
    assert flow.end(run) == "failed"
    assert flow.states(run)["raw.made"] == "failed"

    assert flow.end(flow.start()) == "success"
    assert flow.called() == ["made", "made", "other", "report", "source"]
    shown = {"raw.other": (1,), "raw.source": (1,), "raw.made": (1, 2), "mart.report": (1, 2, 1)}
    assert flow.shown() == shown
    assert left.is_running()
    flow.let_go("made", 1)
    eventually(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
    assert flow.shown() == shown
    assert flow.folder.live() == {"raw": 2, "mart": 1}


def forget_heartbeats(flow: Operated, run: str) -> None:
    """Let Airflow have heard nothing of the tasks of a run for an hour."""
    forget = sa.text(
        "update task_instance set last_heartbeat_at = last_heartbeat_at - interval '1 hour' "
        "where run_id = :run and state = 'running'"
    )
    with flow.folder.airflow.database() as connection:
        assert connection.execute(forget, {"run": run}).rowcount == 1


def test_a_run_that_is_deleted_in_its_middle_gives_its_stage_to_the_next_one(operated: Callable[..., Operated]) -> None:
    flow = operated("deleted")
    run = flow.held_up("made", 1)
    flow.client.set_run_state(flow.name, run, "failed")
    flow.delete(run)
    assert flow.end(flow.start()) == "success"
    assert flow.called() == ["made", "made", "other", "report", "source"]
    assert flow.shown() == {"raw.other": (1,), "raw.source": (1,), "raw.made": (1, 2), "mart.report": (1, 2, 1)}


def test_a_run_whose_flow_was_rewired_stops_and_the_next_one_takes_over_what_it_had_made(
    operated: Callable[..., Operated],
) -> None:
    flow = operated("rewired")
    run = flow.held_up("made", 1)
    flow.write(extra="made(table)")
    flow.let_go("made", 1)
    assert flow.end(run) == "failed"
    assert flow.shown() == {}
    failed = [node for node, state in flow.states(run).items() if state == "failed"]
    log = "".join(flow.log(run, node) for node in failed)
    assert "FlowChangedError: The flow 'rewired' was changed after this run began: the first difference is" in log
    assert "'raw.made__2'" in log

    flow.write()
    assert flow.end(flow.start()) == "success"
    assert flow.called() == ["made", "other", "report", "source"]


def test_days_of_a_backfill_wait_for_each_other_and_what_one_has_made_is_valid_for_the_others(
    operated: Callable[..., Operated],
) -> None:
    flow = operated("filled", 'schedule="@daily", max_active_runs=3')
    days = {"from_date": "2025-03-01T00:00:00Z", "to_date": "2025-03-03T00:00:00Z", "max_active_runs": 3}
    asked = {"dag_id": flow.name, "run_backwards": False, "dag_run_conf": {}}
    flow.client.request("POST", "/api/v2/backfills", {**asked, **days, "reprocess_behavior": "none"})
    runs = [f"backfill__2025-03-0{day}T00:00:00+00:00" for day in (1, 2, 3)]
    eventually(lambda: set(runs) <= {run["dag_run_id"] for run in flow.runs()})
    assert flow.ends(*runs) == {"success"}
    assert flow.called() == ["made", "other", "report", "source"]
    assert flow.folder.live() == {"raw": 1, "mart": 1}
