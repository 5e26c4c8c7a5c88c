"""Rule 9.1: `visualize` in a notebook, in a browser, and where there is no Graphviz."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.errors import MissingExtraError, PipedagError

FLOW = """
from pipedag_airflow import Flow, Stage, materialize

@materialize(version="1")
def task():
    return 1

with Flow("shop") as flow, Stage("stage"):
    task()
"""

CELL = FLOW + "flow.visualize()"

NOTEBOOK = f"""
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

shell = InteractiveShell.instance()
with capture_output() as captured:
    shell.run_cell({CELL!r}).raise_error()
for output in captured.outputs:
    print(*output.data)
    print(output.data["image/svg+xml"])
"""

TERMINAL = f"""
from IPython.terminal.interactiveshell import TerminalInteractiveShell

TerminalInteractiveShell.instance(simple_prompt=True).run_cell({CELL!r}).raise_error()
"""


@pytest.fixture
def python(tmp_path):
    """Run code in a process whose browser writes the address that it is to open into a file."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/opened"\n')
    browser.chmod(0o755)

    def run(code: str, browser: str = str(browser)) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "BROWSER": browser, "TMPDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )

    return run


@pytest.fixture
def flow():
    with Flow("shop") as flow, Stage("stage"):
        materialize(lambda: 1, name="task")()
    return flow


def opened_picture(folder: Path) -> bytes:
    address = (folder / "opened").read_text().strip()
    return Path(url2pathname(urlsplit(address).path)).read_bytes()


@pytest.mark.usefixtures("dot")
class TestShown:
    @pytest.mark.parametrize("code", [CELL, TERMINAL], ids=["python", "ipython"])
    def test_outside_of_a_notebook_the_browser_opens_a_pdf(self, python, tmp_path, code):
        python(code)
        assert opened_picture(tmp_path).startswith(b"%PDF")

    def test_a_result_is_shown_likewise(self, python, tmp_path):
        python(f"{FLOW}\nflow.run().visualize()")
        assert opened_picture(tmp_path).startswith(b"%PDF")

    def test_a_notebook_shows_the_picture_below_the_cell(self, python, tmp_path):
        kinds, svg = python(NOTEBOOK).stdout.split("\n", 1)
        assert "image/svg+xml" in kinds
        assert "<svg" in svg
        assert "stage.task" in svg
        assert not (tmp_path / "opened").exists()

    def test_without_a_browser_the_log_says_where_the_picture_is(self, python, tmp_path):
        done = python(f"{FLOW}\nimport webbrowser\nwebbrowser._tryorder = []\nflow.visualize()")
        (picture,) = tmp_path.glob("pipedag-*.pdf")
        assert done.stderr.strip() == f"No browser could be opened. The picture of flow 'shop' is in {picture}"
        assert picture.stat().st_mode & 0o077 == 0


def test_without_graphviz_the_error_says_how_to_get_it_and_what_else_there_is(flow, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"'shop'.*apt-get install graphviz.*brew.*visualize_url\(\)"):
        flow.visualize()


def test_the_words_of_a_graphviz_that_fails_are_passed_on(flow, monkeypatch, tmp_path):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho 'out of ink' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PipedagError, match=r"could not draw flow 'shop'; its exit code is 3: out of ink"):
        flow.visualize()
