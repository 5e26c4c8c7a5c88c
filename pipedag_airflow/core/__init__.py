"""Authoring: what a user writes in a flow module, and the plan that it compiles to.

Pure Python: nothing here knows a database, a frame library or Airflow.
"""

from __future__ import annotations

from pipedag_airflow.core.containers import Blob, RawSql, Table, View
from pipedag_airflow.core.flow import Flow
from pipedag_airflow.core.group_node import GroupNode
from pipedag_airflow.core.materialize import materialize
from pipedag_airflow.core.plan import Plan, PlanNode, PlanStage
from pipedag_airflow.core.stage import Stage
from pipedag_airflow.core.task import Task, TaskGetItem, UnboundTask

__all__ = [
    "Blob",
    "Flow",
    "GroupNode",
    "Plan",
    "PlanNode",
    "PlanStage",
    "RawSql",
    "Stage",
    "Table",
    "Task",
    "TaskGetItem",
    "UnboundTask",
    "View",
    "materialize",
]
