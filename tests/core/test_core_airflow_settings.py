"""What flows, stages and tasks may say about their places in a DAG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.config.schema import AIRFLOW, AIRFLOW_NAMED
from pipedag_airflow.core.airflow_settings import FLOW_KEYS, OPERATOR_KEYS, REFUSED, STAGE_KEYS, TASK_KEYS
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


def task(airflow: dict[str, Any]) -> object:
    @materialize(version="1", airflow=airflow)
    def load() -> int:
        return 1

    return load


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Flow("f", airflow={"schedul": "@daily"}), "Flow 'f': unknown key 'schedul' .*did you mean 'schedule'"),
        (lambda: Stage("Raw", airflow={"pol": "x"}), "Stage 'raw': unknown key 'pol' .*did you mean 'pool'"),
        (lambda: task({"retrys": 1}), "Task 'load': unknown key 'retrys' .*did you mean 'retries'"),
        (lambda: task({"tooltip": "x"}), "Task 'load': unknown key 'tooltip'"),
        (lambda: task({"sla": 1}), "no SLAs any more; set deadline for the flow"),
        (lambda: Stage("raw", airflow={"trigger_rule": "all_done"}), "skipped for good"),
        (lambda: Flow("f", airflow={"dag_id": "g"}), "to_dag"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest_valid_one(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_pipedag_yaml_and_the_module_know_the_same_keys() -> None:
    # A file holds no functions and no objects.
    objects = {key for key in OPERATOR_KEYS if key.endswith("_callback")} | {"retry_policy"}
    assert set(AIRFLOW.keys) == FLOW_KEYS - objects | {"stages", "tasks"}
    assert set(AIRFLOW_NAMED["stages"].keys) == STAGE_KEYS - objects
    assert set(AIRFLOW_NAMED["tasks"].keys) == TASK_KEYS - objects - {"doc", "doc_json", "doc_rst", "doc_yaml"}
    assert not REFUSED.keys() & (FLOW_KEYS | STAGE_KEYS | TASK_KEYS)
