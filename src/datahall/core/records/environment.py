"""The software and the class of machine under which something was made."""

from __future__ import annotations

from typing import ClassVar

from datahall.core.records.base import Record


class Environment(Record, frozen=True, kw_only=True):
    """Locked packages, interpreter and hardware class; `id` is `env_` and the digest of the rest."""

    KIND: ClassVar[str] = "environment"

    python: str
    platform: str
    packages: dict[str, str]
    """Distribution name to exact version, of everything installed."""
    datahall_digest: str
    """Digest of Datahall's own source tree: what ran, not what a version number claims."""
    node_class: str
