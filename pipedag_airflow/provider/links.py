"""What is one click away from a task instance: its tables, those of the run before, its generation, its documents.

Airflow asks an operator for its links when the task is over, also when it failed, and keeps what it got. A task that
begin skips has no process: the API server makes its links from what begin has told, see :mod:`.plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf

from pipedag_airflow.core.plan import COMMIT_TASK
from pipedag_airflow.provider.dag_runs import OWNER_PREFIX, part_dag_id, part_run_id

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

__all__ = [
    "SKIPPED",
    "DocsLink",
    "GenerationLink",
    "PreviousTablesLink",
    "RunLink",
    "TablesLink",
    "page",
    "page_of_run",
]

#: What begin tells of the tasks that it skips, for the links that they cannot make themselves.
SKIPPED = "skipped"

# A page that does not exist is no link.
_NOWHERE = ""


class TablesLink(BaseOperatorLink):
    """The tables of the task with their rows, and why it ran."""

    name = "Tables"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of what the task has told."""
        del operator
        return page(ti_key.dag_id, ti_key.run_id, ti_key.task_id)


class PreviousTablesLink(BaseOperatorLink):
    """The same of the run that had made what readers saw when the task began."""

    name = "Tables of the run before"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of the task in that run, if that was one of Airflow's."""
        return page_of_run(operator.previous_run, ti_key.task_id, asked_in=ti_key.dag_id)


class GenerationLink(BaseOperatorLink):
    """The generation of the stage: what its publish has changed."""

    name = "Generation"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of what the commit of the stage has told."""
        return page(ti_key.dag_id, ti_key.run_id, f"{operator.stage}.{COMMIT_TASK}")


class RunLink(BaseOperatorLink):
    """The run of the stage's own DAG."""

    name = "Run of the stage"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of that run; if all was valid, there is none."""
        if not operator.has_part:
            return _NOWHERE
        return _page_of_dag_run(part_dag_id(ti_key.dag_id, ti_key.task_id), part_run_id(ti_key.run_id))


class DocsLink(BaseOperatorLink):
    """The documents that ``docs_url`` names."""

    name = "Docs"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the address as it was given."""
        del ti_key
        return str(operator.docs_url)


def page_of_run(owner: str | None, task_id: str, *, asked_in: str) -> str:
    """Return the page of a task in the run that held a stage, if that was one of Airflow's; else an empty text.

    Args:
        owner: The id under which the run held it.
        task_id: The task.
        asked_in: Id of the DAG in which it is asked for. If that is a part of the owner's, the task is in the part.
    """
    if owner is None or not owner.startswith(OWNER_PREFIX):
        return _NOWHERE
    dag_id, _, run_id = owner.removeprefix(OWNER_PREFIX).partition("/")
    if asked_in.startswith(part_dag_id(dag_id, "")):
        return page(asked_in, part_run_id(run_id), task_id)
    return page(dag_id, run_id, task_id)


def page(dag_id: str, run_id: str, task_id: str) -> str:
    """Return the page of what a task has told."""
    return f"{_page_of_dag_run(dag_id, run_id)}/tasks/{quote(task_id)}/xcom"


def _page_of_dag_run(dag_id: str, run_id: str) -> str:
    base = str(conf.get("api", "base_url", fallback="")).rstrip("/")
    return f"{base}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"
