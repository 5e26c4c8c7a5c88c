"""DAG runs that would wait for each other for ever, through stages in which something has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.backend.metadata import GenerationState

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowFolder

pytestmark = pytest.mark.airflow

FLOW = """
import time
from pathlib import Path

import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize

data = Path("DATA")


@materialize(version="1")
def fails():
    raise ValueError("as it is to be")


@materialize(version="1")
def waits():
    deadline = time.monotonic() + 240
    while not (data / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return 1


@materialize(version="NAME")
def made(number):
    return Table(pl.DataFrame({"x": [number]}), "made")


with Flow("NAME") as flow:
    with Stage("FIRST"):
        fails()
    with Stage("gate_of_NAME"):
        number = waits()
    with Stage("SECOND"):
        made(number)
"""


def test_of_two_runs_that_each_failed_in_the_stage_that_the_other_wants_one_gives_up_and_the_other_goes_on(
    flows: Callable[[str], FlowFolder],
) -> None:
    folder = flows("circle")
    client = folder.client
    wanted = {"forth": ("a", "b"), "back": ("b", "a")}
    for name, (first, second) in wanted.items():
        text = FLOW.replace("DATA", str(folder.data)).replace("NAME", name)
        folder.write(text.replace("FIRST", first).replace("SECOND", second), flow=name)
    runs = {name: client.trigger(name) for name in wanted}
    for name, (first, _) in wanted.items():
        folder.wait_task(name, runs[name], f"{first}.commit_transaction", "upstream_failed")
        folder.wait_task(name, runs[name], f"gate_of_{name}.waits", "running")
    (folder.data / "go").touch()

    begins = {}
    for name, (_, second) in wanted.items():
        assert client.wait_run(name, runs[name], timeout=240)["state"] == "failed"
        begins[name] = client.states(name, runs[name])[f"{second}.begin_transaction"]
    assert sorted(begins.values()) == ["failed", "success"]
    (given_up,) = (name for name, state in begins.items() if state == "failed")
    (gone_on,) = wanted.keys() - {given_up}

    second = wanted[given_up][1]
    task_id = f"{second}.begin_transaction"
    begin = next(task for task in client.task_instances(given_up, runs[given_up]) if task["task_id"] == task_id)
    log = client.log(given_up, runs[given_up], task_id, try_number=begin["try_number"])
    assert f"DeadlockError: Run airflow:{given_up}/{runs[given_up]} can never have stage '{second}'" in log
    assert f"airflow:{gone_on}/{runs[gone_on]}" in log
    assert f"pipedag-airflow locks break {second}" in log

    published = wanted[gone_on][1]
    assert folder.tables() == {f"{published}.made": 1}
    with folder.config().table_store.transaction() as transaction:
        generations = transaction.metadata.generations(stage=published)
    (live,) = [one.run_id for one in generations if one.state is GenerationState.PUBLISHED]
    assert live == f"airflow:{gone_on}/{runs[gone_on]}"
    folder.wait_until_free()
