"""A flow in the cells of a notebook."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CELLS = (
    """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize

@materialize(version="1")
def orders():
    return Table(pl.DataFrame({"price": [1, 2]}), "orders")

@materialize(version="1", input_type=pl.DataFrame)
def total(orders):
    return int(orders["price"].sum())

with Flow("shop") as flow:
    with Stage("raw"):
        sum_of_prices = total(orders())
""",
    "result = flow.run()",
    "print(result.get(sum_of_prices), result.task_states[sum_of_prices].name)",
)

NOTEBOOK = f"""
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in {(*CELLS, *CELLS[1:])!r}:
    shell.run_cell(cell).raise_error()
"""


def test_a_flow_of_a_cell_runs_in_the_next_one_and_is_valid_the_second_time(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", NOTEBOOK], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["3 COMPLETED", "3 CACHE_VALID"]
