"""A picture on the screen: in the notebook, else as a PDF in the browser."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tempfile
import webbrowser
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pipedag_airflow.errors import MissingExtraError, PipedagError
from pipedag_airflow.visualize.graph import draw

if TYPE_CHECKING:
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.run.result import Result

__all__ = ["show"]

log = logging.getLogger(__name__)


def show(flow: Flow, result: Result | None = None) -> None:
    """Show a picture of a flow; see :func:`~pipedag_airflow.visualize.graph.draw` for the arguments.

    Raises:
        MissingExtraError: if pydot or Graphviz is not installed.
        FlowError: if the result is that of another flow.
        PipedagError: if Graphviz fails.
    """
    if _in_notebook():
        display = import_module("IPython.display")
        display.display(display.SVG(data=_rendered(flow, result, "svg").decode()))
        return
    picture = _rendered(flow, result, "pdf")
    # It stays: the browser opens it when this process may be over.
    with tempfile.NamedTemporaryFile(prefix="pipedag-", suffix=".pdf", delete=False) as file:
        file.write(picture)
    if not webbrowser.open(Path(file.name).as_uri()):
        log.warning("No browser could be opened. The picture of flow %r is in %s", flow.name, file.name)


def _in_notebook() -> bool:
    """Say whether this is a shell of IPython's that can show pictures; its terminal cannot."""
    if "IPython" not in sys.modules:
        return False
    shell = import_module("IPython").get_ipython()
    return shell is not None and not isinstance(
        shell, import_module("IPython.terminal.interactiveshell").TerminalInteractiveShell
    )


def _rendered(flow: Flow, result: Result | None, file_format: str) -> bytes:
    graph = draw(flow, result).to_string().encode()
    program = shutil.which("dot")
    if program is None:
        raise MissingExtraError(
            f"To show flow {flow.name!r}, the program dot of Graphviz is needed, and it is not on the PATH: "
            "apt-get install graphviz, or brew install graphviz. Without it, visualize_url() makes a link to a picture."
        )
    done = subprocess.run([program, f"-T{file_format}"], input=graph, capture_output=True, check=False)  # noqa: S603 - Graphviz, as found on the path
    if done.returncode != 0:
        raise PipedagError(
            f"Graphviz ({program}) could not draw flow {flow.name!r}; its exit code is {done.returncode}: "
            f"{done.stderr.decode(errors='replace').strip()}"
        )
    return done.stdout
