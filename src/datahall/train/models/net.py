"""A deep network in torch, with embeddings for categories."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from datahall.core.records import Column, Task
from datahall.spec.kinds import Many
from datahall.train.models.base import Choice, Range, TrainableConfig

if TYPE_CHECKING:  # an application file is checked without loading numpy
    from datahall.train.table import Rows


class Net(TrainableConfig):
    """A network of fully connected layers, fitted by AdamW (Loshchilov and Hutter 2019) and stopped early, for either task.

    A tenth of the training rows is set aside, and the fit with the least loss on it is kept: the validation rows stay
    unseen, so that figures and intervals measured on them are honest. Categories become embeddings. Needs the extra
    `torch`, also where it is served.
    """

    TASKS: ClassVar[tuple[Task, ...]] = ("classification", "regression")
    SPACE: ClassVar[Mapping[str, Range | Choice]] = {
        "layers": Choice(((64,), (128,), (128, 64), (256, 128))),
        "dropout": Range(0.0, 0.5),
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "weight_decay": Range(1e-5, 1e-1, log=True),
    }

    layers: Many[Annotated[int, Field(ge=1, le=4096)]] = Field(
        default=(128, 64), min_length=1, max_length=8, description="Units of each hidden layer."
    )
    activation: Literal["relu", "gelu", "tanh"] = Field(default="relu", description="What follows each hidden layer.")
    norm: Literal["none", "layer", "batch"] = Field(
        default="none", description="`layer` or `batch` normalises each hidden layer before its activation."
    )
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of units that are left out in each step.")
    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="Step size.")
    weight_decay: float = Field(default=1e-2, ge=0, le=10, description="How fast weights shrink by themselves.")
    num_epochs: int = Field(default=100, ge=1, le=10_000, description="Passes over the training rows at most.")
    patience: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="Passes without a smaller loss on the rows set aside, after which it stops.",
    )
    batch_rows: int = Field(default=64, ge=2, le=65_536, description="Rows of one step.")

    @classmethod
    def missing(cls) -> tuple[str, str] | None:
        """Return torch and its extra where it is not installed."""
        return None if find_spec("torch") else ("torch", "torch")

    def fit_rows(self, rows: Rows, features: tuple[Column, ...], task: Task, seed: int) -> Any:
        """Return a fitted `engines.torch.TorchModel`; equal arguments give the same bytes."""
        from datahall.train.network import NetSettings, fit_network  # noqa: PLC0415  (imports torch, only to fit)

        return fit_network(NetSettings(**self.model_dump()), rows, features, task, seed)
