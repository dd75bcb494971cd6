"""Every random choice follows from one number in the application file."""

from __future__ import annotations

import hashlib


def derive_seed(root: int, *labels: str | int) -> int:
    """Return a seed in [0, 2**32) for the purpose that `labels` names.

    Different labels give independent streams, so adding one consumer never shifts another's numbers.
    """
    text = "\x1f".join([str(root), *map(str, labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
