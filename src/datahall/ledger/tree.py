"""The Merkle tree of RFC 6962 over complete subtrees: root, growth, proofs and their verification.

A node `(level, index)` is the complete subtree over the leaves index * 2**level up to (index + 1) * 2**level.
Complete subtrees never change, so they are stored once; everything else is computed from O(log n) of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

Place = tuple[int, int]
Read = Callable[[list[Place]], list[bytes]]
"""Returns the stored hashes at the places, in their order; none for none."""

EMPTY_ROOT = hashlib.sha256().digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256(0x00 || data) (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node: SHA-256(0x01 || left || right) (RFC 6962, 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def peaks(start: int, stop: int) -> list[Place]:
    """Return the complete subtrees that tile the leaves [start, stop), from the left.

    `start` must be a multiple of the largest power of two that fits, as it is for every subtree of RFC 6962.
    """
    places = []
    while start < stop:
        level = (stop - start).bit_length() - 1
        places.append((level, start >> level))
        start += 1 << level
    return places


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash over subtrees that tile a range from the left, largest first."""
    if not hashes:
        return EMPTY_ROOT
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def range_hashes(ranges: Sequence[Place], read: Read) -> list[bytes]:
    """Return MTH(D[start:stop]) of RFC 6962 for each range (start, stop) that is a subtree of some tree; reads once."""
    tiles = [peaks(start, stop) for start, stop in ranges]
    stored = iter(read([place for tile in tiles for place in tile]))
    return [fold([next(stored) for _ in tile]) for tile in tiles]


def root(size: int, read: Read) -> bytes:
    """Return the root over the first `size` leaves."""
    return range_hashes([(0, size)], read)[0]


def root_over(leaves: Sequence[bytes]) -> bytes:
    """Return the root over all leaves (hashes) of a tree that is not kept: no part of it is stored or read.

    Goes up level by level; a node without a sibling rises as it is, which is how RFC 6962, 2.1, cuts a tree whose size
    is no power of two.
    """
    level, digest = list(leaves), hashlib.sha256
    while len(level) > 1:
        lone = level[-1:] if len(level) & 1 else []
        level = [digest(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
        level += lone
    return level[0] if level else EMPTY_ROOT


def append(size: int, leaves: Sequence[bytes], read: Read) -> tuple[dict[Place, bytes], bytes]:
    """Return the complete subtrees that `leaves` (hashes) add to a tree of `size`, and the new root.

    Reads O(log size) stored hashes, and hashes O(number of leaves) times.
    """
    frontier = read(peaks(0, size))
    added: dict[Place, bytes] = {}
    for index, leaf in enumerate(leaves, start=size):
        for level, value in enumerate(push(frontier, index, leaf)):
            added[level, index >> level] = value
    return added, fold(frontier)


def push(frontier: list[bytes], index: int, leaf: bytes) -> list[bytes]:
    """Put the leaf (hash) at `index` behind the complete subtrees in `frontier`, largest first, in place.

    Returns the complete subtrees that now end at this leaf, from level 0 upwards.
    """
    made = [leaf]
    while index & 1:  # a right child completes its parent
        made.append(node_hash(frontier.pop(), made[-1]))
        index >>= 1
    frontier.append(made[-1])
    return made


def inclusion_proof(index: int, size: int, read: Read) -> list[bytes]:
    """Return PATH(index, D[0:size]) of RFC 6962, 2.1.1, from the leaf upwards."""
    assert 0 <= index < size, "the leaf lies in the tree"
    start, stop, proof = 0, size, []
    while stop - start > 1:
        middle = start + _left_size(stop - start)
        if index < middle:
            proof.append((middle, stop))
            stop = middle
        else:
            proof.append((start, middle))
            start = middle
    return range_hashes(proof[::-1], read)


def consistency_proof(old: int, new: int, read: Read) -> list[bytes]:
    """Return PROOF(old, D[0:new]) of RFC 6962, 2.1.2; empty where `old` is 0 or `new`."""
    assert 0 <= old <= new, "a tree only grows"
    if old in {0, new}:
        return []
    start, stop, parts, whole = 0, new, [], True
    while stop != old:
        middle = start + _left_size(stop - start)
        if old <= middle:
            parts.append((middle, stop))
            stop = middle
        else:
            parts.append((start, middle))
            start, whole = middle, False
    if not whole:  # the verifier knows the old root already, but no part of it
        parts.append((start, stop))
    return range_hashes(parts[::-1], read)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> bool:
    """Return whether `proof` shows the leaf hash at `index` under the root of `size` leaves (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if place & 1 or place == last:
            result = node_hash(sibling, result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and result == expected_root


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether `proof` shows that the tree of `new` leaves extends the one of `old` (RFC 9162, 2.1.4.2)."""
    if not 0 <= old <= new:
        return False
    if old in {0, new}:
        return not proof and old_root == (new_root if old == new else EMPTY_ROOT)
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    place, last = old - 1, new - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    was = now = path[0]
    for sibling in path[1:]:
        if last == 0:
            return False
        if place & 1 or place == last:
            was, now = node_hash(sibling, was), node_hash(sibling, now)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            now = node_hash(now, sibling)
        place, last = place >> 1, last >> 1
    return last == 0 and was == old_root and now == new_root


def _left_size(size: int) -> int:
    """Return the largest power of two below `size`: how many leaves lie in the left subtree."""
    return 1 << ((size - 1).bit_length() - 1)
