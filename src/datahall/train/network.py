"""Fits a network: its shape from the settings, its weights by AdamW on one thread, the best of its epochs kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec
import numpy as np
import torch
from torch.nn import functional

from datahall.core.errors import UserError
from datahall.core.records import Column, Task
from datahall.core.seeds import derive_seed
from datahall.engines.network import NUM_SPECIAL_CODES, Category, Layer, LayerKind, Network, shapes
from datahall.engines.torch import TorchModel, forward
from datahall.train.prepare import chosen_places
from datahall.train.table import Rows

ASIDE = 10
"""One training row in so many says when to stop; the weights are fitted to the others."""
MAX_WIDTH = 16
"""Numbers of an embedding at most."""
_FIXED = ("fill", "mean", "scale", "variance")
"""Tensors that no gradient changes: the inputs' and the batch norms' moments."""


class NetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `model: net` says of a network and its fit; `train.models.net.Net` describes each."""

    columns: tuple[str, ...] | None
    layers: tuple[int, ...]
    activation: Literal["relu", "gelu", "tanh"]
    norm: Literal["none", "layer", "batch"]
    dropout: float
    learning_rate: float
    weight_decay: float
    num_epochs: int
    patience: int
    batch_rows: int


def fit_network(config: NetSettings, rows: Rows, features: tuple[Column, ...], task: Task, seed: int) -> TorchModel:
    """Return a fitted network; the same arguments give the same bytes on one machine.

    Raises UserError where `columns` names no feature, or where there are too few rows to set some aside.
    """
    places = chosen_places(features, config.columns)
    if len(rows) < 2 * ASIDE:
        raise UserError(
            f"a net needs at least {2 * ASIDE} training rows", hint="a simpler model suits so small a table"
        )
    order = np.random.default_rng(derive_seed(seed, "net", "aside")).permutation(len(rows))
    aside, fitted = rows.take(order[: len(rows) // ASIDE]), rows.take(order[len(rows) // ASIDE :])
    num_outputs = int(rows.target.max()) + 1 if task == "classification" else 1
    centre, spread = 0.0, 1.0
    if task == "regression":
        centre, spread = float(fitted.target.mean()), float(fitted.target.std()) or 1.0
        aside, fitted = (Rows(part.matrix, (part.target - centre) / spread) for part in (aside, fitted))
    network = _network(config, features, places, task, num_outputs)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "net", "weights"))
        best = _descend(config, network, _initial(network, fitted), fitted, aside)
    if task == "regression":
        # The target was standardised; its scale goes back into the last layer, which is linear.
        name = f"layers.{len(network.layers) - 1}"
        best[f"{name}.weight"] *= spread
        best[f"{name}.bias"] = best[f"{name}.bias"] * spread + centre
    if not all(bool(torch.isfinite(tensor).all()) for tensor in best.values()):
        raise UserError("the fit has diverged: its weights are not finite", hint="lower the learning rate")
    return TorchModel(network, {name: tensor.numpy() for name, tensor in best.items()})


def _network(
    config: NetSettings, features: tuple[Column, ...], places: list[int], task: Task, num_outputs: int
) -> Network:
    categories = []
    for place in places:
        if features[place].kind == "category":
            num_codes = len(features[place].categories) + NUM_SPECIAL_CODES
            categories.append(
                Category(place=place, num_codes=num_codes, width=min(MAX_WIDTH, 1 + math.isqrt(num_codes)))
            )
    numbers = tuple(place for place in places if features[place].kind != "category")
    layers: list[Layer] = []
    width = len(numbers) + sum(category.width for category in categories)
    for units in config.layers:
        layers.append(Layer(kind="linear", num_in=width, num_out=units))
        width = units
        if config.norm != "none":
            kind: LayerKind = "layer_norm" if config.norm == "layer" else "batch_norm"
            layers.append(Layer(kind=kind, num_in=width, num_out=width))
        layers.append(Layer(kind=config.activation, num_in=width, num_out=width))
        if config.dropout:
            layers.append(Layer(kind="dropout", num_in=width, num_out=width))
    layers.append(Layer(kind="linear", num_in=width, num_out=num_outputs))
    return Network(
        task=task, num_features=len(features), numbers=numbers, categories=tuple(categories), layers=tuple(layers)
    )


def _initial(network: Network, rows: Rows) -> dict[str, torch.Tensor]:
    """Return weights to start from: linear layers as torch's own do (He et al. 2015), embeddings small, norms neutral."""
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in shapes(network).items():
        owner, _, what = name.rpartition(".")
        if owner == "categories":
            tensors[name] = torch.randn(shape) * 0.1
            # A code that no training row has must count for nothing, as everywhere in Datahall.
            tensors[name][_unmet(network.categories[int(what)], rows)] = 0.0
        elif len(shape) > 1:
            tensors[name] = torch.empty(shape)
            torch.nn.init.kaiming_uniform_(tensors[name], a=math.sqrt(5))
        else:
            tensors[name] = torch.ones(shape) if what in ("weight", "variance") else torch.zeros(shape)
    if network.numbers:
        tensors |= _moments(rows.matrix[:, list(network.numbers)])
    return tensors


def _unmet(category: Category, rows: Rows) -> list[int]:
    met = set((rows.matrix[:, category.place].astype(int) + NUM_SPECIAL_CODES).tolist())
    return [code for code in range(category.num_codes) if code not in met]


def _moments(numbers: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the median to fill gaps with, and mean and deviation after that, of each column."""
    empty = np.isnan(numbers).all(axis=0)
    fill = np.zeros(numbers.shape[1])
    fill[~empty] = np.nanmedian(numbers[:, ~empty].astype(np.float64), axis=0)
    filled = np.where(np.isnan(numbers), fill, numbers)
    deviation = filled.std(axis=0)
    moments = {"fill": fill, "mean": filled.mean(axis=0), "scale": np.where(deviation > 0, deviation, 1.0)}
    return {f"numbers.{name}": torch.from_numpy(values.astype(np.float32)) for name, values in moments.items()}


def _descend(
    config: NetSettings, network: Network, tensors: dict[str, torch.Tensor], fitted: Rows, aside: Rows
) -> dict[str, torch.Tensor]:
    """Return the tensors of the epoch whose loss on `aside` is least; stop after `patience` epochs without a lesser."""
    learnt = [tensor.requires_grad_() for name, tensor in tensors.items() if name.rpartition(".")[2] not in _FIXED]
    optimizer = torch.optim.AdamW(learnt, lr=config.learning_rate, weight_decay=config.weight_decay)
    matrix, target = _tensors(fitted, network.task)
    aside_matrix, aside_target = _tensors(aside, network.task)
    best, least, since = _copied(tensors), math.inf, 0
    for _ in range(config.num_epochs):
        order = torch.randperm(len(target))
        for start in range(0, len(target), config.batch_rows):
            batch = order[start : start + config.batch_rows]
            if len(batch) == 1:  # a batch norm has no moments of one row
                continue
            optimizer.zero_grad()
            outputs = forward(network, tensors, matrix[batch], dropout=config.dropout)
            torch.autograd.backward(_loss(network, outputs, target[batch]))
            optimizer.step()
        with torch.inference_mode():
            loss = float(_loss(network, forward(network, tensors, aside_matrix), aside_target))
        since += 1
        if loss < least:
            best, least, since = _copied(tensors), loss, 0
        if since >= config.patience or not math.isfinite(loss):
            break
    return best


def _tensors(rows: Rows, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    kind = np.int64 if task == "classification" else np.float32
    return torch.from_numpy(rows.matrix), torch.from_numpy(rows.target.astype(kind))


def _loss(network: Network, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if network.task == "classification":
        return functional.cross_entropy(outputs, target)
    return functional.mse_loss(outputs[:, 0], target)


def _copied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sum in one order, whatever the machine: another number of threads changes last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
