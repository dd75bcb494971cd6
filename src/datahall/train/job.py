"""The train job: search, then one fit per seed, figures on the validation rows, models as skops bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from pydantic import ValidationError

from datahall.core.canonical import canonical_json
from datahall.core.clock import SystemClock
from datahall.core.errors import UserError
from datahall.core.jobs import Progress, Report
from datahall.core.ports import BlobStore, Clock
from datahall.engines.quiet import quiet_libraries
from datahall.train import MODELS
from datahall.train.conformal import HALF_WIDTH_METRIC, half_width
from datahall.train.contract import SeedModel, TrainRequest, TrainResult
from datahall.train.fit import dump_fit, evaluate_fit, fit_pipeline
from datahall.train.models.base import TrainableConfig
from datahall.train.search import Assignment, Found, SearchSettings, Trial, search
from datahall.train.table import Rows, check_classes, load_rows


def run(request: TrainRequest, blobs: BlobStore, report: Report, *, clock: Clock | None = None) -> TrainResult:
    """Fit one candidate.

    Equal requests give equal models, byte for byte, on one machine (a search with a time limit excepted). Regression
    fits carry `interval_half_width_90` among their figures.

    Raises UserError for settings, columns or a metric that do not fit, DataError for rows that cannot be learnt from.
    """
    with quiet_libraries():
        config = read_settings(request)
        if not request.seeds:
            raise UserError("a candidate needs at least one seed", where="train.seeds")
        train = _rows(request, blobs, "train")
        validation = _rows(request, blobs, "validation")
        if request.task == "classification":
            check_classes(train, request.target)
        settings = _search_settings(request)
        total = (settings.trials if settings else 0) + len(request.seeds)
        found = Found(config, ())
        if settings is not None:
            found = _search(request, config, settings, (train, validation), (clock or SystemClock(), report, total))
        models = []
        for place, seed in enumerate(request.seeds):
            begun = total - len(request.seeds) + place
            report(Progress(done=begun, total=total, message=f"fitting seed {seed} on {len(train):,} rows"))
            model = _fit_seed(request, blobs, found.config, (train, validation), seed)
            models.append(model)
            report(Progress(done=begun + 1, total=total, message=f"fitted seed {seed}", figures=model.metrics))
        return TrainResult(
            models=tuple(models),
            parameters={"model": request.model, **_plain(found.config)},
            trials=blobs.put(canonical_json(found.trials), team=request.team),
            num_trials=len(found.trials),
            num_pruned=sum(trial.state == "pruned" for trial in found.trials),
        )


def read_settings(request: TrainRequest) -> TrainableConfig:
    """Return the candidate's settings as its model's class reads them. Raises UserError for any that do not fit."""
    kind: Any = MODELS.load(request.model)
    if request.task not in kind.TASKS:
        fitting = [name for name in MODELS.names if request.task in MODELS.load(name).TASKS]
        raise UserError(
            f"'{request.model}' is no model for {request.task}", hint=f"choose one of: {', '.join(fitting)}"
        )
    try:
        config = kind.model_validate(request.settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["train.candidates", request.candidate, *map(str, first["loc"])])
        raise UserError(str(first["msg"]), where=where) from error
    assert isinstance(config, TrainableConfig)
    return config


def _rows(request: TrainRequest, blobs: BlobStore, part: str) -> Rows:
    grant = request.train if part == "train" else request.validation
    return load_rows(blobs, grant, team=request.team, features=request.features, target=request.target)


def _search_settings(request: TrainRequest) -> SearchSettings | None:
    if not request.search:
        return None
    try:
        settings = msgspec.convert(request.search, SearchSettings)
    except msgspec.ValidationError as error:
        raise UserError(str(error), where=f"train.candidates.{request.candidate}.search") from error
    return settings if settings.trials > 0 else None


def _search(
    request: TrainRequest,
    config: TrainableConfig,
    settings: SearchSettings,
    rows: tuple[Rows, Rows],
    outside: tuple[Clock, Report, int],
) -> Found:
    clock, report, total = outside

    def told(trial: Trial, best: float) -> None:
        value = "no value" if trial.value is None else f"{request.search_metric} {trial.value:.4f}"
        message = f"trial {trial.number + 1} of {settings.trials}: {value}, {trial.state}"
        figures = {"best": abs(best)} if np.isfinite(best) else {}
        report(Progress(done=trial.number + 1, total=total, message=message, figures=figures))

    assignment = Assignment(
        config=config,
        task=request.task,
        features=request.features,
        train=rows[0],
        validation=rows[1],
        metric=request.search_metric,
        seed=request.seeds[0],
    )
    return search(assignment, settings, clock, told)


def _fit_seed(
    request: TrainRequest, blobs: BlobStore, config: TrainableConfig, rows: tuple[Rows, Rows], seed: int
) -> SeedModel:
    train, validation = rows
    pipeline = fit_pipeline(config, train, request.features, request.task, seed)
    metrics, scores = evaluate_fit(pipeline, validation, request.task)
    if request.task == "regression":
        width = half_width(validation.target - scores)
        if width is not None:
            metrics[HALF_WIDTH_METRIC] = width
    return SeedModel(seed=seed, model=blobs.put(dump_fit(pipeline), team=request.team), metrics=metrics)


def _plain(config: TrainableConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)
