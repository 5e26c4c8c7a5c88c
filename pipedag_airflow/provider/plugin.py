"""What the API server of Airflow has of us: the links of tasks that have no process of their own.

Every process of Airflow imports this module, so it imports no more than the links.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

from pipedag_airflow.core.plan import BEGIN_TASK, COMMIT_TASK
from pipedag_airflow.provider.links import (
    SKIPPED,
    DocsLink,
    GenerationLink,
    PreviousTablesLink,
    TablesLink,
    page,
    page_of_run,
)

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["PipedagPlugin", "ShownLink"]


class ShownLink(BaseOperatorLink):
    """A link as the API server shows it: what the process of the task said, else what the begin of its stage says.

    Args:
        link: The link of the operator. This one is shown in its place, as it has the same name.
    """

    def __init__(self, link: BaseOperatorLink) -> None:
        self.link = link

    @property
    def name(self) -> str:
        """The name of the operator's link."""
        return self.link.name

    @property
    def operators(self) -> list[Any]:  # type: ignore[override]  # asked for in the API server only
        """The operators that begin may skip."""
        from pipedag_airflow.provider.operators import CommitTransactionOperator, MaterializeOperator

        return [MaterializeOperator, CommitTransactionOperator]

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the link; an empty text if there is none, which is not shown."""
        del operator
        own = _told(ti_key, ti_key.task_id, self.link.xcom_key)
        if own:
            return str(own)
        stage = ti_key.task_id.rpartition(".")[0]
        begin = f"{stage}.{BEGIN_TASK}"
        skipped = _told(ti_key, begin, SKIPPED)
        of_task = skipped.get(ti_key.task_id) if isinstance(skipped, dict) else None
        if of_task is None:
            return ""
        if isinstance(self.link, DocsLink):
            return str(of_task.get("docs") or "")
        if isinstance(self.link, GenerationLink):
            return page_of_run(of_task.get("published_by"), f"{stage}.{COMMIT_TASK}", asked_in=ti_key.dag_id)
        if isinstance(self.link, PreviousTablesLink):
            return page_of_run(of_task.get("made_by"), ti_key.task_id, asked_in=ti_key.dag_id)
        return page(ti_key.dag_id, ti_key.run_id, begin) if "tables" in of_task else ""


def _told(ti_key: TaskInstanceKey, task_id: str, key: str) -> Any:
    """Return what a task of the run has told under a key; None if nothing."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    found = XComModel.get_many(
        key=key, dag_ids=ti_key.dag_id, run_id=ti_key.run_id, task_ids=task_id, map_indexes=-1, limit=1
    )
    with create_session() as session:
        row = session.execute(found.with_only_columns(XComModel.value)).first()
    if row is None or not isinstance(row.value, str):
        return None if row is None else row.value
    try:
        return json.loads(row.value)
    except ValueError:  # it is a text that was stored as it is
        return row.value


class PipedagPlugin(AirflowPlugin):
    """Our part of Airflow's user interface."""

    name = "pipedag"
    operator_extra_links = [ShownLink(link()) for link in (TablesLink, PreviousTablesLink, GenerationLink, DocsLink)]  # noqa: RUF012 - as Airflow declares it
