"""How often keys were asked for lately, in constant memory: a count-min sketch that ages.

Sources: G. Cormode, S. Muthukrishnan, "An Improved Data Stream Summary: The Count-Min Sketch" (2005), with the
conservative update of C. Estan, G. Varghese (2002) and the halving of TinyLFU (2017).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

MAX_COUNT = 15
_places: Callable[[bytes], tuple[int, int, int, int]] = struct.Struct(">4I").unpack
_HALVED = bytes(value // 2 for value in range(256))


class FrequencySketch:
    """Estimates counts of keys up to 15; an estimate is never below the true count since the last halving.

    Keys are digests of 16 bytes under a secret key: who asks cannot choose which of them share counters.
    """

    def __init__(self, num_keys: int) -> None:
        """Be precise for about `num_keys` different keys; takes 4 bytes for each, rounded up to a power of two."""
        width = 1 << max(6, (num_keys - 1).bit_length())
        self._mask = width - 1
        self._rows = tuple(bytearray(width) for _ in range(4))
        self.num_bytes = 4 * width
        self.num_added = 0
        """Since the last halving, half of those before it included."""

    def add(self, key: bytes) -> None:
        """Count one more request for `key`."""
        first, second, third, fourth = self._rows
        mask = self._mask
        a, b, c, d = _places(key)
        a, b, c, d = a & mask, b & mask, c & mask, d & mask
        count = first[a]  # spelled out: this is done for every request
        count = min(count, second[b])
        count = min(count, third[c])
        count = min(count, fourth[d])
        if count < MAX_COUNT:
            self.num_added += 1
            if first[a] == count:
                first[a] = count + 1
            if second[b] == count:
                second[b] = count + 1
            if third[c] == count:
                third[c] = count + 1
            if fourth[d] == count:
                fourth[d] = count + 1

    def estimate(self, key: bytes) -> int:
        """Return how often `key` was added, 0 to 15: the true number or more, halved as often as the sketch was."""
        mask = self._mask
        first, second, third, fourth = self._rows
        a, b, c, d = _places(key)
        return min(first[a & mask], second[b & mask], third[c & mask], fourth[d & mask])

    def halve(self) -> None:
        """Forget half: what was popular once must earn it again."""
        self._rows = tuple(row.translate(_HALVED) for row in self._rows)
        self.num_added //= 2
