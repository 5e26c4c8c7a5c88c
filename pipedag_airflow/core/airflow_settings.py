"""What flows, stages and tasks may say about their places in a DAG: names alone, nothing here knows Airflow.

The names are those of the arguments of Airflow's ``DAG``, ``TaskGroup`` and operators; ``docs_url``, ``granularity``
and ``instance`` are ours. What is said of a flow holds for all of its tasks, what is said of a stage for those in it,
nested ones included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.naming import suggest
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DURATIONS", "FLOW_KEYS", "OPERATOR_KEYS", "REFUSED", "STAGE_KEYS", "TASK_KEYS", "checked_settings"]

#: Said of a flow, a stage or a task; they hold for the operators in it.
OPERATOR_KEYS = frozenset(
    {
        "depends_on_past",
        "docs_url",
        "email",
        "email_on_failure",
        "email_on_retry",
        "execution_timeout",
        "executor",
        "executor_config",
        "max_active_tis_per_dag",
        "max_active_tis_per_dagrun",
        "max_retry_delay",
        "on_execute_callback",
        "on_failure_callback",
        "on_retry_callback",
        "on_skipped_callback",
        "on_success_callback",
        "owner",
        "pool",
        "pool_slots",
        "priority_weight",
        "queue",
        "retries",
        "retry_delay",
        "retry_exponential_backoff",
        "retry_policy",
        "run_as_user",
    }
)

TASK_KEYS = OPERATOR_KEYS | {"doc", "doc_json", "doc_md", "doc_rst", "doc_yaml", "task_display_name"}

STAGE_KEYS = OPERATOR_KEYS | {"doc_md", "granularity", "group_display_name", "tooltip", "ui_color", "ui_fgcolor"}

FLOW_KEYS = OPERATOR_KEYS | {
    "access_control",
    "catchup",
    "dag_display_name",
    "dagrun_timeout",
    "deadline",
    "default_args",
    "description",
    "doc_md",
    "end_date",
    "granularity",
    "instance",
    "is_paused_upon_creation",
    "max_active_runs",
    "max_active_tasks",
    "max_consecutive_failed_dag_runs",
    "owner_links",
    "params",
    "schedule",
    "split",
    "start_date",
    "tags",
}

#: Those that are a time: a timedelta, or a number of seconds.
DURATIONS = frozenset({"dagrun_timeout", "execution_timeout", "max_retry_delay", "retry_delay"})

#: What Airflow has and we cannot pass on, with what to do instead.
REFUSED = {
    "dag_id": "the DAG has the name of the flow; flow.to_dag(dag_id=...) gives it another one",
    "fail_fast": "Airflow's own works with no trigger rule but all_success; set fail_fast in the form of a run",
    "outlets": "stages and tables are assets by themselves, and their events are sent when they are published",
    "sla": "Airflow has no SLAs any more; set deadline for the flow, or execution_timeout",
    "task_id": "the id is stage.task; task_display_name, or name of @materialize, changes what is shown",
    "trigger_rule": "tasks take skipped for good, because that is what valid tasks are",
    "weight_rule": "with another one than ours a run of many tasks takes minutes to start",
}


def checked_settings(owner: str, settings: Mapping[str, Any] | None, valid: frozenset[str]) -> dict[str, Any]:
    """Return what a flow, stage or task says about its place in a DAG.

    Args:
        owner: What says it, for messages.
        settings: What it says.
        valid: The names that it may use.

    Raises:
        ConfigError: if there is another name among them.
    """
    for key in settings or ():
        if key not in valid:
            advice = REFUSED.get(key) or suggest(str(key), valid)
            raise ConfigError(f"{owner}: unknown key {key!r} in airflow={{...}}; {advice}")
    return dict(settings or {})
