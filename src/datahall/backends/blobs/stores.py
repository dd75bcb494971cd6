"""The blob stores by name; choosing one imports it, and says which extra it needs where that is missing."""

from __future__ import annotations

from typing import Any

from datahall.core.registry import Registry

STORES: Registry[Any] = Registry(
    "blob store",
    {
        "local": "datahall.backends.blobs.local:LocalBlobStore",
        "memory": "datahall.backends.blobs.memory:MemoryBlobStore",
        "objects": "datahall.backends.blobs.objects:ObjectBlobStore",
        "cached": "datahall.backends.blobs.cached:CachedBlobStore",
    },
    extras={"objects": "objects", "cached": "objects"},
)
