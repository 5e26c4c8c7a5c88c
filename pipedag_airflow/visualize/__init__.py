"""Pictures of flows: as a graph, as a link to a Kroki server, on the screen."""

from __future__ import annotations

from pipedag_airflow.visualize.graph import draw
from pipedag_airflow.visualize.kroki import picture_url
from pipedag_airflow.visualize.screen import show

__all__ = ["draw", "picture_url", "show"]
