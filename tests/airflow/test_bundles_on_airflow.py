"""A run keeps the code that it began with, on the real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowFolder

pytestmark = pytest.mark.airflow

GATED = """
import time
from pathlib import Path
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize
def first():
    deadline = time.monotonic() + 120
    while not Path("GO").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return Table(pl.DataFrame({"word": ["WORD"]}), "first")


@materialize(input_type=pl.DataFrame)
def second(table):
    return Table(table.with_columns(other=pl.lit("WORD")), "second")


with Flow("snapshot") as flow:
    with Stage("words"):
        second(first())
"""


def test_a_task_whose_function_was_changed_in_the_middle_of_a_run_is_what_it_was_at_its_start(
    snapshots: Callable[[str], FlowFolder],
) -> None:
    folder = snapshots("snapshot")
    go = folder.data / "go"

    def write(word: str) -> None:
        folder.write(GATED.replace("GO", str(go)).replace("WORD", word))

    write("old")
    run_id = folder.client.trigger("snapshot")
    folder.wait_task("snapshot", run_id, "words.first", "running")
    write("new")
    go.touch()
    run = folder.finished(run_id)
    assert run.state == "success"
    assert folder.query("select word, other from words.second") == [("old", "old")]

    assert folder.run().state == "success"
    assert folder.query("select word, other from words.second") == [("new", "new")]
