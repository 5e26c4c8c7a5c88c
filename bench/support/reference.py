"""The reference, pydiverse.pipedag, in an environment of its own: it is measured from outside, by its public API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["VERSION", "python_of_the_reference"]

VERSION = "0.12.3"
#: What the reference needs to be at its best: its documentation names these for PostgreSQL.
_REQUIREMENTS = (
    f"pydiverse-pipedag=={VERSION}",
    "adbc-driver-postgresql",
    "filelock",
    "psycopg2-binary",
    "sqlalchemy<2.1",
)
_FOLDER = Path(__file__).parents[2] / ".bench" / f"reference-{VERSION}"


def python_of_the_reference() -> Path:
    """Return the interpreter that has the reference; its environment is made on first use."""
    python = _FOLDER / "bin" / "python"
    ready = _FOLDER / ".installed"
    if not ready.exists():
        print(f"Installing pydiverse-pipedag {VERSION} into {_FOLDER} ...", flush=True)
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, _FOLDER], check=True)
        subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *_REQUIREMENTS], check=True)
        ready.touch()
    return python
