"""A password that is recognised wherever it is, and however it is escaped: by its first letters."""

from __future__ import annotations

CANARY = "c4n4ry7f3a9b/:@ %\"'x"
