"""What a parse of a flow costs, against the same DAG by hand: python bench/parse.py.

A flow of 1,000 tasks in 10 stages is wired and compiled to its DAG; beside it stands a DAG of plain operators with the
same groups, tasks and edges, written by hand. Airflow's DAG processor also serialises what it has parsed, the process
of a task does not: so the figures are without and with that. Two shapes, since each edge costs the hand-written DAG
more than ours: layers of ten tasks, and a chain, which has about the fewest edges that a DAG can have. Processor time,
medians of rounds in which the two alternate, in seconds; the ratios are what to compare.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())  # Airflow writes its configuration file where it is imported

from airflow.sdk import DAG, BaseOperator, TaskGroup
from airflow.serialization.serialized_objects import DagSerialization

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.provider.dag import compile_dag

if TYPE_CHECKING:
    from collections.abc import Callable

STAGES, TASKS, ROUNDS = 10, 100, 21
#: How many tasks before itself the two are that a task reads, by shape.
SHAPES = {"layers of ten": (10, 9), "a chain": (1, 2)}


@materialize(version="1.0")
def source(number: int) -> int:
    """Return a number."""
    return number


@materialize(version="1.0")
def add(*numbers: int) -> int:
    """Return a sum."""
    return sum(numbers)


def wired(far: int, near: int) -> Flow:
    """Return the flow: every task reads two before it, in its stage or in the one before."""
    made: list[Any] = []
    with Flow("large") as flow:
        for stage in range(STAGES):
            with Stage(f"stage_{stage}"):
                for number in range(TASKS):
                    reads = [made[-back] for back in (far, near) if back <= len(made)]
                    made.append(add(*reads) if len(reads) == 2 else source(number))
    return flow


def flow_dag(far: int, near: int) -> DAG:
    """Return the flow as a DAG."""
    return compile_dag(wired(far, near), {})


class StepOperator(BaseOperator):
    """An operator as one writes it: it takes what it is to do."""

    def __init__(self, *, step: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step


def hand_dag(groups: dict[str, list[str]], edges: list[tuple[str, str]]) -> DAG:
    """Return a DAG of plain operators.

    Args:
        groups: The ids of the operators, by stage.
        edges: Which operator comes directly before which.
    """
    operators = {}
    with DAG("by_hand", schedule=None) as dag:
        for stage, ids in groups.items():
            with TaskGroup(stage, prefix_group_id=False):
                for task_id in ids:
                    operators[task_id] = StepOperator(
                        task_id=task_id,
                        step=task_id,
                        trigger_rule="none_failed",
                        weight_rule="absolute",
                        doc_md="Return a sum.",
                    )
        for upstream, downstream in edges:
            operators[upstream] >> operators[downstream]
    return dag


def figures(far: int, near: int) -> tuple[int, list[tuple[str, float, float]]]:
    """Return the number of edges, and what a parse costs without and with serialisation, by us and by hand."""
    model = flow_dag(far, near)
    groups: dict[str, list[str]] = {f"stage_{stage}": [] for stage in range(STAGES)}
    for task in model.tasks:
        groups[task.task_id.partition(".")[0]].append(task.task_id)
    edges = [(task.task_id, after) for task in model.tasks for after in sorted(task.downstream_task_ids)]
    sides: list[Callable[[], DAG]] = [lambda: flow_dag(far, near), lambda: hand_dag(groups, edges)]
    parsed: list[list[float]] = [[], []]
    serialised: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for side, make in enumerate(sides):
            begin = time.process_time()
            dag = make()
            parsed[side].append(time.process_time() - begin)
            DagSerialization.to_dict(dag)
            serialised[side].append(time.process_time() - begin)
    rows = []
    for what, times in (("parse", parsed), ("parse and serialisation", serialised)):
        ours, hand = map(statistics.median, times)
        rows.append((what, ours, hand))
    return len(edges), rows


def seconds_of_a_plan(far: int, near: int) -> float:
    """Return what wiring the flow and compiling its plan costs, without Airflow."""
    times = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        wired(far, near).plan()
        times.append(time.process_time() - begin)
    return statistics.median(times)


def main() -> int:
    """Print the table."""
    logging.disable(logging.WARNING)
    print(f"{STAGES * TASKS:,} tasks in {STAGES} stages, medians of {ROUNDS}")
    print("                              the flow   by hand   ratio")
    for shape, back in SHAPES.items():
        edges, rows = figures(*back)
        print(f"  {shape}, {edges:,} edges")
        print(f"    {'wiring and plan':24} {seconds_of_a_plan(*back):8.3f}")
        for what, ours, hand in rows:
            print(f"    {what:24} {ours:8.3f} {hand:9.3f} {ours / hand:7.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
