"""What a model kind and a claim kind tell the application file about themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Strict

from datahall.core.records import Task
from datahall.core.registry import Registry

Direction = Literal["at_least", "at_most"]

T = TypeVar("T")

Many = Annotated[tuple[T, ...], Strict(False)]
"""A tuple that may be written as a list; use it instead of `tuple[T, ...]` in a section or a config class."""


class Section(BaseModel):
    """A frozen part of the application file: unknown keys, NaN and `"5"` in place of `5` are errors.

    Every field carries `Field(description=...)`: the reference page of keys is made from them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The settings of one kind of model: a subclass's fields are the keys that a candidate may have.

    The keys `model` and `search` belong to every candidate and must not be fields. A subclass is registered by
    name in `train.MODELS`. Only settings that the file names are handed on, so a search may vary the others. A field
    called `columns` names features and is checked against the table.
    """

    TASKS: ClassVar[tuple[Task, ...]]

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return the candidate that an application without a `candidates` key gets, None for none.

        The dictionary is written as in the file, without `model`: settings, and `search` where wanted. It is
        asked only for a task in TASKS; the candidate is called like the model.
        """
        del task
        return None

    @classmethod
    def missing(cls) -> tuple[str, str] | None:
        """Return the package that this kind needs and that is not installed, and the extra that brings it."""
        return None

    def misfits(self, task: Task) -> dict[str, str]:
        """Return each setting that has no effect or no sense for `task`, and why; called for named settings only."""
        del task
        return {}


class ClaimConfig(Section):
    """The settings of one kind of claim: a subclass's fields are the keys that are its own.

    The keys `kind`, `metric`, `at_least`, `at_most`, `confidence` and `reason` belong to every claim and must not
    be fields. A subclass is registered by name in `evaluate.CLAIMS`.
    """

    TASKS: ClassVar[tuple[Task, ...]]
    METRICS: ClassVar[dict[str, Direction]]
    """Each metric, and on which side of its bound the figure must lie."""
    METRIC_TASKS: ClassVar[dict[str, tuple[Task, ...]]] = {}
    """The tasks of a metric that does not fit all of TASKS."""
    DEFAULT_METRIC: ClassVar[dict[Task, str]]
    PER_SENSITIVE: ClassVar[bool] = False
    """True makes one claim of each sensitive column; the class then has a field `column: str | None = None`."""

    @classmethod
    def bound_limits(cls, metric: str) -> tuple[float, float]:
        """Return the smallest and the largest bound that a figure of `metric` could ever meet or miss."""
        del metric
        return (float("-inf"), float("inf"))

    @classmethod
    def default(cls, task: Task) -> dict[str, Any] | None:
        """Return the claim that an application without a `claims` key makes, None for none.

        The dictionary is written as in the file, without `kind`: a bound and its `reason`, and whatever else
        differs from the defaults. Asked only for a task in TASKS; a PER_SENSITIVE claim is made only where the
        application has sensitive columns. A claim in the file that gives neither metric nor bound takes what it lacks from here.
        """
        del task
        return None

    def misfits(self, task: Task, metric: str) -> dict[str, str]:
        """Return each setting that has no effect or no sense for `task` and `metric`, and why."""
        del task, metric
        return {}


@dataclass(frozen=True)
class Kinds:
    """The model and claim kinds that an application file may name."""

    models: Registry[type[ModelConfig]]
    claims: Registry[type[ClaimConfig]]
