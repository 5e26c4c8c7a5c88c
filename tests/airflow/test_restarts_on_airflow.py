"""Parts of Airflow die while a task is at work, and are started again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest
import sqlalchemy as sa
from looking import eventually

from pipedag_airflow.testing.supervisor import send_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from conftest import FlowAirflow, FlowFolder

pytestmark = pytest.mark.airflow

FLOW = """
import time
from datetime import timedelta
from pathlib import Path

import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize

data = Path("DATA")


@materialize(version="1")
def slow():
    with (data / "calls").open("a") as calls:
        calls.write("slow\\n")
    deadline = time.monotonic() + 240
    while not (data / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return Table(pl.DataFrame({"x": [1, 2, 3]}), "of_slow")


@materialize(version="1", input_type=pl.DataFrame)
def after(table):
    return Table(table, "of_after")


with Flow("NAME", airflow={"retries": 1, "retry_delay": 1}) as flow:
    with Stage("one"):
        made = slow()
    with Stage("two"):
        after(made)
"""


@pytest.fixture(scope="module")
def airflow(fresh_airflow: Callable[[dict[str, str]], AbstractContextManager[FlowAirflow]]) -> Iterator[FlowAirflow]:
    """An Airflow of its own: the runs of other tests are not to notice anything."""
    settings = {
        # How soon a scheduler takes another one for dead, and looks for what that one has left.
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    }
    with fresh_airflow(settings) as airflow:
        yield airflow


def calls(folder: FlowFolder) -> int:
    file = folder.data / "calls"
    return len(file.read_text().split()) if file.exists() else 0


def at_work(folder: FlowFolder) -> str:
    """Start a run, and wait until its first task is at work."""
    folder.write(FLOW.replace("DATA", str(folder.data)).replace("NAME", folder.name))
    run = folder.client.trigger(folder.name)
    eventually(lambda: calls(folder) == 1)
    return run


def published(folder: FlowFolder, run: str) -> bool:
    """Wait for the end of a run; say whether it is green and has published each stage once."""
    state = folder.client.wait_run(folder.name, run, timeout=240)["state"]
    folder.check_data()
    assert folder.tables() == {"one.of_slow": 3, "two.of_after": 3}
    return state == "success" and folder.live() == {"one": 1, "two": 1}


def kill(airflow: FlowAirflow, component: str) -> None:
    """Kill a component, but none of the processes that it has started, and wait until there is another one."""
    before = airflow.pids()[component]
    send_signal(signal.SIGKILL, [before])
    eventually(lambda: airflow.pids()[component] != before)


def pause_in_a_transaction(airflow: FlowAirflow, component: str) -> None:
    """Stop a component at a moment at which it has a transaction open."""
    pid = airflow.pids()[component]

    def stopped() -> bool:
        send_signal(signal.SIGSTOP, [pid])
        ports = [connection.laddr.port for connection in psutil.Process(pid).net_connections()]
        open_ones = sa.text("select client_port from pg_stat_activity where state = 'idle in transaction'")
        with airflow.database() as database:
            if set(ports).intersection(database.scalars(open_ones)):
                return True
        send_signal(signal.SIGCONT, [pid])
        return False

    eventually(stopped)


def test_a_scheduler_that_is_killed_leaves_a_run_that_the_next_one_brings_to_its_end(
    airflow: FlowAirflow, flows: Callable[[str], FlowFolder]
) -> None:
    folder = flows("rescheduled")
    run = at_work(folder)
    pause_in_a_transaction(airflow, "scheduler")
    kill(airflow, "scheduler")
    # Nobody has the LocalExecutor's tasks any more: Airflow tries it again, while the first try is still at work.
    eventually(lambda: calls(folder) == 2)
    (folder.data / "go").touch()

    assert published(folder, run)
    assert calls(folder) == 2


def test_an_api_server_that_is_killed_costs_a_task_that_ends_meanwhile_one_try_at_most(
    airflow: FlowAirflow, flows: Callable[[str], FlowFolder]
) -> None:
    folder = flows("reconnected")
    run = at_work(folder)
    kill(airflow, "api-server")
    (folder.data / "go").touch()

    assert published(folder, run)
    assert calls(folder) == 1, "if its end could not be told, its next try finds the result"
