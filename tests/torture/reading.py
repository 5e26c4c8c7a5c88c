"""Cases in which somebody reads while somebody publishes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from readers import Manner

if TYPE_CHECKING:
    from collections.abc import Callable

    from scene import Scene

__all__ = [
    "bi_view",
    "granted_role",
    "long_readers",
    "metadata_join",
    "one_statement",
    "read_committed",
    "repeatable_read",
]


def one_statement(scene: Scene) -> None:
    """A statement that reads all tables shows one number in all of them."""
    _read_while_publishing(scene, Manner("statement"), Manner("statement"))


def read_committed(scene: Scene) -> None:
    """Statements in one transaction each show what is published then, never something older than the one before."""
    manner = Manner("committed", at_once=False, isolation="read committed")
    _read_while_publishing(scene, manner, manner)


def repeatable_read(scene: Scene) -> None:
    """Statements in one transaction that begins with the stage all show the same number."""
    by_views = scene.technique == "read_views"
    manner = Manner("repeatable", at_once=False, isolation="repeatable read", steady_last=by_views)
    _read_while_publishing(scene, manner, manner)


def metadata_join(scene: Scene) -> None:
    """A statement that reads the tables and the metadata shows that these belong together."""
    manner = Manner("joined", metadata=scene.product.metadata)
    _read_while_publishing(scene, manner, manner)


def granted_role(scene: Scene) -> None:
    """A role that was granted to read the stage, once, may read it after each publish."""

    def grant() -> None:
        # Roles are the server's, not the database's.
        scene.place.execute("drop role if exists auditor")
        scene.place.execute("create role auditor")
        scene.place.execute("grant usage on schema numbers to auditor")
        scene.place.execute("grant select on all tables in schema numbers to auditor")

    _read_while_publishing(scene, Manner("auditor", role="auditor"), after_first=grant)
    scene.place.execute("drop owned by auditor")
    scene.place.execute("drop role auditor")


def bi_view(scene: Scene) -> None:
    """Views of somebody else's on the tables show what is published."""

    def view() -> None:
        scene.place.execute("create schema bi")
        for table in ("steady", "one", "two", "three"):
            scene.place.execute(f"create view bi.{table} as select * from numbers.{table}")

    _read_while_publishing(scene, Manner("bi", schema="bi"), Manner("statement"), after_first=view)


def long_readers(scene: Scene) -> None:
    """Transactions that read for seconds keep what they see, and publishes get their turn all the same."""
    _read_while_publishing(
        scene,
        Manner("long-repeatable", at_once=False, isolation="repeatable read", pause=0.3, rest=2.0, steady_last=True),
        Manner("long-committed", at_once=False, isolation="read committed", pause=0.3, rest=2.0),
        Manner("statement"),
    )


def _read_while_publishing(scene: Scene, *manners: Manner, after_first: Callable[[], None] = lambda: None) -> None:
    scene.publish(1)
    after_first()
    scene.read(*manners)
    writer = scene.write(2, step=1)
    while writer.code is None and not (scene.is_over and writer.done):
        time.sleep(0.05)
    writer.stop()
    scene.forbid_failures()
    scene.settle(grows=True)
    scene.look(scene.history.newest)
