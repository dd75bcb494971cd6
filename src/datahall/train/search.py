"""Looks for better settings: Optuna proposes, growing parts of the training rows judge, the hopeless stop early."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from datahall.core.errors import UserError
from datahall.core.ports import Clock
from datahall.core.records import Column, Task
from datahall.core.seeds import derive_seed
from datahall.train.fit import evaluate_fit, fit_pipeline
from datahall.train.models.base import Choice, Range, TrainableConfig
from datahall.train.scores import check_metric, goodness
from datahall.train.table import Rows, nested_parts

RUNGS = (0.25, 0.5, 1.0)
"""Shares of the training rows on which a trial is judged in turn."""
NUM_STARTUP_TRIALS = 5
"""Trials that run to the end before any is pruned or steered."""


class SearchSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The application file's `search`: at most `trials` trials, and none begun after `timeout_s` seconds."""

    trials: int
    timeout_s: float | None = None


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One trial as the trials artifact keeps it: `value` is the metric on the validation rows, at the last rung run."""

    number: int
    params: dict[str, Any]
    value: float | None
    state: str
    """`complete`, `pruned` or `failed`."""
    rungs: tuple[float, ...]
    """The metric at each rung that was run."""
    duration_s: float
    reason: str = ""


@dataclass(frozen=True)
class Assignment:
    """What a search looks for settings of."""

    config: TrainableConfig
    task: Task
    features: tuple[Column, ...]
    train: Rows
    validation: Rows
    metric: str
    seed: int


@dataclass(frozen=True)
class Found:
    """The best settings, and every trial in order."""

    config: TrainableConfig
    trials: tuple[Trial, ...]


def search(
    assignment: Assignment, settings: SearchSettings, clock: Clock, told: Callable[[Trial, float], None]
) -> Found:
    """Run the trials and return the best; `told` hears of each trial and the best value so far.

    The first trial is the settings as they stand, so a search never ends with worse ones. Sampling is TPE (Bergstra et
    al. 2011), pruning below the median of earlier trials at the same rung (as in Google Vizier, Golovin et al. 2017).
    Equal assignments give equal trials unless the time limit cuts them short.

    Raises UserError where nothing is left to vary, or where every trial failed.
    """
    check_metric(assignment.task, assignment.metric)
    runner = _Trials(assignment, clock)
    trials: list[Trial] = []
    best: tuple[float, TrainableConfig] | None = None
    started_ns = clock.monotonic_ns()
    for number in range(settings.trials):
        if settings.timeout_s is not None and clock.monotonic_ns() - started_ns > settings.timeout_s * 1e9 and number:
            break
        config, trial = runner.run(number)
        trials.append(trial)
        if trial.state == "complete" and (best is None or _good(assignment, trial) > best[0]):
            best = (_good(assignment, trial), config)
        told(trial, best[0] if best else float("-inf"))
    if best is None:
        raise UserError(f"every trial of the search failed; the last: {trials[-1].reason}", where="search")
    return Found(best[1], tuple(trials))


def open_space(config: TrainableConfig) -> dict[str, Range | Choice]:
    """Return what may vary: the kind's space without the settings that the application file names."""
    space = {name: room for name, room in config.SPACE.items() if name not in config.model_fields_set}
    if not space:
        raise UserError(
            "the search has nothing to vary: every setting it could change is given",
            where="search",
            hint=f"leave out one of: {', '.join(config.SPACE)}; or leave out search",
        )
    return space


class _Trials:
    """Runs trials one by one, and tells the study how each went."""

    def __init__(self, assignment: Assignment, clock: Clock) -> None:
        import optuna  # noqa: PLC0415  (heavy, only to search)

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._assignment = assignment
        self._clock = clock
        self._space = open_space(assignment.config)
        self._parts = nested_parts(assignment.train, assignment.task, assignment.seed, RUNGS)
        self._states = optuna.trial.TrialState
        self._study = optuna.create_study(  # its storage is in memory: nothing is written
            direction="maximize",
            sampler=optuna.samplers.TPESampler(
                seed=derive_seed(assignment.seed, "search"), n_startup_trials=NUM_STARTUP_TRIALS
            ),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=NUM_STARTUP_TRIALS),
        )

    def run(self, number: int) -> tuple[TrainableConfig, Trial]:
        """Run one trial; number 0 is the settings as they stand, which may lie outside of the space."""
        started_ns = self._clock.monotonic_ns()
        config, asked = self._assignment.config, None
        params = {name: getattr(config, name) for name in self._space}
        if number:
            asked = self._study.ask()
            params = {name: _suggest(asked, name, room) for name, room in self._space.items()}
            config = type(config).model_validate({**config.model_dump(exclude_unset=True), **params})
        rungs: list[float] = []
        try:
            state, reason = self._climb(config, asked, rungs)
        except UserError as error:  # one hopeless setting must not end the search
            state, reason = "failed", error.what
        self._tell(asked, state, rungs)
        trial = Trial(
            number=number,
            params=params,
            value=rungs[-1] if rungs else None,
            state=state,
            rungs=tuple(rungs),
            duration_s=(self._clock.monotonic_ns() - started_ns) / 1e9,
            reason=reason,
        )
        return config, trial

    def _climb(self, config: TrainableConfig, asked: Any, rungs: list[float]) -> tuple[str, str]:
        assignment = self._assignment
        for step, part in enumerate(self._parts):
            pipeline = fit_pipeline(config, part, assignment.features, assignment.task, assignment.seed)
            figures, _ = evaluate_fit(pipeline, assignment.validation, assignment.task)
            value = goodness(assignment.metric, figures)
            rungs.append(figures[assignment.metric])
            if asked is None or step + 1 == len(self._parts):
                continue
            asked.report(value, step)
            if asked.should_prune():
                return "pruned", f"worse than the median of earlier trials at {RUNGS[step]:.0%} of the rows"
        return "complete", ""

    def _tell(self, asked: Any, state: str, rungs: list[float]) -> None:
        if asked is None:
            return
        ends = {"complete": self._states.COMPLETE, "pruned": self._states.PRUNED, "failed": self._states.FAIL}
        value = goodness(self._assignment.metric, {self._assignment.metric: rungs[-1]}) if state == "complete" else None
        self._study.tell(asked, value, state=ends[state])


def _suggest(trial: Any, name: str, room: Range | Choice) -> Any:
    if isinstance(room, Choice):
        # By index: Optuna wants plain values, and an option may be a list of layers.
        return room.options[trial.suggest_categorical(name, list(range(len(room.options))))]
    if room.whole:
        return trial.suggest_int(name, int(room.low), int(room.high), log=room.log)
    return trial.suggest_float(name, room.low, room.high, log=room.log)


def _good(assignment: Assignment, trial: Trial) -> float:
    assert trial.value is not None
    return goodness(assignment.metric, {assignment.metric: trial.value})
