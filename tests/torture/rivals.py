"""Cases in which several publish the same stage, or one reads what another one publishes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from places import PostgresPlace
from products import LEASE_SECONDS
from readers import Manner

if TYPE_CHECKING:
    from scene import Scene
    from writers import Writer

__all__ = ["consumer", "cut_sessions", "race_without_locks", "three_writers_paused", "two_writers_paused"]

#: What a consumer may be told, when what it reads is published anew again and again.
_INPUTS_MOVED = ("StageError", "RunError")


def two_writers_paused(scene: Scene) -> None:
    """Of two writers one is paused beyond its lease: what it does afterwards spoils nothing."""
    _paused(scene, 2)


def three_writers_paused(scene: Scene) -> None:
    """The same with three."""
    _paused(scene, 3)


def _paused(scene: Scene, count: int) -> None:
    writers = _start(scene, count)
    while not scene.is_over and all(writer.code is None for writer in writers):
        writer = scene.dice.choice(writers)
        time.sleep(scene.dice.uniform(0, 1))
        writer.pause()
        scene.kills += 1
        time.sleep(scene.dice.uniform(LEASE_SECONDS, 3 * LEASE_SECONDS))
        writer.go_on()
    _finish(scene, writers)


def race_without_locks(scene: Scene) -> None:
    """Three writers without any lock, paused now and then: the fence alone keeps the data right."""
    writers = _start(scene, 3, locks="NoLockManager")
    while not scene.is_over and all(writer.code is None for writer in writers):
        writer = scene.dice.choice(writers)
        time.sleep(scene.dice.uniform(0, 0.5))
        writer.pause()
        scene.kills += 1
        time.sleep(scene.dice.uniform(0, 1))
        writer.go_on()
    _finish(scene, writers)


def cut_sessions(scene: Scene) -> None:
    """The database ends the sessions of one of two writers at any moment: it fails, or goes on, and spoils nothing."""
    assert isinstance(scene.place, PostgresPlace)
    writers = _start(scene, 2)
    while not scene.is_over and all(writer.code is None for writer in writers):
        time.sleep(scene.dice.uniform(0, 0.5))
        scene.kills += scene.place.cut(scene.dice.choice(writers).name)
    _finish(scene, writers, may_fail=True)


def _start(scene: Scene, count: int, locks: str | None = None) -> list[Writer]:
    scene.publish(scene.next_number())
    scene.read(Manner("joined", metadata=scene.product.metadata), Manner("statement"))
    return [scene.write(scene.next_number(), step=count, locks=locks) for _ in range(count)]


def _finish(scene: Scene, writers: list[Writer], *, may_fail: bool = False) -> None:
    for writer in writers:
        if writer.code is not None:
            scene.complain(f"{writer.name} ended by itself, with {writer.code}")
        writer.stop()
    if not may_fail:
        scene.forbid_failures()
    number = scene.next_number()
    scene.publish(number)
    scene.settle(grows=False)
    scene.look(number)


def consumer(scene: Scene) -> None:
    """What a flow makes of a stage that others publish meanwhile is made of one number, and recorded as made of it."""
    scene.publish(1)
    derived = scene.another_history()
    scene.publish(1, stage="derived", history=derived)
    scene.read(Manner("statement"))
    scene.read(Manner("derived", stage="derived"), history=derived)
    producer = scene.write(2, step=1)
    consumer = scene.write(2, step=1, stage="derived", history=derived)
    while producer.code is None and consumer.code is None and not (scene.is_over and consumer.done):
        time.sleep(0.05)
    producer.stop()
    consumer.stop()
    scene.forbid_failures()
    scene.forbid_failures(*_INPUTS_MOVED, history=derived)
    # What was stored under the identity of other inputs than it was made of would now pass for valid.
    scene.publish(0, stage="derived", history=derived)
    scene.settle(grows=True)
    scene.look(scene.look(scene.history.newest), stage="derived")
