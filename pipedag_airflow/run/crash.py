"""Named places at which a test can kill the process."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["crash_point"]


def crash_point(name: str) -> None:
    """Die here by SIGKILL if ``PIPEDAG_CRASH_POINT`` names this place.

    Only in processes that have loaded ``pipedag_airflow.testing.crash_points``, so that no setting of a user can do it.
    """
    if os.environ.get("PIPEDAG_CRASH_POINT") == name and "pipedag_airflow.testing.crash_points" in sys.modules:
        os.kill(os.getpid(), signal.SIGKILL)
