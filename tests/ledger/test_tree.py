"""The tree is the one of RFC 6962: against its definition, known vectors, and every altered proof."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahall.ledger import tree

# The leaves and roots of certificate-transparency's reference tests (merkletree_test: kInputs, kRoots).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
SIZES = st.integers(1, 70)


def mth(leaves):
    """The root by its definition (RFC 6962, 2.1), over raw leaves."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    left = 1
    while left * 2 < len(leaves):
        left *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:left]) + mth(leaves[left:])).digest()


def leaves_of(size):
    return [number.to_bytes(2) for number in range(size)]


@given(SIZES)
def test_a_root_over_all_leaves_at_once_is_the_root_by_its_definition(size):
    leaves = leaves_of(size)
    assert tree.root_over([tree.leaf_hash(leaf) for leaf in leaves]) == mth(leaves)


def test_nothing_has_the_root_of_the_empty_tree():
    assert tree.root_over([]) == mth([])


class Grown:
    """A tree grown in one go or in steps, its nodes in a dict; counts what is read."""

    def __init__(self, leaves, steps=()):
        self.nodes, self.num_read, size = {}, 0, 0
        self.root = tree.EMPTY_ROOT
        for stop in (*sorted(steps), len(leaves)):
            added, self.root = tree.append(size, [tree.leaf_hash(leaf) for leaf in leaves[size:stop]], self.read)
            assert not added.keys() & self.nodes.keys(), "a complete subtree is written once"
            self.nodes.update(added)
            size = stop

    def read(self, places):
        self.num_read += len(places)
        return [self.nodes[place] for place in places]


@pytest.mark.parametrize("size", range(1, 9))
def test_known_roots(size):
    grown = Grown(LEAVES[:size])
    assert grown.root.hex() == ROOTS[size - 1]
    assert tree.root(size, grown.read) == grown.root


def test_the_empty_tree():
    assert tree.root(0, Grown([]).read) == tree.EMPTY_ROOT == mth([])
    assert tree.append(0, [], Grown([]).read) == ({}, tree.EMPTY_ROOT)


@given(size=st.integers(0, 200), steps=st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=60, deadline=None)
def test_however_it_grows_the_root_is_the_definition(size, steps):
    leaves = leaves_of(size)
    grown = Grown(leaves, [step for step in steps if step <= size])
    assert grown.root == mth(leaves)
    assert tree.root(size, grown.read) == mth(leaves)


def test_growing_reads_only_the_frontier():
    grown = Grown(leaves_of(1000), [999])
    grown.num_read = 0
    tree.append(1000, [bytes(32)] * 24, grown.read)
    assert grown.num_read == (1000).bit_count()


@given(data=st.data(), size=SIZES)
@settings(max_examples=80, deadline=None)
def test_inclusion_holds_and_nothing_altered_does(data, size):
    index = data.draw(st.integers(0, size - 1))
    leaves = leaves_of(size)
    grown = Grown(leaves)
    leaf, root = tree.leaf_hash(leaves[index]), grown.root
    proof = tree.inclusion_proof(index, size, grown.read)
    assert len(proof) <= (size - 1).bit_length()
    assert tree.verify_inclusion(leaf, index, size, proof, root)
    assert not tree.verify_inclusion(tree.leaf_hash(b"another"), index, size, proof, root)
    assert not tree.verify_inclusion(leaf, index, size, proof, bytes(32))
    assert not tree.verify_inclusion(leaf, index, size, [*proof, bytes(32)], root)
    for other in set(range(-1, size + 1)) - {index}:
        assert not tree.verify_inclusion(leaf, other, size, proof, root)
    for number in range(len(proof)):
        assert not tree.verify_inclusion(leaf, index, size, altered(proof, number), root)
        assert not tree.verify_inclusion(leaf, index, size, proof[:number] + proof[number + 1 :], root)


@given(data=st.data(), new=SIZES)
@settings(max_examples=80, deadline=None)
def test_consistency_holds_and_nothing_altered_does(data, new):
    old = data.draw(st.integers(1, new))
    leaves = leaves_of(new)
    grown = Grown(leaves)
    old_root, root = mth(leaves[:old]), grown.root
    proof = tree.consistency_proof(old, new, grown.read)
    assert tree.verify_consistency(old, old_root, new, root, proof)
    assert not tree.verify_consistency(old, bytes(32), new, root, proof)
    assert not tree.verify_consistency(old, old_root, new, bytes(32), proof)
    assert not tree.verify_consistency(old, old_root, new, root, [*proof, bytes(32)])
    for number in range(len(proof)):
        assert not tree.verify_consistency(old, old_root, new, root, altered(proof, number))
        assert not tree.verify_consistency(old, old_root, new, root, proof[:number] + proof[number + 1 :])
    forked = [b"forked", *leaves[1:]]
    assert not tree.verify_consistency(old, mth(forked[:old]), new, root, proof)


@pytest.mark.parametrize("new", range(1, 34))
def test_every_pair_of_sizes_is_consistent_and_every_leaf_included(new):
    leaves = leaves_of(new)
    grown = Grown(leaves)
    for old in range(new + 1):
        proof = tree.consistency_proof(old, new, grown.read)
        assert tree.verify_consistency(old, mth(leaves[:old]), new, grown.root, proof)
        if 0 < old < new:
            assert not tree.verify_consistency(old, mth(leaves[:old]), 2 * new + 1, grown.root, proof)
    for index in range(new):
        proof = tree.inclusion_proof(index, new, grown.read)
        assert tree.verify_inclusion(tree.leaf_hash(leaves[index]), index, new, proof, grown.root)


def test_sizes_that_make_no_sense_prove_nothing():
    grown = Grown(leaves_of(4))
    assert not tree.verify_consistency(5, grown.root, 4, grown.root, [])
    assert not tree.verify_consistency(-1, grown.root, 4, grown.root, [])
    assert not tree.verify_consistency(4, grown.root, 4, mth(leaves_of(3)), [])
    assert not tree.verify_consistency(0, grown.root, 4, grown.root, [])
    assert not tree.verify_consistency(3, mth(leaves_of(3)), 4, grown.root, [])
    assert not tree.verify_inclusion(grown.root, 0, 0, [], grown.root)
    for call in (lambda: tree.inclusion_proof(4, 4, grown.read), lambda: tree.consistency_proof(5, 4, grown.read)):
        with pytest.raises(AssertionError):
            call()


def altered(proof, number):
    return [bytes(32) if index == number else value for index, value in enumerate(proof)]


def test_a_tree_does_not_extend_a_larger_one():
    """Sizes are part of the question: with equal roots and no proof only equal sizes are consistent."""
    root = b"\x01" * 32
    assert tree.verify_consistency(2, root, 2, root, [])
    assert not tree.verify_consistency(2, root, 1, root, [])
    assert not tree.verify_consistency(-1, root, 1, root, [])
