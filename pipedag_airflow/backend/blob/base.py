"""What a blob store is: it keeps Python objects that are no tables.

A stored blob never changes: its location carries the generation that made it, and readers find the location in the
metadata, which change in the publish transaction. So a store needs no transaction of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from pipedag_airflow.backend.lock.files import construct

if TYPE_CHECKING:
    from collections.abc import Collection

    from pipedag_airflow.backend.lock.files import InstanceContext

__all__ = ["CHECK_STAGE", "BlobStore"]

#: A stage of this name is never built.
CHECK_STAGE = "pipedag_check"


class BlobStore(ABC):
    """Base of all blob stores."""

    @classmethod
    def from_config(cls, context: InstanceContext, **args: Any) -> Self:
        """Make the blob store that pipedag.yaml describes.

        Args:
            context: The configuration of the instance.
            **args: ``blob_store.args``.

        Returns:
            The store.
        """
        del context
        return construct(cls, "blob_store", args)

    def check(self) -> str:
        """Try the store: write a blob, read it, and remove it.

        Returns:
            What was tried.

        Raises:
            StoreError: When the storage cannot be written or read, or there is no key.
        """
        location = self.write("a try", stage=CHECK_STAGE, name="blob", generation=0)
        try:
            self.read(location)
        finally:
            self.drop(location)
        return f"{self!r}: a blob was written, read and removed"

    @abstractmethod
    def write(self, obj: Any, *, stage: str, name: str, generation: int) -> str:
        """Store an object.

        Writing the same stage, name and generation again replaces the object in one step: a step may run twice.

        Args:
            obj: The object.
            stage: The name of the stage.
            name: The name of the blob.
            generation: The generation of the stage that makes it.

        Returns:
            The location, to be kept in the metadata and given to ``read``.

        Raises:
            UnsupportedValueError: When the object cannot be stored.
            StoreError: When the storage cannot be written.
        """

    @abstractmethod
    def read(self, location: str) -> Any:
        """Load an object.

        Args:
            location: What ``write`` gave.

        Returns:
            The object.

        Raises:
            CacheError: When there is nothing at the location.
            BlobSignatureError: When what is there was not written by this installation as this blob.
            StoreError: When it cannot be loaded for another reason.
        """

    @abstractmethod
    def exists(self, location: str) -> bool:
        """Whether there is an object, without loading it.

        Args:
            location: What ``write`` gave.

        Returns:
            Whether there is.
        """

    def size(self, location: str) -> int | None:
        """How many bytes an object takes, where that costs nothing to know.

        Args:
            location: What ``write`` gave.

        Returns:
            The bytes; ``None`` where they are not known, or there is no object.
        """
        del location
        return None

    def others(self, stage: str, known: Collection[str]) -> dict[str, int]:
        """Return the objects of a stage that this installation has written, but for those that are known.

        Args:
            stage: The name of the stage.
            known: Their locations.

        Returns:
            The generations of the others, by location; empty where a store does not keep account of them.
        """
        del stage, known
        return {}

    @abstractmethod
    def link(self, *, stage: str, name: str, location: str) -> None:
        """Show an object at the documented path of its blob, for people who look there. Nothing of ours reads it.

        Args:
            stage: The name of the stage.
            name: The name of the blob.
            location: What ``write`` gave.

        Raises:
            CacheError: When there is nothing at the location.
            StoreError: When something that we did not make stands at the documented path.
        """

    @abstractmethod
    def unlink(self, *, stage: str, name: str) -> None:
        """Remove what ``link`` made, and nothing else.

        Args:
            stage: The name of the stage.
            name: The name of the blob.
        """

    @abstractmethod
    def drop(self, location: str) -> None:
        """Remove an object. Nothing happens when it is gone.

        Args:
            location: What ``write`` gave.
        """
