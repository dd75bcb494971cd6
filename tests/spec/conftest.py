"""Small model and claim kinds, so that the application file is tested without any stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import Field

from datahall.core.records import Task
from datahall.core.registry import Registry
from datahall.spec.kinds import ClaimConfig, Direction, Kinds, Many, ModelConfig

BOTH: tuple[Task, ...] = ("classification", "regression")


class Forest(ModelConfig):
    TASKS: ClassVar[tuple[Task, ...]] = BOTH
    trees: int = Field(default=100, ge=1, description="How many trees.")
    depth: int | None = Field(default=None, ge=1, description="How deep.")
    columns: Many[str] | None = Field(default=None, description="Which features.")
    balanced: bool = Field(default=False, description="Whether classes count alike.")

    def misfits(self, task: Task) -> dict[str, str]:
        return {"balanced": "weighs classes, which a regression has none of"} if task == "regression" else {}

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        del task
        return {"trees": 50, "search": {"trials": 5}}


class Logistic(ModelConfig):
    TASKS: ClassVar[tuple[Task, ...]] = ("classification",)
    c: float = Field(default=1.0, gt=0, description="Inverse strength of the penalty.")

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        del task
        return {}


class Ridge(ModelConfig):
    TASKS: ClassVar[tuple[Task, ...]] = ("regression",)
    alpha: float = Field(default=1.0, gt=0, description="Strength of the penalty.")


class Accuracy(ClaimConfig):
    TASKS: ClassVar[tuple[Task, ...]] = BOTH
    METRICS: ClassVar[dict[str, Direction]] = {
        "accuracy": "at_least",
        "f1": "at_least",
        "rmse": "at_most",
        "mae": "at_most",
    }
    METRIC_TASKS: ClassVar[dict[str, tuple[Task, ...]]] = {
        "accuracy": ("classification",),
        "f1": ("classification",),
        "rmse": ("regression",),
        "mae": ("regression",),
    }
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "accuracy", "regression": "rmse"}
    resamples: int = Field(default=2000, ge=100, description="How many bootstrap resamples.")
    average: str | None = Field(default=None, description="How classes are averaged.")

    def misfits(self, task: Task, metric: str) -> dict[str, str]:
        return {"average": f"has no meaning for {metric}"} if metric != "f1" else {}

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        return (0, float("inf")) if metric in {"rmse", "mae"} else (0, 1)

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        if task == "classification":
            return {"at_least": 0.7, "reason": "a start"}
        return {"metric": "mae", "at_most": 1e9, "reason": "a start"}


class Fairness(ClaimConfig):
    TASKS: ClassVar[tuple[Task, ...]] = ("classification",)
    METRICS: ClassVar[dict[str, Direction]] = {"gap": "at_most", "ratio": "at_least"}
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "gap"}
    PER_SENSITIVE: ClassVar[bool] = True
    column: str | None = Field(default=None, description="The sensitive column.")

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        del metric
        return (0, 1)

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        del task
        return {"at_most": 0.2, "reason": "four fifths"}


class Improvement(ClaimConfig):
    TASKS: ClassVar[tuple[Task, ...]] = BOTH
    METRICS: ClassVar[dict[str, Direction]] = {"gain": "at_least"}
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = {"classification": "gain", "regression": "gain"}


class Latency(ClaimConfig):
    TASKS: ClassVar[tuple[Task, ...]] = BOTH
    METRICS: ClassVar[dict[str, Direction]] = {"latency_ms_p95": "at_most"}
    DEFAULT_METRIC: ClassVar[dict[Task, str]] = dict.fromkeys(BOTH, "latency_ms_p95")


def _here(name: str) -> str:
    return f"{__name__}:{name}"


@pytest.fixture(scope="session")
def kinds() -> Kinds:
    return Kinds(
        models=Registry(
            "model",
            {name.lower(): _here(name) for name in ("Forest", "Logistic", "Ridge")} | {"deep": "no_such_package:Deep"},
            extras={"deep": "deep"},
        ),
        claims=Registry(
            "claim", {name.lower(): _here(name) for name in ("Accuracy", "Fairness", "Improvement", "Latency")}
        ),
    )


MINIMAL = """\
datahall: 1
name: tumours
task: classification
data:
  sources: [tumours.csv]
  target: diagnosis
"""


@pytest.fixture(scope="session")
def minimal() -> str:
    return MINIMAL
