"""Every error that pipedag_airflow raises on purpose.

    PipedagError
    ├── ConfigError (ValueError)                 pipedag.yaml cannot be used
    │   ├── ConfigNotFoundError (FileNotFoundError)   the file that was named is not there
    │   ├── InstanceNotFoundError (AttributeError)    no such instance in the file
    │   ├── PlaceholderError (AttributeError)         {name} or {$NAME} has no value
    │   └── MissingBlockError (KeyError)              a reference to a named block leads nowhere
    ├── FlowError                                the graph of a flow is wrong
    │   └── FlowChangedError                     the flow was redeployed in the middle of a run
    ├── StageError                               a stage or task in the wrong place or state
    ├── DuplicateNameError (ValueError)          two things claim one name
    ├── UnsupportedValueError (TypeError)        a value that cannot be stored
    ├── AutoVersionError (RuntimeError)          AUTO_VERSION cannot follow the code of a task
    ├── CacheError                               a stored output cannot be found
    ├── FreshInputError (AssertionError)         a task would read fresh input, which this run must not
    ├── LockError                                a stage is not ours
    │   ├── StageBusyError                       another run holds it
    │   └── StaleRunError                        our run lost it to another one
    ├── StoreError (RuntimeError)                a table or blob could not be written or read
    │   └── BlobSignatureError                   a blob file was not written by us, or was altered
    ├── RunError (RuntimeError)                  a run failed without an exception of its own
    └── MissingExtraError (ImportError)          an optional dependency is not installed

Each message says what happened, to which stage, task or table, and what to do next.
"""

from __future__ import annotations

__all__ = [
    "AutoVersionError",
    "BlobSignatureError",
    "CacheError",
    "ConfigError",
    "ConfigNotFoundError",
    "DuplicateNameError",
    "FlowChangedError",
    "FlowError",
    "FreshInputError",
    "InstanceNotFoundError",
    "LockError",
    "MissingBlockError",
    "MissingExtraError",
    "PipedagError",
    "PlaceholderError",
    "RunError",
    "StageBusyError",
    "StageError",
    "StaleRunError",
    "StoreError",
    "UnsupportedValueError",
]


class PipedagError(Exception):
    """Base of all errors of this package."""


class ConfigError(PipedagError, ValueError):
    """The configuration cannot be used as it is."""


class ConfigNotFoundError(ConfigError, FileNotFoundError):
    """A configuration file that was asked for does not exist."""


class InstanceNotFoundError(ConfigError, AttributeError):
    """The configuration has no such instance."""


class PlaceholderError(ConfigError, AttributeError):
    """A placeholder ``{name}`` or ``{$NAME}`` of the configuration has no value."""


class MissingBlockError(ConfigError, KeyError):
    """A section refers to a named block that the configuration does not have."""

    __str__ = Exception.__str__  # KeyError shows the repr of its message


class FlowError(PipedagError):
    """The graph of a flow is wrong."""


class FlowChangedError(FlowError):
    """The flow was changed between the steps of one run."""


class StageError(PipedagError):
    """A stage or a task stands in the wrong place or is in the wrong state."""


class DuplicateNameError(PipedagError, ValueError):
    """Two stages, tasks or tables claim one name."""


class UnsupportedValueError(PipedagError, TypeError):
    """A value that cannot be stored as the input or the output of a task."""


class AutoVersionError(PipedagError, RuntimeError):
    """The code of a task with AUTO_VERSION uses something whose changes cannot be seen."""


class CacheError(PipedagError):
    """A stored output that is needed cannot be found."""


class FreshInputError(PipedagError, AssertionError):
    """A task with a cache function would run in a run that asserts that there is no fresh input."""


class LockError(PipedagError):
    """A stage is not held by this run."""


class StageBusyError(LockError):
    """Another run holds the stage; the message names it."""


class StaleRunError(LockError):
    """This run lost the stage to another run and may no longer write or publish."""


class StoreError(PipedagError, RuntimeError):
    """A table or blob could not be written or read."""


class BlobSignatureError(StoreError):
    """A blob file was not written by this installation, or was altered afterwards."""


class RunError(PipedagError, RuntimeError):
    """A run was not successful, and no single exception tells why."""


class MissingExtraError(PipedagError, ImportError):
    """An optional dependency is not installed; the message says how to get it."""
