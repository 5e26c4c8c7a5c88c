"""What every blob store must do.

class TestMyBlobStore(BlobStoreSuite):
@pytest.fixture
def make_store(self, tmp_path):
return functools.partial(MyBlobStore, tmp_path)
"""

from __future__ import annotations

import multiprocessing
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pipedag_airflow.errors import CacheError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipedag_airflow.backend.blob import BlobStore

__all__ = ["BlobStoreSuite", "write_blob"]

_PATIENCE = 60.0  # seconds; only how long a broken store takes to fail


def write_blob(make_store: Callable[[], BlobStore], obj: Any, generation: int, pipe: Any) -> None:
    """Write a blob in another process.

    Args:
        make_store: Makes the store.
        obj: The object.
        generation: The generation.
        pipe: Takes the location.
    """
    pipe.send(make_store().write(obj, stage="s", name="b", generation=generation))


class BlobStoreSuite:
    """Tests of one blob store."""

    separate_processes: ClassVar[bool] = True
    """Whether ``make_store`` can be pickled and gives stores of the same blobs in other processes."""

    @pytest.fixture
    def make_store(self) -> Callable[[], BlobStore]:
        """Give a callable that makes a store; all stores of one test share their blobs. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, make_store: Callable[[], BlobStore]) -> BlobStore:
        """A store."""
        return make_store()

    @pytest.mark.parametrize(
        "obj",
        [None, 0, "λ", b"\x00" * 100_000, {"a": [1, (2, {3})]}, Decimal("1.10"), float("inf"), b"pipedag-blob"],
        ids=["none", "zero", "text", "bytes", "nested", "decimal", "inf", "like a trailer"],
    )
    def test_what_was_written_is_read(self, make_store: Callable[[], BlobStore], obj: object) -> None:
        """Same value and same type, by another store object."""
        location = make_store().write(obj, stage="s", name="b", generation=1)
        assert isinstance(location, str)
        again = make_store().read(location)
        assert again == obj
        assert type(again) is type(obj)
        assert make_store().exists(location)

    def test_generations_do_not_disturb_each_other(self, store: BlobStore) -> None:
        """A reader of the published one sees nothing of the next."""
        old = store.write("old", stage="s", name="b", generation=35)
        new = store.write("new", stage="s", name="b", generation=36)
        assert old != new
        assert (store.read(old), store.read(new)) == ("old", "new")

    def test_a_step_may_write_twice(self, store: BlobStore) -> None:
        """The location stays, the object is replaced."""
        first = store.write("first", stage="s", name="b", generation=1)
        assert store.write("second", stage="s", name="b", generation=1) == first
        assert store.read(first) == "second"

    def test_a_missing_blob_is_a_cache_error(self, store: BlobStore) -> None:
        """Also after it was dropped, and dropping twice is no error."""
        location = store.write(1, stage="s", name="b", generation=1)
        store.drop(location)
        store.drop(location)
        assert not store.exists(location)
        with pytest.raises(CacheError):
            store.read(location)

    def test_what_cannot_be_stored_is_refused_by_name(self, store: BlobStore) -> None:
        """The message names stage, blob and type, and an earlier object of this place stays."""
        location = store.write("kept", stage="the_stage", name="the_blob", generation=1)
        with pytest.raises(UnsupportedValueError, match=r"'the_blob' of stage 'the_stage'.*lock"):
            store.write(threading.Lock(), stage="the_stage", name="the_blob", generation=1)
        assert store.read(location) == "kept"

    @pytest.mark.parametrize("name", ["a b", "Größe/λ", "..", ".", "a%2Fb", "x" * 300, "B", "b", "b.g1", '<>:"|?*\\'])
    def test_a_blob_and_a_stage_may_have_any_name(self, store: BlobStore, name: str) -> None:
        """And none of them is taken for another."""
        names = ("b", "b.g1", "b.g1.pkl", name)
        locations = {
            store.write((stage, blob), stage=stage, name=blob, generation=1): (stage, blob)
            for stage in names
            for blob in names
        }
        assert len(locations) == len(set(names)) ** 2
        for location, content in locations.items():
            store.link(stage=content[0], name=content[1], location=location)
        assert {location: store.read(location) for location in locations} == locations

    def test_links_follow_and_leave_the_blobs_alone(self, store: BlobStore) -> None:
        """Linking again moves the link; removing it, also twice, removes no blob."""
        old = store.write("old", stage="s", name="b", generation=1)
        new = store.write("new", stage="s", name="b", generation=2)
        store.link(stage="s", name="b", location=old)
        store.link(stage="s", name="b", location=new)
        store.link(stage="s", name="b", location=new)
        store.unlink(stage="s", name="b")
        store.unlink(stage="s", name="b")
        assert (store.read(old), store.read(new)) == ("old", "new")

    def test_a_link_to_nothing_is_refused(self, store: BlobStore) -> None:
        """The published blob must be there."""
        location = store.write("old", stage="s", name="b", generation=1)
        store.drop(location)
        with pytest.raises(CacheError):
            store.link(stage="s", name="b", location=location)

    def test_other_processes_read_what_was_written(self, make_store: Callable[[], BlobStore], store: BlobStore) -> None:
        """Several start on an empty store at one time, and all agree."""
        if not self.separate_processes:
            pytest.skip("the store says that its blobs live in one process")
        context = multiprocessing.get_context("spawn")
        pipes, processes = [], []
        for number in range(4):
            ours, theirs = context.Pipe()
            pipes.append(ours)
            processes.append(context.Process(target=write_blob, args=(make_store, f"b{number}", number, theirs)))
            processes[-1].start()
        for number, pipe in enumerate(pipes):
            assert pipe.poll(_PATIENCE), "the other process does not answer"
            assert store.read(pipe.recv()) == f"b{number}"
        for process in processes:
            process.join(_PATIENCE)
