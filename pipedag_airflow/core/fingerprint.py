"""Short, stable hashes: 100 bits of SHA-256 in lower-case base 32."""

from __future__ import annotations

import base64
import hashlib
import uuid

__all__ = ["fingerprint", "random_fingerprint"]

_LENGTH = 20


def fingerprint(*parts: str) -> str:
    """Return the hash of a sequence of strings.

    Each part is prefixed with its length, so ``("ab", "c")`` and ``("a", "bc")`` differ. The result is 20 characters
    long, fits into any identifier, and is the same in every process.

    Example:
        >>> fingerprint("clean", "1.0") == fingerprint("clean", "1.0")
        True
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return base64.b32encode(digest.digest()[:15]).decode().lower()[:_LENGTH]


def random_fingerprint() -> str:
    """Return a hash that no other call will ever return: the identity of something that must not be reused."""
    return fingerprint(uuid.uuid4().hex)
