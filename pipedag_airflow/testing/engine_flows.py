"""The flows that the suite of engines runs; another process imports their tasks from here."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl

from pipedag_airflow.core.containers import Blob, Table
from pipedag_airflow.core.flow import Flow
from pipedag_airflow.core.materialize import materialize
from pipedag_airflow.core.stage import Stage

__all__ = [
    "OwnError",
    "StubbornError",
    "deadly_flow",
    "failing_flow",
    "fails",
    "meeting_flow",
    "number",
    "process_flow",
    "two_stages",
    "whole_flow",
]

_PATIENCE = 60.0


class OwnError(Exception):
    """What a task of the user's raises."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class StubbornError(Exception):
    """What no other process can have: it cannot be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("it stays where it is")


@materialize(version="1")
def orders() -> Table[Any]:
    """A table."""
    return Table(pl.DataFrame({"customer": [1, 1, 2], "amount": [10, 20, 5]}), "orders", primary_key=["amount"])


@materialize(version="1", nout=2)
def constants(rate: float) -> tuple[dict[str, float], Blob[Any]]:
    """A value and a blob."""
    return {"rate": rate}, Blob({"model": rate}, "model")


@materialize(version="1", input_type=pl.DataFrame)
def scaled(orders: pl.DataFrame, constants: dict[str, float], model: dict[str, float]) -> Table[Any]:
    """A table that is made of a table, a value and a blob."""
    factor = constants["rate"] + model["model"]
    return Table(orders.with_columns(pl.col("amount") * factor), "scaled")


@materialize(version="1", input_type=pl.DataFrame)
def total(*tables: pl.DataFrame) -> float:
    """A number."""
    return float(sum(table["amount"].sum() for table in tables))


@materialize(input_type=pl.DataFrame)
def always(table: pl.DataFrame) -> int:
    """A task without a version."""
    return table.height


def whole_flow(rate: float = 2.0) -> Flow:
    """Tables, values, blobs, a nested stage, a duplicate call, and a task that always runs."""
    with Flow("whole") as flow:
        with Stage("raw"):
            table = orders()
            value, model = constants(rate)
        with Stage("outer"):
            outer = scaled(table, value, model)
            with Stage("inner"):
                inner = scaled(outer, value, model)
                twin = orders()
            total(outer, inner, twin)
        with Stage("report"):
            total(inner)
            always(table)
    return flow


@materialize(version="1")
def fails(code: int) -> int:
    """A task that fails."""
    raise OwnError(code, "as it must")


@materialize(version="1")
def fails_stubbornly() -> int:
    """A task that fails with what cannot be pickled."""
    raise StubbornError("it was me")


@materialize(version="1")
def number(value: Any, after: Any = None) -> Any:
    """A task that does not fail."""
    del after
    return value


def failing_flow(*, stubborn: bool = False) -> Flow:
    """A stage that is over before another one fails, and what depends on that, or does not."""
    with Flow("failing") as flow:
        with Stage("before"):
            first = number(1)
        with Stage("broken"):
            bad = fails_stubbornly() if stubborn else fails(7)
            number(2, after=first)
            number(3, after=bad)
        with Stage("behind"):
            number(4, after=bad)
            number(5, after=first)
        with Stage("beside"):
            number(6, after=first)
    return flow


@materialize(version="1")
def meets(folder: str, name: str, others: list[str]) -> str:
    """A task that ends when others have begun."""
    Path(folder, name).touch()
    deadline = time.monotonic() + _PATIENCE
    while not all(Path(folder, other).exists() for other in others):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} runs alone")
        time.sleep(0.01)
    return name


def meeting_flow(folder: Path) -> Flow:
    """Two tasks of a stage, and one of another stage, each of which waits for the others."""
    names = ["a", "b", "c"]
    with Flow("meeting") as flow:
        for stage, members in (("one", names[:2]), ("two", names[2:])):
            with Stage(stage):
                for name in members:
                    meets(str(folder), name, names)
    return flow


def two_stages(folder: Path) -> Flow:
    """Two stages that have nothing to do with each other; the second one leaves a mark."""
    with Flow("two") as flow:
        with Stage("first"):
            number(1)
        with Stage("second"):
            meets(str(folder), "second", [])
    return flow


@materialize(version="1")
def dies_once(folder: str) -> int:
    """A task whose process is killed, at the first try."""
    mark = Path(folder, "died")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


def deadly_flow(folder: Path) -> Flow:
    """A task whose process is killed, beside one that is over before, and one that is independent."""
    with Flow("deadly") as flow:
        with Stage("before"):
            first = number(1)
        with Stage("stage"):
            dies_once(str(folder))
            number(2, after=first)
        with Stage("beside"):
            number(3, after=first)
    return flow


@materialize(version="1")
def process_id() -> int:
    """The process that executes it."""
    return os.getpid()


def process_flow() -> Flow:
    """A flow that tells which process has executed its task."""
    with Flow("process") as flow, Stage("stage"):
        process_id()
    return flow
