"""What Airflow's provider manager is told about this package.

Airflow calls :func:`get_provider_info` in every one of its processes, so the module imports nothing.
The keys are those of Airflow's ``provider_info.schema.json``; ``hook-name``, ``conn-fields`` and ``ui-field-behaviour``
are read as well, so that the form for connections can be shown without importing the hook.
"""

from __future__ import annotations

from typing import Any

__all__ = ["get_provider_info"]

_NAME = "pipedag"
_PACKAGE = "pipedag_airflow.provider"


def get_provider_info() -> dict[str, Any]:
    """Return the provider information that ``airflow providers list`` and ``airflow providers get`` show."""
    return {
        "package-name": "pipedag-airflow",
        "name": _NAME,
        "description": "Runs pipedag flows as DAGs: cached tasks, stages that are published atomically",
        "versions": ["0.1.0"],
        "integrations": [
            {
                "integration-name": _NAME,
                "tags": ["software"],
            }
        ],
        "operators": [_modules("begin_operator", "operators", "run_operators", "split")],
        "hooks": [_modules("hook")],
        "triggers": [_modules("triggers")],
        "bundles": [_modules("bundles")],
        "asset-uris": [{"schemes": [_NAME], "handler": None}],
        "connection-types": [_CONNECTION_TYPE],
        "extra-links": [f"{_PACKAGE}.links.{name}Link" for name in _LINKS] + [f"{_PACKAGE}.plugin.ShownLink"],
        "config": {"pipedag": {"description": "How pipedag flows find their configuration.", "options": _OPTIONS}},
    }


_LINKS = ("Docs", "Generation", "PreviousTables", "Run", "Tables")


def _modules(*names: str) -> dict[str, Any]:
    return {"integration-name": _NAME, "python-modules": [f"{_PACKAGE}.{name}" for name in names]}


_CONNECTION_TYPE = {
    "connection-type": "pipedag",
    "hook-class-name": f"{_PACKAGE}.hook.PipedagHook",
    "hook-name": "pipedag (a flow's database)",
    "conn-fields": {
        "sqlalchemy_scheme": {
            "label": "Dialect and driver",
            "description": "As SQLAlchemy calls them: duckdb, postgresql, postgresql+psycopg, ...",
            "schema": {"type": ["string", "null"]},
        }
    },
    "ui-field-behaviour": {
        "hidden-fields": [],
        "relabeling": {"schema": "Database"},
        "placeholders": {
            "host": "db.example.org, or for DuckDB the absolute path of the file",
            "schema": "warehouse",
            "extra": '{"sslmode": "require"}',
        },
    },
}

_OPTIONS = {
    "config_file": {
        "description": (
            "The pipedag.yaml of all flows of this Airflow, or the folder that has it. If it is empty, the "
            "environment variable PIPEDAG_CONFIG names it, or else each flow's is looked for in the folder of its "
            "module and above. Every process that runs tasks needs the same value."
        ),
        "version_added": "0.1.0",
        "type": "string",
        "example": "/opt/airflow/pipedag.yaml",
        "default": "",
    }
}
