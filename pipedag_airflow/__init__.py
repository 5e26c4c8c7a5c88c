"""pipedag flows on Apache Airflow: cached, transactional data pipelines in your own database.

Names are loaded when they are first used: importing this package loads no frame library, no database driver and no
Airflow, because Airflow imports every flow module again in every task's process.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_airflow.config import ConfigContext, PipedagConfig, create_basic_pipedag_config
    from pipedag_airflow.context import CacheValidationMode, StageLockContext
    from pipedag_airflow.core.auto_version import AUTO_VERSION
    from pipedag_airflow.core.containers import Blob, ExternalTableReference, RawSql, Table, View
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.group_node import GroupNode
    from pipedag_airflow.core.materialize import materialize
    from pipedag_airflow.core.stage import Stage
    from pipedag_airflow.core.stage_versions import input_stage_versions
    from pipedag_airflow.engine import PrefectEngine
    from pipedag_airflow.run.result import Result

__all__ = [
    "AUTO_VERSION",
    "Blob",
    "CacheValidationMode",
    "ConfigContext",
    "ExternalTableReference",
    "Flow",
    "GroupNode",
    "PipedagConfig",
    "PrefectEngine",
    "RawSql",
    "Result",
    "Stage",
    "StageLockContext",
    "Table",
    "View",
    "create_basic_pipedag_config",
    "input_stage_versions",
    "materialize",
]

_HOMES = {
    "AUTO_VERSION": "core.auto_version",
    "Blob": "core.containers",
    "CacheValidationMode": "context",
    "ConfigContext": "config",
    "ExternalTableReference": "core.containers",
    "Flow": "core.flow",
    "GroupNode": "core.group_node",
    "PipedagConfig": "config",
    "PrefectEngine": "engine",
    "RawSql": "core.containers",
    "Result": "run.result",
    "Stage": "core.stage",
    "StageLockContext": "context",
    "Table": "core.containers",
    "View": "core.containers",
    "create_basic_pipedag_config": "config",
    "input_stage_versions": "core.stage_versions",
    "materialize": "core.materialize",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
