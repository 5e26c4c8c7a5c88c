from __future__ import annotations

from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from pipedag_airflow.config import PipedagConfig

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A working directory and a home without any configuration, so that the machine's own is never found."""
    for variable in ("PIPEDAG_CONFIG", "PIPEDAG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for folder in ("home", "cwd"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


@pytest.fixture
def write(tmp_path):
    def write_file(text: str, name: str = "project/pipedag.yaml") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
        return file

    return write_file


@pytest.fixture
def load(write):
    return lambda text: PipedagConfig(write(text))
