"""A link to a picture: the address of a Kroki server, with the graph in it."""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode
from typing import TYPE_CHECKING

from pipedag_airflow.errors import ConfigError
from pipedag_airflow.run.launch import find_config
from pipedag_airflow.visualize.graph import draw

if TYPE_CHECKING:
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.run.result import Result

__all__ = ["picture_url"]


def picture_url(flow: Flow, result: Result | None = None) -> str:
    """Return the link to a picture of a flow; nothing is contacted.

    Args:
        flow: The flow.
        result: A run of the flow; see :func:`~pipedag_airflow.visualize.graph.draw`. Its configuration names the
            server; without it, the open :class:`ConfigContext` or the one that is found for the flow does.

    Raises:
        ConfigError: if no server is configured.
        MissingExtraError: if pydot is not installed.
        FlowError: if the result is that of another flow.
    """
    config = find_config(flow, None if result is None else result.config_context)
    if not config.kroki_url:
        raise ConfigError(
            f"There is no link to a picture of flow {flow.name!r}: the configuration ({config.source}) names no Kroki "
            "server. Set kroki_url for the instance in pipedag.yaml, for example kroki_url: https://kroki.io. "
            "pipedag_airflow contacts no server, it only makes the link; whoever opens it sends the names of the "
            "flow's stages and tasks there."
        )
    graph = draw(flow, result).to_string().encode()
    return f"{config.kroki_url.rstrip('/')}/graphviz/svg/{urlsafe_b64encode(zlib.compress(graph, 9)).decode()}"
