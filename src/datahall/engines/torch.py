"""Runs a bundle's `model.safetensors`: a network that is data only, computed by torch on the processor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional

from datahall.core.errors import IntegrityError
from datahall.engines.base import TablePredictor
from datahall.engines.network import (
    MODEL_FILE,
    NUM_SPECIAL_CODES,
    Network,
    Tensors,
    check_network,
    num_outputs,
    read_network,
    write_network,
)


class TorchModel:
    """A fitted network; training measures it and the engine serves it through the same `scores`."""

    def __init__(self, network: Network, tensors: Tensors) -> None:
        self.network = network
        self._arrays = dict(tensors)
        self._tensors = {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}

    def scores(self, matrix: np.ndarray) -> np.ndarray:
        """Return probabilities of shape (rows, classes), or values of shape (rows,), for an encoded matrix."""
        with torch.inference_mode():
            outputs = forward(self.network, self._tensors, torch.from_numpy(matrix.astype(np.float32))).double()
            found = torch.softmax(outputs, dim=1) if self.network.task == "classification" else outputs[:, 0]
        scores: np.ndarray = found.numpy()
        return scores

    predict_proba = predict = scores
    """What `engines.sklearn.score` asks of a fitted pipeline."""

    def dump(self) -> bytes:
        """Return it as a bundle holds it."""
        return write_network(self.network, self._arrays)


def forward(
    network: Network, tensors: Mapping[str, torch.Tensor], matrix: torch.Tensor, *, dropout: float | None = None
) -> torch.Tensor:
    """Return the last layer's numbers, shape (rows, outputs), for an encoded float32 matrix of shape (rows, features).

    With `dropout`, a share, as training does it: units are dropped, and batch norms take the batch's own moments.
    """
    parts = []
    if network.numbers:
        numbers = matrix[:, list(network.numbers)]
        numbers = torch.where(torch.isnan(numbers), tensors["numbers.fill"], numbers)
        parts.append((numbers - tensors["numbers.mean"]) / tensors["numbers.scale"])
    for place, category in enumerate(network.categories):
        codes = matrix[:, category.place].long() + NUM_SPECIAL_CODES  # unseen is -2, missing is -1
        parts.append(functional.embedding(codes, tensors[f"categories.{place}"]))
    values = torch.cat(parts, dim=1)
    for place, layer in enumerate(network.layers):
        own = {name: tensors.get(f"layers.{place}.{name}") for name in ("weight", "bias", "mean", "variance")}
        if layer.kind == "linear":
            values = functional.linear(values, tensors[f"layers.{place}.weight"], own["bias"])
        elif layer.kind == "layer_norm":
            values = functional.layer_norm(values, (layer.num_in,), own["weight"], own["bias"])
        elif layer.kind == "batch_norm":
            moments = (own["mean"], own["variance"])
            values = functional.batch_norm(values, *moments, own["weight"], own["bias"], training=dropout is not None)
        elif layer.kind == "dropout":
            values = functional.dropout(values, dropout or 0.0, training=dropout is not None)
        else:
            values = _ACTIVATIONS[layer.kind](values)
    return values


_ACTIVATIONS = {"relu": torch.relu, "gelu": functional.gelu, "tanh": torch.tanh}


class TorchEngine(TablePredictor):
    """One network over a float32 matrix of shape (rows, features)."""

    _model: TorchModel

    def _load(self, files: Mapping[str, memoryview], num_threads: int) -> None:
        if set(files) != {MODEL_FILE}:
            raise IntegrityError(f"a torch bundle holds '{MODEL_FILE}' and nothing else, not {sorted(files)}")
        torch.set_num_threads(num_threads)
        network, tensors = read_network(files[MODEL_FILE])
        if network.task != self._manifest.task:
            raise IntegrityError(f"the network is one for {network.task}, not what its manifest says")
        check_network(network, self._manifest.features, num_outputs(self._manifest))
        self._model = TorchModel(network, tensors)

    def _scores(self, matrix: np.ndarray) -> np.ndarray:
        return self._model.scores(matrix)
