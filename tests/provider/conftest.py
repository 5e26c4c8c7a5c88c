"""Airflow in the test's own process, as a library: no logging of its own, no database, no home of the user's."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

# Before Airflow is imported for the first time: it reads both then.
os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="pipedag-airflow-")
atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.dag_processing.dagbag import BundleDagBag


class DagFolder:
    """A dags folder, and what Airflow's own importer makes of it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.path / f"{name}.py").write_text(text)

    def config(self, text: str) -> None:
        (self.path / "pipedag.yaml").write_text(text)

    def parse(self, file: str = "") -> BundleDagBag:
        """Parse the whole folder, or one file of it as Airflow's processes do."""
        from airflow.dag_processing.dagbag import BundleDagBag

        return BundleDagBag(self.path / file, bundle_path=self.path, bundle_name="test")

    def python(self, script: str, **env: str) -> str:
        """Run a script in a process of its own, in the folder, and return what it prints last."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            cwd=self.path,
            env=os.environ | env,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.splitlines()[-1]


@pytest.fixture
def dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagFolder]:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    monkeypatch.setenv("PIPEDAG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])  # the importer adds the folder
    path = tmp_path / "dags"
    path.mkdir()
    yield DagFolder(path)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]
