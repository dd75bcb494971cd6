"""The keys of an application file, their types, defaults and meanings."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from datahall.core.canonical import digest_of
from datahall.core.ids import NAME_RULE, is_name
from datahall.core.records import MIN_RATE_PER_S, ColumnKind, Task
from datahall.spec.kinds import Direction, Many, Section

HEAD = 1
"""The version of the application file that this Datahall reads: `datahall: 1`."""

FORMATS: dict[str, Literal["csv", "parquet", "json"]] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
"""The format that a source's suffix stands for."""

SEARCH_METRICS: dict[Task, tuple[str, ...]] = {
    "classification": ("log_loss", "accuracy", "balanced_accuracy", "f1", "roc_auc"),
    "regression": ("rmse", "mae", "r2"),
}
"""The figures by which a search may compare trials on the validation rows; the first one is the default."""


def _named(name: str) -> str:
    # pydantic's own pattern error shows a regular expression, which few people read
    if not is_name(name):
        raise PydanticCustomError("datahall", "is not a name", {"expected": NAME_RULE})
    return name


def _versioned(value: Any) -> Any:
    # Python takes true and 1.0 for 1, a reader of the file does not
    if type(value) is not int or value != HEAD:
        raise PydanticCustomError("datahall", "is not a version", {"expected": f"{HEAD}"})
    return value


Name = Annotated[str, AfterValidator(_named)]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class SourceFile(Section):
    """One file with rows; written as a path, or as a path with its format."""

    path: str = Field(description="Path of the file, relative to the application file.", min_length=1, max_length=4096)
    format: Literal["csv", "parquet", "json"] = Field(
        default="csv",
        description="How the file is written; told from the suffix where it is left out (.jsonl is json).",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        given = {"path": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("path"), str):
            return given
        if "://" in given["path"]:
            raise PydanticCustomError("datahall", "is an address", {"expected": "the path of a file on this machine"})
        if "format" in given:
            return given
        suffix = PurePosixPath(given["path"]).suffix.lower()
        if suffix not in FORMATS:
            raise PydanticCustomError(
                "datahall",
                "does not say its format",
                {"expected": f"a path ending in {', '.join(FORMATS)}, or {{path: ..., format: csv}}"},
            )
        return {**given, "format": FORMATS[suffix]}


class ColumnContract(Section):
    """What every row must have in one column; a row that breaks it stops the run or is dropped (`on_broken`)."""

    kind: ColumnKind | None = Field(default=None, description="What the column holds; guessed where it is left out.")
    min: float | None = Field(default=None, description="Smallest value allowed, for numbers.")
    max: float | None = Field(default=None, description="Largest value allowed, for numbers.")
    values: Many[bool | int | float | str] | None = Field(
        default=None, description="The only values allowed, for categories and numbers.", min_length=1
    )
    nullable: bool = Field(default=True, description="Whether a value may be missing; the target's never may.")
    unique: bool = Field(default=False, description="Whether no two rows may have the same value.")


class SplitSection(Section):
    """How the rows are divided: all rows of one data subject fall into the same part."""

    holdout: float = Field(default=0.3, description="Share of the rows that no train job can read.", gt=0, lt=1)
    validation: float = Field(default=0.2, description="Share of the rows on which searches compare.", gt=0, lt=1)
    seed: int = Field(default=0, description="The number that decides which row falls where.", ge=0, lt=2**32)


class DataSection(Section):
    """Where the rows come from, what they must look like, and whose they are."""

    sources: Many[SourceFile] = Field(description="The files whose rows are used, one below the other.", min_length=1)
    target: ColumnName = Field(description="The column that models predict.")
    subject: ColumnName | None = Field(
        default=None, description="The column that says whose data a row is; never a feature."
    )
    sensitive: Many[ColumnName] = Field(
        default=(), description="Columns over which fairness is measured; not features unless `use_sensitive`."
    )
    use_sensitive: bool = Field(default=False, description="Whether models may see the sensitive columns.")
    ignore: Many[ColumnName] = Field(default=(), description="Columns that are left out.")
    columns: dict[ColumnName, ColumnContract] = Field(default={}, description="The contract, column by column.")
    on_broken: Literal["stop", "drop"] = Field(
        default="stop", description="What happens when rows break the contract: stop the run, or drop and count them."
    )
    split: SplitSection = Field(default=SplitSection(), description="How the rows are divided.")

    def features_of(self, columns: tuple[str, ...]) -> tuple[str, ...]:
        """Return those of the table's `columns` that models see, in the table's order."""
        hidden = {self.target, self.subject, *self.ignore}
        if not self.use_sensitive:
            hidden.update(self.sensitive)
        return tuple(name for name in columns if name not in hidden)


class SearchSection(Section):
    """How long better settings are looked for before the fits that count."""

    trials: int = Field(default=20, description="How many settings are tried at most.", ge=1, le=10_000)
    timeout_s: float | None = Field(default=None, description="Seconds after which no new trial starts.", gt=0)


class CandidateSection(Section):
    """One model to fit; beside these keys it takes the settings of its model."""

    model: str = Field(description="The kind of model.")
    search: SearchSection | None = Field(
        default=None, description="Look for better settings first; `none` fits the settings as they stand."
    )
    # in the file they stand beside `model`; only those that the file names, for a search may vary the others
    settings: dict[str, Any] = Field(default={})


class TrainSection(Section):
    """What is fitted, how often, and in which form it will run."""

    candidates: dict[Name, CandidateSection] = Field(
        default={},
        description="The models to fit, each under a name; left out, a few that suit the task.",
        min_length=1,
    )
    seeds: int = Field(default=5, description="How many fits per candidate; their spread shows stability.", ge=1, le=50)
    seed: int = Field(default=0, description="The number from which all seeds follow.", ge=0, lt=2**32)
    metric: str | None = Field(
        default=None, description="What searches compare on the validation rows; log_loss or rmse where left out."
    )
    engine: Literal["auto", "onnx", "sklearn"] = Field(
        default="auto", description="What runs the model; auto takes ONNX where it is proven to answer equally."
    )
    threshold: float | None = Field(
        default=None, description="For two classes: the second is answered from this probability on.", gt=0, lt=1
    )


class ClaimSection(Section):
    """One demand on every candidate; beside these keys it takes the settings of its kind."""

    kind: str = Field(description="The kind of claim.")
    metric: str | None = Field(default=None, description="The figure that is bounded; each kind has a default.")
    at_least: float | None = Field(default=None, description="Smallest figure that passes (the bound of its interval).")
    at_most: float | None = Field(default=None, description="Largest figure that passes (the bound of its interval).")
    confidence: float = Field(default=0.95, description="How sure the gate must be.", ge=0.5, lt=1)
    reason: str | None = Field(default=None, description="Why this bound; demanded with every bound.", min_length=1)
    # given by the loader: unique, such as `fairness/sex`
    name: str = ""
    # in the file they stand beside `kind`; once loaded, all of the kind's settings, defaults filled in
    settings: dict[str, Any] = Field(default={})

    @property
    def direction(self) -> Direction:
        """On which side of the bound the figure must lie."""
        return "at_most" if self.at_least is None else "at_least"

    @property
    def bound(self) -> float:
        """The bound; every claim of a loaded file has one."""
        bound = self.at_most if self.at_least is None else self.at_least
        assert bound is not None, f"the claim {self.name} has no bound"
        return bound


class EvaluateSection(Section):
    """What a candidate must prove before it may answer anybody."""

    claims: Many[ClaimSection] = Field(
        default=(), description="The demands; left out, those that suit the task.", min_length=1
    )
    evidence_days: float = Field(default=30, description="Days after which evidence proves nothing.", gt=0, le=3650)
    node_class: str | None = Field(
        default=None, description="The class of machine on which latency must have been measured.", min_length=1
    )


class RolloutSection(Section):
    """How a new version takes the place of the old one."""

    strategy: Literal["replace"] = Field(
        default="replace", description="replace: all traffic moves at once, the old version drains."
    )
    drain_seconds: float = Field(
        default=10, description="Seconds that requests in flight get before the old version stops.", ge=0, le=600
    )


class LimitsSection(Section):
    """What all who ask this application may ask of it together, over all gateways; beyond, they get 429."""

    rate_per_s: float | None = Field(
        default=None, description="Requests a second, over time; without, no limit.", ge=MIN_RATE_PER_S, le=1e9
    )
    burst: int | None = Field(
        default=None,
        description="Requests that may come at once before the rate holds; one second's worth where left out.",
        ge=1,
        le=10**9,
    )
    concurrency: int | None = Field(
        default=None, description="Requests that are worked on at a time; without, no limit.", ge=1, le=10**6
    )

    @model_validator(mode="after")
    def _burst_of_a_rate(self) -> Self:
        if self.burst is not None and self.rate_per_s is None:
            raise PydanticCustomError("datahall", "has a burst without a rate", {"expected": "rate_per_s beside burst"})
        return self


class CacheSection(Section):
    """Whether an answer may be given again to the same team for the same input."""

    seconds: float = Field(default=0, description="For how long it may; 0 is never.", ge=0, le=86_400)


class ServeSection(Section):
    """How the released version answers."""

    replicas: int = Field(default=1, description="How many processes answer.", ge=1, le=64)
    protocols: Many[Literal["v2", "predict", "mlflow"]] = Field(
        default=("v2", "predict"),
        description="How it can be asked: v2 (Open Inference Protocol), predict (plain JSON), mlflow (its /invocations).",
        min_length=1,
    )
    limits: LimitsSection = Field(default=LimitsSection(), description="How much may be asked of it.")
    cache: CacheSection = Field(default=CacheSection(), description="Whether answers are given again.")
    rollout: RolloutSection = Field(default=RolloutSection(), description="How a new version replaces the old one.")


class AppSpec(Section):
    """An application as its file describes it, every default filled in."""

    datahall: Annotated[Literal[1], BeforeValidator(_versioned)] = Field(
        description="The version of this file's language."
    )
    name: Name = Field(description="The application's name, part of its address.")
    team: Name = Field(default="main", description="The team that owns it.")
    task: Task = Field(description="What is predicted: one of some classes, or a number.")
    data: DataSection = Field(description="Where the rows come from and what they must look like.")
    train: TrainSection = Field(default=TrainSection(), description="What is fitted.")
    evaluate: EvaluateSection = Field(default=EvaluateSection(), description="What must be proven.")
    serve: ServeSection = Field(default=ServeSection(), description="How it answers.")

    @property
    def search_metric(self) -> str:
        """What searches compare: `train.metric`, or the task's default."""
        return self.train.metric or SEARCH_METRICS[self.task][0]

    def digest(self) -> str:
        """Return the SHA-256 of what the file means: order of keys, comments and layout do not matter."""
        return digest_of(self.model_dump(mode="json"))
