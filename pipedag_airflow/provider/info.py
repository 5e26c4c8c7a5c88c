"""What Airflow's provider manager is told about this package.

Airflow calls :func:`get_provider_info` in every one of its processes, so the module imports nothing.
The keys are those of Airflow's ``provider_info.schema.json``.
"""

from __future__ import annotations

from typing import Any

__all__ = ["get_provider_info"]


def get_provider_info() -> dict[str, Any]:
    """Return the provider information that ``airflow providers list`` and ``airflow providers get`` show."""
    return {
        "package-name": "pipedag-airflow",
        "name": "pipedag",
        "description": "Runs pipedag flows as DAGs: cached tasks, stages that are published atomically.",
        "versions": ["0.1.0"],
        "integrations": [
            {
                "integration-name": "pipedag",
                "external-doc-url": "https://pydiversepipedag.readthedocs.io/",
                "tags": ["software"],
            }
        ],
    }
