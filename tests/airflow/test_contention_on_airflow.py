"""Many runs that want one stage, and steps of one run that happen twice, or again in its middle."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from looking import eventually

from pipedag_airflow.testing.supervisor import send_signal

if TYPE_CHECKING:
    from collections.abc import Callable

    import sqlalchemy as sa
    from conftest import FlowFolder

    from pipedag_airflow.testing.zookeeper import Ensemble

pytestmark = pytest.mark.airflow

FLOW = """
import os
import time
from pathlib import Path

import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize

data = Path("DATA")


@materialize(version="1")
def fast():
    with (data / "calls").open("a") as calls:
        calls.write("fast\\n")
    return Table(pl.DataFrame({"x": [1, 2]}), "of_fast")


@materialize(version="1")
def slow():
    with (data / "calls").open("a") as calls:
        calls.write("slow\\n")
    deadline = time.monotonic() + 240
    while not (data / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return Table(pl.DataFrame({"x": [1, 2, 3]}), "of_slow")


with Flow("NAME") as flow, Stage("stage"):
    fast()
    slow()

dag = flow.to_dag(max_active_runs=16)
"""

#: Another process that executes a task of the run, as one does that Airflow takes for dead.
ZOMBIE = """
import runpy
import sys
from types import SimpleNamespace

from airflow.sdk.exceptions import AirflowSkipException

file, dag_id, run_id, task_id = sys.argv[1:]
dag = runpy.run_path(file, run_name=dag_id)["dag"]
instance = SimpleNamespace(dag_id=dag_id, run_id=run_id, task_id=task_id, try_number=1, max_tries=0)
instance.xcom_push = print
try:
    dag.get_task(task_id).execute({"ti": instance, "params": dag.params})
except AirflowSkipException as signal:
    print(signal)
"""


def write(folder: FlowFolder) -> None:
    folder.write(FLOW.replace("DATA", str(folder.data)).replace("NAME", folder.name))


def calls(folder: FlowFolder) -> list[str]:
    file = folder.data / "calls"
    return file.read_text().split() if file.exists() else []


def queue(folder: FlowFolder, *, since: float) -> list[str]:
    """The runs that wait for the stage and have asked for it since a moment, in their order."""
    with folder.config().create_lock_manager() as locks:
        tickets = locks._read("stage").tickets
    return [ticket.owner.run_id for ticket in tickets if ticket.refreshed > since]


def kill_with_children(pid: int) -> None:
    """Kill a process, and it before its children: it must not end by itself."""
    children = psutil.Process(pid).children(recursive=True)
    send_signal(signal.SIGKILL, [pid, *(child.pid for child in children)])


def in_files(folder: FlowFolder, request: pytest.FixtureRequest) -> None:
    """Keep the leases in files, as all flows of these tests do."""
    del folder, request


def in_postgres(folder: FlowFolder, request: pytest.FixtureRequest) -> None:
    url: sa.URL = request.getfixturevalue("postgres_url")
    folder.configure(
        table_store={
            "class": "pipedag_airflow.backend.table.SQLTableStore",
            "args": {"url": url.render_as_string(hide_password=False)},
        },
        lock_manager={"class": "pipedag_airflow.backend.lock.DatabaseLockManager"},
    )


def in_zookeeper(folder: FlowFolder, request: pytest.FixtureRequest) -> None:
    server: Ensemble = request.getfixturevalue("zookeeper_server")
    folder.configure(
        lock_manager={"class": "pipedag_airflow.backend.lock.ZooKeeperLockManager", "args": {"hosts": server.hosts}}
    )


@pytest.mark.parametrize(("leases", "crowd"), [(in_files, 10), (in_postgres, 3), (in_zookeeper, 3)])
def test_runs_wait_in_order_without_a_slot_also_when_the_triggerer_is_killed(
    flows: Callable[[str], FlowFolder],
    request: pytest.FixtureRequest,
    leases: Callable[[FlowFolder, pytest.FixtureRequest], None],
    crowd: int,
) -> None:
    name = f"crowd_{leases.__name__}"
    folder = flows(name)
    leases(folder, request)
    write(folder)
    client = folder.client
    holder = client.trigger(name)
    for node, state in (("fast", "success"), ("slow", "running")):
        folder.wait_task(name, holder, f"stage.{node}", state)

    waiting = [client.trigger(name) for _ in range(crowd)]
    for run in waiting:
        folder.wait_task(name, run, "stage.begin_transaction", "deferred")
    pool = client.request("GET", "/api/v2/pools/default_pool")
    assert (pool["running_slots"], pool["queued_slots"], pool["deferred_slots"]) == (1, 0, crowd)
    deferred = time.time()
    eventually(lambda: len(queue(folder, since=deferred)) == len(waiting))
    order = queue(folder, since=deferred)
    assert sorted(order) == sorted(f"airflow:{name}/{run}" for run in waiting)

    kill_with_children(folder.airflow.pids()["triggerer"])
    killed = time.time()
    # Another triggerer keeps their places, or gives them back if they were lost in between.
    eventually(lambda: queue(folder, since=killed) == order)
    # Nobody waits for a run that is over.
    first, second, third, *later = (run.removeprefix(f"airflow:{name}/") for run in order)
    for run in (first, *later):
        client.set_run_state(name, run, "failed")
    others = (second, third)
    (folder.data / "go").touch()

    for run in others:
        assert folder.finished(run).skipped >= {"stage.fast", "stage.slow"}
    with folder.config().table_store.transaction() as transaction:
        begun = [generation.run_id for generation in transaction.metadata.generations(stage="stage")]
    assert begun == [f"airflow:{name}/{run}" for run in (holder, *others)]
    assert calls(folder).count("slow") == 1
    assert folder.tables() == {"stage.of_fast": 2, "stage.of_slow": 3}


def test_steps_that_are_cleared_in_mid_run_or_happen_twice_make_one_result(flows: Callable[[str], FlowFolder]) -> None:
    folder = flows("cleared")
    write(folder)
    client = folder.client
    run = client.trigger("cleared")

    def wait_try(node: str, state: str, try_number: int) -> None:
        def reached() -> bool:
            task = next(task for task in client.task_instances("cleared", run) if task["task_id"] == f"stage.{node}")
            return (task["state"], task["try_number"]) == (state, try_number)

        eventually(reached)

    wait_try("fast", "success", 1)
    wait_try("slow", "running", 1)
    client.clear("cleared", run, ["stage.begin_transaction"])
    wait_try("begin_transaction", "success", 2)
    client.clear("cleared", run, ["stage.fast"])
    wait_try("fast", "success", 2)
    assert sorted(calls(folder)) == ["fast", "fast", "slow"]

    everything = [f"stage.{node}" for node in ("begin_transaction", "fast", "slow", "commit_transaction")]
    client.clear("cleared", run, everything)
    wait_try("slow", "running", 2)
    file = folder.folder / "cleared.py"
    command = [sys.executable, "-c", ZOMBIE, str(file), "cleared", run, "stage.slow"]
    with subprocess.Popen(command, env=folder.airflow.environ(), stderr=subprocess.PIPE) as zombie:
        eventually(lambda: calls(folder).count("slow") == 3 or zombie.poll() is not None)
        (folder.data / "go").touch()
        _, errors = zombie.communicate(timeout=120)
    assert zombie.returncode == 0, errors.decode()

    assert client.wait_run("cleared", run, timeout=240)["state"] == "success"
    # Begin found that the run had made it.
    assert client.states("cleared", run)["stage.fast"] == "skipped"
    assert folder.tables() == {"stage.of_fast": 2, "stage.of_slow": 3}
    assert folder.query("select count(*) from pipedag_metadata.generation where state = 'published'") == [(1,)]
