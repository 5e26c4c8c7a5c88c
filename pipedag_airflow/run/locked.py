"""Readers may hold what a publish replaces: it waits for them, and lets them through while it does."""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, TypeVar

from pipedag_airflow.errors import PipedagError, StoreError, TableBusyError
from pipedag_airflow.run.publication import moves_tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipedag_airflow.config import ConfigContext

__all__ = ["wait_for_readers"]

T = TypeVar("T")

log = logging.getLogger(__name__)

#: How long readers have between two attempts, in seconds; each pause is longer than the one before.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_SECONDS_BETWEEN_MESSAGES = 60.0
#: For what still has to be free when readers are not waited for.
_MORE_SECONDS = 10.0


def wait_for_readers(config: ConfigContext, stage: str, transaction: Callable[[bool], T]) -> T:
    """Run a transaction, again and again while tables that it needs for itself alone are in use.

    With ``commit_consistency: available`` it is run without waiting for readers in the end, if it can do so.

    Args:
        config: The configuration.
        stage: Name of the stage, whose tables they are.
        transaction: Runs the whole transaction; nothing is left of it when it raises. It is told whether to wait.

    Raises:
        StoreError: if they are in use for longer than ``commit_wait_seconds``; the message says by whom.
    """
    patience = float(config.commit_wait_seconds)
    available = moves_tables(config) and config.commit_consistency == "available"
    waits = True
    started = time.monotonic()
    spoken = float("-inf")
    pause = _FIRST_PAUSE
    while True:
        try:
            return transaction(waits)
        except TableBusyError as busy:
            waited = time.monotonic() - started
            holders = _holders(config, stage)
            if waited > patience and waits and available:
                waits, patience = False, waited + _MORE_SECONDS
                log.warning(
                    "Stage %s: others are not waited for any longer (commit_consistency: available); who has begun to "
                    "read may see both generations in turn. %s",
                    stage,
                    holders,
                )
                continue
            if waited > patience:
                also = "" if waits else f" {busy}"
                raise StoreError(
                    f"Stage {stage!r} cannot be published: for {waited:.0f} seconds others have been reading tables "
                    f"that it replaces. {holders}{also} Readers see what they saw before, and everything that was made "
                    "is kept: end those transactions and publish again (in Airflow: clear the commit), or raise "
                    "commit_wait_seconds."
                ) from busy
            if waited - spoken > _SECONDS_BETWEEN_MESSAGES:
                log.info("Stage %s: waiting for readers before the publish. %s", stage, holders)
                spoken = waited
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not cryptography
            pause = min(2 * pause, _LONGEST_PAUSE)


def _holders(config: ConfigContext, stage: str) -> str:
    try:
        store = config.table_store
        with store.connection() as connection:
            found = store.lock_holders(connection, [store.schema(stage)])
    except PipedagError as error:
        return f"Who they are cannot be said: {error}"
    return f"They are: {'; '.join(found)}." if found else "They are gone by now."
