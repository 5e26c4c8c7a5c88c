"""The format of a blob file: a pickle, and behind it a signed trailer.

    pickle | location | length of the location (4 bytes) | MAGIC (16 bytes) | HMAC-SHA256 of all before it (32 bytes)

A plain ``pickle.load`` stops at the end of the pickle, so people can still look into the files. The location is signed
too: a file that was signed for one place is refused at another.
"""

from __future__ import annotations

import hmac
import pickle
from typing import IO, Any

import attrs

__all__ = ["Content", "SigningFile", "dump", "parse", "unpickle"]

MAGIC = b"\x00pipedag-blob/1\n"
_LENGTH = 4
_DIGEST = 32


class SigningFile:
    """A file to write to that computes the signature on the way, so that a big pickle is never held in memory.

    Args:
        file: The open file.
        key: The key.
    """

    def __init__(self, file: IO[bytes], key: bytes) -> None:
        self._file = file
        self._hmac = hmac.new(key, digestmod="sha256")

    def write(self, data: bytes) -> int:
        """Write bytes.

        Args:
            data: The bytes.

        Returns:
            How many.
        """
        self._hmac.update(data)
        return self._file.write(data)

    def finish(self, location: str) -> None:
        """Write the trailer.

        Args:
            location: The location that the file is for.
        """
        name = location.encode()
        self.write(name + len(name).to_bytes(_LENGTH, "big") + MAGIC)
        self._file.write(self._hmac.digest())


@attrs.frozen
class Content:
    """A blob file in parts.

    Args:
        data: The whole file.
        end: Where the pickle ends.
        location: Where the trailer says that it belongs; ``None`` without a trailer.
    """

    data: bytes
    end: int
    location: str | None

    def is_signed_by(self, key: bytes) -> bool:
        """Whether the trailer's signature is right.

        Args:
            key: The key.

        Returns:
            Whether it is.
        """
        signed = memoryview(self.data)[:-_DIGEST]
        return self.location is not None and hmac.compare_digest(
            hmac.new(key, signed, "sha256").digest(), self.data[-_DIGEST:]
        )


def parse(data: bytes) -> Content:
    """Take a blob file apart. Nothing is trusted or unpickled yet.

    Args:
        data: The whole file.

    Returns:
        Its parts; without a location when there is no well-formed trailer.
    """
    unsigned = Content(data, len(data), None)
    magic = len(data) - _DIGEST - len(MAGIC)
    if magic < _LENGTH or data[magic : magic + len(MAGIC)] != MAGIC:
        return unsigned
    end = magic - _LENGTH - int.from_bytes(data[magic - _LENGTH : magic], "big")
    if end < 0:
        return Content(data, len(data), "")  # a trailer, and a damaged one: never to be taken for an unsigned file
    return Content(data, end, data[end : magic - _LENGTH].decode("utf-8", "replace"))


def dump(obj: Any, file: SigningFile) -> None:
    """Pickle an object with the newest protocol.

    Args:
        obj: The object.
        file: Where to.
    """
    pickle.dump(obj, file, protocol=pickle.HIGHEST_PROTOCOL)


def unpickle(content: Content) -> Any:
    """Unpickle a file that was found to be ours, or that the configuration trusts.

    Args:
        content: Its parts.

    Returns:
        The object.
    """
    return pickle.loads(memoryview(content.data)[: content.end])  # noqa: S301 (the caller has checked the signature)
