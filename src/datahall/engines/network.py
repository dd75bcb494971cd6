"""A neural network as data: layers by name and weights as safetensors, one byte form each, without anything that runs.

A file is what the safetensors format says: the header's length as u64, little-endian; the header, JSON that gives each
tensor's type, shape and place; then the tensors' bytes, one behind the other. The network itself stands in the header's
`__metadata__`. Only the bytes that `write_network` makes are read, so nothing can hide between tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from datahall.core.canonical import canonical_json
from datahall.core.errors import IntegrityError
from datahall.core.records import BundleManifest, Column, Task

MODEL_FILE = "model.safetensors"
MAX_LAYERS = 64
MAX_UNITS = 16_384
MAX_HEADER_BYTES = 1 << 20
NUM_SPECIAL_CODES = 2
"""Rows of an embedding before those of the known categories: one for unseen, one for missing."""

_METADATA = "__metadata__"
_KEY = "datahall.network"

LayerKind = Literal["linear", "relu", "gelu", "tanh", "layer_norm", "batch_norm", "dropout"]
Tensors = Mapping[str, np.ndarray]


class Category(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A category's embedding: the feature at `place` becomes `width` numbers, out of a row a code."""

    place: int
    num_codes: int
    width: int


class Layer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layer, from `num_in` to `num_out` numbers; they differ for `linear` only. `dropout` does nothing here."""

    kind: LayerKind
    num_in: int
    num_out: int


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a network computes of a row of `num_features` encoded values.

    `numbers` are the places of the features that are filled where missing, shifted and scaled; behind them come the
    embeddings of `categories`; all of it goes through `layers`, of which the last is linear.
    """

    task: Task
    num_features: int
    numbers: tuple[int, ...]
    categories: tuple[Category, ...]
    layers: tuple[Layer, ...]

    @property
    def num_inputs(self) -> int:
        """How many numbers the first layer takes."""
        return len(self.numbers) + sum(category.width for category in self.categories)


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor that a network has, by name, in the order of the file."""
    found: dict[str, tuple[int, ...]] = {}
    if network.numbers:
        found |= {f"numbers.{name}": (len(network.numbers),) for name in ("fill", "mean", "scale")}
    for place, category in enumerate(network.categories):
        found[f"categories.{place}"] = (category.num_codes, category.width)
    for place, layer in enumerate(network.layers):
        if layer.kind == "linear":
            found |= {f"layers.{place}.weight": (layer.num_out, layer.num_in), f"layers.{place}.bias": (layer.num_out,)}
        elif layer.kind in ("layer_norm", "batch_norm"):
            names = ("weight", "bias") if layer.kind == "layer_norm" else ("weight", "bias", "mean", "variance")
            found |= {f"layers.{place}.{name}": (layer.num_in,) for name in names}
    return found


def check_network(network: Network, features: Sequence[Column], num_outputs: int) -> None:
    """Raise IntegrityError unless the network is whole and takes these features to `num_outputs` numbers a row."""
    taken = [*network.numbers, *(category.place for category in network.categories)]
    if network.num_features != len(features) or not all(0 <= place < len(features) for place in taken):
        raise IntegrityError(f"the network does not take the manifest's {len(features)} features")
    if len(set(taken)) != len(taken) or any(features[place].kind == "category" for place in network.numbers):
        raise IntegrityError("the network takes a feature twice, or a category as a number")
    for category in network.categories:
        num_codes = len(features[category.place].categories) + NUM_SPECIAL_CODES
        if features[category.place].kind != "category" or category.num_codes != num_codes:
            raise IntegrityError(f"the network does not know the categories of '{features[category.place].name}'")
    _check_layers(network, num_outputs)


def _check_layers(network: Network, num_outputs: int) -> None:
    sizes = [category.width for category in network.categories]
    sizes += [size for layer in network.layers for size in (layer.num_in, layer.num_out)]
    if not 1 <= len(network.layers) <= MAX_LAYERS or not all(1 <= size <= MAX_UNITS for size in sizes):
        raise IntegrityError(f"a network has 1 to {MAX_LAYERS} layers of 1 to {MAX_UNITS} units")
    width = network.num_inputs
    for place, layer in enumerate(network.layers):
        if layer.num_in != width or (layer.kind != "linear" and layer.num_out != width):
            raise IntegrityError(f"layer {place} takes {layer.num_in} numbers where {width} come")
        width = layer.num_out
    if network.layers[-1].kind != "linear" or width != num_outputs:
        raise IntegrityError(f"the network ends in {width} numbers where its manifest says {num_outputs}")


def num_outputs(manifest: BundleManifest) -> int:
    """Return how many numbers a row's last layer gives: one a class, or one value."""
    return len(manifest.target.categories) if manifest.task == "classification" else 1


def write_network(network: Network, tensors: Tensors) -> bytes:
    """Return a network and its float32 tensors as safetensors bytes; equal arguments give equal bytes.

    Raises IntegrityError for tensors other than the network's, of another shape or type, or with a value not finite.
    """
    expected = shapes(network)
    if tensors.keys() != expected.keys():
        raise IntegrityError(f"the network has other tensors: {sorted(tensors.keys() ^ expected.keys())[:5]}")
    header: dict[str, object] = {_METADATA: {_KEY: canonical_json(network).decode()}}
    end = 0
    for name, shape in expected.items():
        array = tensors[name]
        if array.dtype != np.float32 or array.shape != shape or not np.isfinite(array).all():
            raise IntegrityError(f"tensor '{name}' is not {shape} finite numbers of float32")
        start, end = end, end + array.nbytes
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    raw = msgspec.json.encode(header)
    raw += b" " * (-len(raw) % 8)  # as the format has it: tensors lie at multiples of 8 bytes
    parts = (np.ascontiguousarray(tensors[name], dtype="<f4").tobytes() for name in expected)
    return b"".join((len(raw).to_bytes(8, "little"), raw, *parts))


def read_network(data: bytes | memoryview) -> tuple[Network, dict[str, np.ndarray]]:
    """Return the network in `data` and its tensors. Raises IntegrityError for any byte that `write_network` did not write."""
    raw = bytes(data)
    length = int.from_bytes(raw[:8], "little")
    if not 0 < length <= min(MAX_HEADER_BYTES, len(raw) - 8):
        raise IntegrityError("these bytes are not a network: the header's length is wrong")
    try:
        header = msgspec.json.decode(raw[8 : 8 + length])
        network = msgspec.json.decode(header[_METADATA][_KEY], type=Network)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise IntegrityError(f"these bytes are not a network: {error!s:.200}") from error
    tensors = {}
    offset = 8 + length
    for name, shape in shapes(network).items():
        count = math.prod(shape)
        if min(shape) < 0 or offset + 4 * count > len(raw):
            raise IntegrityError(f"the network ends within its tensor '{name}'")
        tensors[name] = np.frombuffer(raw, dtype="<f4", count=count, offset=offset).reshape(shape).astype(np.float32)
        offset += 4 * count
    if write_network(network, tensors) != raw:
        raise IntegrityError("the network is not in its one form")
    return network, tensors
