"""Cases in which the process that publishes, or the database, dies."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from places import PostgresPlace
from readers import Manner

if TYPE_CHECKING:
    from scene import Scene

__all__ = ["crash_points", "random_kills", "server_stops"]

#: At this place, and only there, the new number is what readers see.
_AFTER_PUBLISH = "publish.committed"


def crash_points(scene: Scene) -> None:
    """A kill at any step leaves the old number or the new one, as the step says, and the next run goes on by itself."""
    scene.publish(scene.next_number())
    scene.read(Manner("joined", metadata=scene.product.metadata))
    while not scene.is_over:
        for point in scene.product.crash_points:
            old, new = scene.last_number, scene.next_number()
            writer = scene.write(new, crash_point=point)
            writer.wait()
            if writer.code != -signal.SIGKILL:
                scene.complain(f"the process did not die at {point}, but ended with {writer.code}")
            scene.kills += 1
            scene.look(new if point == _AFTER_PUBLISH else old)
            _converge(scene, old, new)
    scene.settle(grows=False)


def random_kills(scene: Scene) -> None:
    """A kill at any moment leaves the old number or the new one, and the next run goes on by itself."""
    scene.publish(scene.next_number())
    scene.read(Manner("joined", metadata=scene.product.metadata))
    while not scene.is_over:
        old, new = scene.last_number, scene.next_number()
        writer = scene.write(new)
        writer.wait(lambda writer: writer.begun > 0)
        if not writer.wait(seconds=_some_seconds(scene)):
            writer.kill()
            scene.kills += 1
        scene.look(old, new)
        _converge(scene, old, new)
    scene.settle(grows=False)


def server_stops(scene: Scene) -> None:
    """When the server is stopped at once, what was published is still there, and the next run goes on by itself."""
    assert isinstance(scene.place, PostgresPlace)
    scene.publish(scene.next_number())
    scene.read(Manner("joined", metadata=scene.product.metadata))
    while not scene.is_over:
        writer = scene.write(scene.next_number(), step=1)
        writer.wait(lambda writer: writer.begun > 0)
        writer.wait(seconds=2 * _some_seconds(scene))
        scene.place.crash()
        scene.kills += 1
        writer.kill()
        last = scene.history.publishes[-1].number
        scene.look(*range(scene.history.newest, last + 1))
        _converge(scene, last, last)
    scene.settle(grows=True)


def _some_seconds(scene: Scene) -> float:
    """Return a time within which a publish is likely to be at work."""
    latest = [publish for publish in scene.history.publishes if publish.outcome == "published"][-4:]
    return scene.dice.uniform(0, 1.2 * max(publish.ended - publish.begun for publish in latest))


def _converge(scene: Scene, *numbers: int) -> None:
    """Publish one of the numbers: that works, without help, and it is what readers see then."""
    number = scene.dice.choice(numbers)
    scene.publish(number)
    scene.look(number)
    scene.last_number = number
