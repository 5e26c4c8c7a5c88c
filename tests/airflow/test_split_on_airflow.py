"""A flow with a DAG for each stage, on the real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

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


with Flow("diamond", airflow={"split": "stage"}) as flow:
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


class Diamond:
    """The flow, and what its runs do."""

    def __init__(self, folder: FlowFolder) -> None:
        self.folder, self.client = folder, folder.client

    def write(self, version: str, body: str = "pass") -> None:
        text = DIAMOND.replace("DATA", str(self.folder.data)).replace("VERSION", version).replace("BODY", body)
        self.folder.write(text)

    def run(self, **conf: object) -> str:
        run = self.client.trigger("diamond", conf)
        self.client.wait_run("diamond", run, timeout=240)
        return run

    def clear(self, run: str, *stages: str) -> None:
        self.client.clear("diamond", run, stages, downstream=True)
        self.client.wait_run("diamond", run, timeout=240)

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
        runs = self.client.request("GET", f"/api/v2/dags/diamond.{stage}/dagRuns?limit=100")["dag_runs"]
        return next((found["state"] for found in runs if found["dag_run_id"] == run), None)

    def version(self) -> str:
        ((version,),) = set(self.folder.query("select version from four.both"))
        return str(version)


def test_first_unchanged_changed_failing_cleared_and_a_part(flows: Callable[[str], FlowFolder]) -> None:
    diamond = Diamond(flows("diamond"))
    client, folder = diamond.client, diamond.folder
    diamond.write("1")
    first = diamond.run()
    assert client.states("diamond", first) == dict.fromkeys(STAGES, "success")
    assert diamond.ran(first) == set(STAGES)
    assert set(client.states("diamond.two", first)) == {"two.begin_transaction", "two.left", "two.commit_transaction"}
    assert diamond.called() == ["both", "left", "right", "source"]
    assert folder.tables() == {"one.source": 2, "two.left": 2, "three.right": 2, "four.both": 2}
    link = client.request("GET", f"/api/v2/dags/diamond/dagRuns/{quote(first)}/taskInstances/two/links")
    assert link["extra_links"]["Run of the stage"].endswith(f"/dags/diamond.two/runs/{quote(first, safe='')}")

    unchanged = diamond.run()
    assert client.states("diamond", unchanged) == dict.fromkeys(STAGES, "success")
    assert diamond.ran(unchanged) == set()
    assert (diamond.called(), folder.live()) == ([], dict.fromkeys(STAGES, 1))

    diamond.write("2")
    changed = diamond.run()
    assert diamond.ran(changed) == {"two", "four"}
    assert (diamond.called(), diamond.version()) == (["both", "left"], "2")
    assert folder.live() == {"one": 1, "two": 3, "three": 1, "four": 3}  # the unchanged run had opened the second

    diamond.write("3", "raise ZeroDivisionError('on purpose')")
    failing = diamond.run()
    states = {"one": "success", "two": "failed", "three": "success", "four": "upstream_failed"}
    assert client.states("diamond", failing) == states
    assert (diamond.part("two", failing), diamond.version()) == ("failed", "2")
    log = client.log("diamond", failing, "two", try_number=1)
    assert f"Stage two: run {failing} of the DAG diamond.two is failed" in log
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
