"""Table stores in SQL databases."""

from __future__ import annotations

from pipedag_airflow.core.containers import ExternalTableReference

__all__ = ["ExternalTableReference"]
