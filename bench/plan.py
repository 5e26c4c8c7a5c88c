"""How long compiling a flow takes: python bench/plan.py.

A flow of 1,000 tasks in 10 stages is wired and compiled to its plan, and then to its DAG; beside it stands the same DAG
of plain Airflow operators, written by hand. Best of several rounds, in seconds; the ratio is what to compare.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp())  # Airflow writes its configuration file where it is imported

from pipedag_airflow import Flow, Stage, materialize

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import DAG

STAGES, TASKS, ROUNDS = 10, 100, 5


@materialize(version="1.0")
def source(number: int) -> int:
    """Return a number."""
    return number


@materialize(version="1.0")
def add(*numbers: int) -> int:
    """Return a sum."""
    return sum(numbers)


def wire() -> Flow:
    """Return the flow: every task reads two tasks before it, in its stage or in the stage before."""
    made: list[Any] = []
    with Flow("large") as flow:
        for stage in range(STAGES):
            with Stage(f"stage_{stage}"):
                for _ in range(TASKS):
                    made.append(add(made[-1], made[len(made) // 2]) if made else source(1))
    return flow


def by_hand(flow: Flow, model: DAG) -> DAG:
    """Return a DAG of plain operators with the same tasks, groups and edges as the model."""
    from airflow.sdk import DAG, BaseOperator, TaskGroup

    with DAG("by_hand", schedule=None) as dag:
        operators = {}
        for stage in flow.stages:
            with TaskGroup(stage, prefix_group_id=False):
                for task in model.tasks:
                    if task.task_id.startswith(f"{stage}."):
                        operators[task.task_id] = BaseOperator(
                            task_id=task.task_id, trigger_rule="none_failed", weight_rule="absolute"
                        )
        for task in model.tasks:
            for downstream in sorted(task.downstream_task_ids):
                operators[task.task_id].set_downstream(operators[downstream])
    return dag


def best(function: Callable[[], Any]) -> float:
    """Return the least of several times, in seconds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> int:
    """Print the table."""
    wiring = best(wire)
    from pipedag_airflow.provider.dag import compile_dag

    flow = wire()
    model = compile_dag(flow, {})
    ours = best(lambda: compile_dag(flow, {}))
    hand = best(lambda: by_hand(flow, model))
    print(f"{STAGES * TASKS:,} tasks in {STAGES} stages, best of {ROUNDS}")
    print(f"  wire the flow and compile its plan      {wiring:6.3f} s")
    print(f"  compile the plan to a DAG               {ours:6.3f} s")
    print(f"  the same DAG by hand, plain operators   {hand:6.3f} s")
    print(f"  flow to DAG, against by hand            {(wiring + ours) / hand:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
