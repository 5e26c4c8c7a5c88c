"""Run by test_crashes.py as a process of its own: python crash_rollback.py GENERATION FOLDER.

The environment variable PIPEDAG_CONFIG names the configuration.
"""

from __future__ import annotations

import sys

import pipedag_airflow.testing.crash_points  # noqa: F401 - its presence is what lets PIPEDAG_CRASH_POINT kill this process
from pipedag_airflow import PipedagConfig
from pipedag_airflow.run.rollback import rollback

rollback(PipedagConfig.find().get(), "stage", int(sys.argv[1]))
