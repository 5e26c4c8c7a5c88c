"""Every error that pipedag_airflow raises on purpose.

    PipedagError
    ├── ConfigError (ValueError)                 pipedag.yaml cannot be used
    │   ├── ConfigNotFoundError (FileNotFoundError)   the file that was named is not there
    │   ├── InstanceNotFoundError (AttributeError)    no such instance in the file
    │   ├── PlaceholderError (AttributeError)         {name} or {$NAME} has no value
    │   └── MissingBlockError (KeyError)              a reference to a named block leads nowhere
    ├── FlowError                                the graph of a flow is wrong
    │   ├── FlowChangedError                     the flow was redeployed in the middle of a run
    │   └── NotCalledError (ValueError)          a task is unpacked that was not called
    ├── SelectionError (ValueError)              what is selected is not in the flow, or cannot be run like that
    ├── StageError                               a stage or task in the wrong place or state
    ├── GroupNodeError                           a group in the wrong place or state
    ├── DuplicateNameError (ValueError)          two things claim one name
    ├── NullabilityError (ValueError)            nullable and non_nullable do not fit a table
    ├── UnsupportedValueError (TypeError)        a value that cannot be stored
    │   ├── NotFiniteError (ValueError)          a number that is not finite
    │   └── LazyBlobError (NotImplementedError)  a blob that a lazy task returned
    ├── AutoVersionError (RuntimeError)          AUTO_VERSION cannot follow the code of a task
    ├── CacheError                               a stored output cannot be found
    ├── FreshInputError (AssertionError)         a task would read fresh input, which this run must not
    ├── LockError                                a stage is not ours
    │   ├── StageBusyError                       another run holds it
    │   │   └── DeadlockError                    and waits for one of ours
    │   └── StaleRunError                        our run lost it to another one
    ├── StoreError (RuntimeError)                a table or blob could not be written or read
    │   ├── TableBusyError                       others hold a table that has to change; soon they may not
    │   ├── BlobSignatureError                   a blob file was not written by us, or was altered
    │   ├── NoBlobStoreError (AttributeError)    a blob where none can be stored
    │   └── ExternalTableError (ValueError)      a table of somebody else's cannot be read or referred to
    ├── RunError (RuntimeError)                  a run failed without an exception of its own
    │   └── FailedNodesError                     tasks or commits failed that one process was to run together
    └── MissingExtraError (ImportError)          an optional dependency is not installed

Each message says what happened, to which stage, task or table, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AutoVersionError",
    "BlobSignatureError",
    "CacheError",
    "ConfigError",
    "ConfigNotFoundError",
    "DeadlockError",
    "DuplicateNameError",
    "ExternalTableError",
    "FailedNodesError",
    "FlowChangedError",
    "FlowError",
    "FreshInputError",
    "GroupNodeError",
    "InstanceNotFoundError",
    "LazyBlobError",
    "LockError",
    "MissingBlockError",
    "MissingExtraError",
    "NoBlobStoreError",
    "NotCalledError",
    "NotFiniteError",
    "NullabilityError",
    "PipedagError",
    "PlaceholderError",
    "RunError",
    "SelectionError",
    "StageBusyError",
    "StageError",
    "StaleRunError",
    "StoreError",
    "TableBusyError",
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


class NotCalledError(FlowError, ValueError):
    """A task that was not called is unpacked as if it were its result."""


class SelectionError(PipedagError, ValueError):
    """A selection of stages and tasks means nothing in the flow, or cannot be run."""


class StageError(PipedagError):
    """A stage or a task stands in the wrong place or is in the wrong state."""


class GroupNodeError(PipedagError):
    """A group of tasks stands in the wrong place, or was opened before."""


class DuplicateNameError(PipedagError, ValueError):
    """Two stages, tasks or tables claim one name."""


class NullabilityError(PipedagError, ValueError):
    """``nullable`` and ``non_nullable`` of a table contradict each other, its primary key or its columns."""


class UnsupportedValueError(PipedagError, TypeError):
    """A value that cannot be stored as the input or the output of a task."""


class NotFiniteError(UnsupportedValueError, ValueError):
    """A number that is infinite or not a number cannot be stored as the input or the output of a task."""


class LazyBlobError(UnsupportedValueError, NotImplementedError):
    """A lazy task returned a blob, of which nothing tells whether it changed."""


class AutoVersionError(PipedagError, RuntimeError):
    """The code of a task with AUTO_VERSION uses something whose changes cannot be seen.

    Args:
        message: The whole message.
        reason: What the code uses.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class CacheError(PipedagError):
    """A stored output that is needed cannot be found."""


class FreshInputError(PipedagError, AssertionError):
    """A task with a cache function would run in a run that asserts that there is no fresh input."""


class LockError(PipedagError):
    """A stage is not held by this run."""


class StageBusyError(LockError):
    """Another run holds the stage; the message names it."""


class DeadlockError(StageBusyError):
    """Runs wait for stages of each other in a circle, and this one gives up so that the others go on."""


class StaleRunError(LockError):
    """This run lost the stage to another run and may no longer write or publish."""


class StoreError(PipedagError, RuntimeError):
    """A table or blob could not be written or read."""


class TableBusyError(StoreError):
    """Others hold a table that has to change; the same transaction may succeed a moment later."""


class BlobSignatureError(StoreError):
    """A blob file was not written by this installation, or was altered afterwards."""


class NoBlobStoreError(StoreError, AttributeError):
    """A blob is to be stored or loaded in an instance that stores no blobs."""


class ExternalTableError(StoreError, ValueError):
    """A reference to a table that somebody else owns cannot be used."""


class RunError(PipedagError, RuntimeError):
    """A run was not successful, and no single exception tells why."""


class FailedNodesError(RunError):
    """Tasks or commits failed that one process was to run together.

    Args:
        message: What happened.
        failures: The errors by the ids of the nodes.
    """

    def __init__(self, message: str, failures: Mapping[str, Exception] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or {}


class MissingExtraError(PipedagError, ImportError):
    """An optional dependency is not installed; the message says how to get it."""
