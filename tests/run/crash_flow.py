"""Run by test_crashes.py as a process of its own: python crash_flow.py NUMBER FOLDER.

The environment variable PIPEDAG_CONFIG names the configuration.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import polars as pl

import pipedag_airflow.testing.crash_points  # noqa: F401 - its presence is what lets PIPEDAG_CRASH_POINT kill this process
from pipedag_airflow import Blob, Flow, Stage, Table, materialize

number = int(sys.argv[1])


@materialize(version="1")
def steady() -> Table[pl.DataFrame]:
    return Table(pl.DataFrame({"x": range(1000)}), "steady")


@materialize(version=str(number))
def one() -> Any:
    return Table(pl.DataFrame({"number": [number] * 1000}), "one").materialize()


@materialize(version="1", input_type=pl.DataFrame)
def two(table: pl.DataFrame) -> tuple[Table[pl.DataFrame], Blob[int]]:
    return Table(table, f"two_{number % 2}"), Blob(number, "number")


with Flow("crash") as flow, Stage("stage"):
    steady()
    two(one())

flow.run()
Path(sys.argv[2], "finished").write_text(str(number))
