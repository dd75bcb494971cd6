"""The evaluate job: one look at the holdout, every claim about every contender, each figure signed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import msgspec
import numpy as np

from datahall.core.canonical import canonical_json
from datahall.core.errors import IntegrityError, UnavailableError, UserError
from datahall.core.jobs import Progress, Report
from datahall.core.ports import Answerer, BlobStore, Clock, Predictor
from datahall.core.records import Claim, Column, Grant, Measurement, Particulars
from datahall.data.frames import load_series
from datahall.engines.bundle import bundle_digest
from datahall.engines.open import open_predictor
from datahall.evaluate import MEASURES
from datahall.evaluate.context import Answers, Context, Measured, answer_all, unmeasured
from datahall.evaluate.contract import Contender, EvaluateRequest, EvaluateResult
from datahall.evaluate.rows import Rows, load_rows
from datahall.evaluate.statement import sign_measurement
from datahall.security.signing import Ed25519Signer

_FOR_THE_GATE = ("p_values",)


def run(
    request: EvaluateRequest,
    blobs: BlobStore,
    report: Report,
    clock: Clock,
    open_answerer: Callable[[str], Answerer],
) -> EvaluateResult:
    """Measure every claim for every contender and return the signed statements.

    A claim that cannot be measured is signed as such, with its reason, and the others are still measured.
    Raises IntegrityError where a bundle, the holdout or a grant is not what the request says it is.
    """
    total = len(request.contenders) * len(request.claims)
    report(Progress(done=0, total=total, message="answering every row held out"))
    look = _Look(request, blobs, clock, open_answerer)
    signer = Ed25519Signer.from_private(request.signing_key)
    measured: dict[tuple[str, str], Measured] = {}
    for contender in request.contenders:
        for claim in request.claims:
            message = f"{claim.name} of {contender.candidate}"
            report(Progress(done=len(measured), total=total, message=message))
            measured[contender.bundle, claim.name] = look.measure(contender, claim)
    _share_p_values(request, measured)
    report(Progress(done=total, total=total, message=f"{total} figures measured"))
    now = clock.now_ns()
    particulars = {key: grant for key, one in measured.items() if (grant := _store(request, blobs, one)) is not None}
    digests = {key: grant.digest for key, grant in particulars.items()}
    envelopes = tuple(_sign(request, measured, digests, signer, now))
    return EvaluateResult(envelopes=envelopes, particulars=tuple(particulars.values()))


class _Look:
    """One look at the holdout: what is loaded once and used by all claims."""

    def __init__(
        self,
        request: EvaluateRequest,
        blobs: BlobStore,
        clock: Clock,
        open_answerer: Callable[[str], Answerer],
    ) -> None:
        self._request = request
        self._blobs = blobs
        self._clock = clock
        self._open_answerer = open_answerer
        self._rows = load_rows(
            self._get(request.holdout_inputs),
            self._get(request.holdout_outcomes),
            target=request.target,
            sensitive=request.sensitive,
        )
        self._opened = {each.bundle: self._open(each) for each in request.contenders}
        self._answers = {bundle: self._answer(predictor) for bundle, predictor in self._opened.items()}
        self._rival = cache(self._make_rival)
        self._seed_answers = cache(self._make_seed_answers)

    def measure(self, contender: Contender, claim: Claim) -> Measured:
        """Measure one claim; an expected failure becomes the reason why there is no figure."""
        address = contender.address
        context = Context(
            claim=claim,
            task=self._request.task,
            rows=self._rows,
            answers=self._answers[contender.bundle],
            alpha=self._request.alphas[claim.name],
            seed=self._request.seed,
            seed_answers=partial(self._seed_answers, contender.bundle),
            rival=self._rival,
            has_champion=self._request.champion is not None,
            predictor=self._opened[contender.bundle],
            open_answerer=None if address is None else partial(self._open_answerer, address),
            clock=self._clock,
        )
        try:
            measured = MEASURES.load(claim.kind)(context)
        except (UserError, UnavailableError) as error:
            return unmeasured(error.what)
        if measured.figure is not None and not math.isfinite(measured.figure.estimate):
            return unmeasured(f"{claim.metric} is not defined on these rows")
        return measured

    def _get(self, grant: Grant) -> bytes:
        return self._blobs.get(grant, team=self._request.team)

    def _open(self, contender: Contender) -> Predictor:
        """Open a bundle and hold it against its digest: evidence must be about what was measured."""
        predictor = open_predictor(self._get(contender.packed))
        if bundle_digest(predictor.manifest) != contender.bundle:
            raise IntegrityError(f"the bundle of {contender.candidate} is not the one that the request names")
        if predictor.manifest.app != self._request.app or predictor.manifest.task != self._request.task:
            raise IntegrityError(f"the bundle of {contender.candidate} belongs to another application")
        return predictor

    def _answer(self, predictor: Predictor) -> Answers:
        return answer_all(predictor, self._rows.columns(predictor.manifest.features))

    def _make_seed_answers(self, bundle: str) -> tuple[Answers, ...]:
        contender = next(each for each in self._request.contenders if each.bundle == bundle)
        return tuple(self._answer(open_predictor(self._get(grant))) for grant in contender.seed_bundles)

    def _make_rival(self) -> Answers:
        champion = self._request.champion
        if champion is not None:
            return self._answer(self._open(champion))
        return _baseline(self._get(self._request.train), self._request.target, self._rows)


def _baseline(train: bytes, target: Column, rows: Rows) -> Answers:
    """Return the answers of a model that looks at nothing: the training rows' majority class and shares, or mean."""
    truth = load_series(train, target)
    if target.kind == "number":
        return Answers(label=np.full(rows.num, truth.mean()), probability=None, lower=None, upper=None, classes=())
    shares = np.array([(truth == name).mean() for name in target.categories])
    label = np.full(rows.num, target.categories[int(shares.argmax())], dtype=object)
    probability = np.tile(shares, (rows.num, 1))
    return Answers(label=label, probability=probability, lower=None, upper=None, classes=target.categories)


def _share_p_values(request: EvaluateRequest, measured: dict[tuple[str, str], Measured]) -> None:
    """Write all candidates' p-values of a claim into each of its figures: Holm's test needs the whole family."""
    for claim in request.claims:
        family = [measured[contender.bundle, claim.name] for contender in request.contenders]
        if all(one.figure is None or one.figure.p_value is None for one in family):
            continue
        p_values = [1.0 if one.figure is None or one.figure.p_value is None else one.figure.p_value for one in family]
        for contender, one in zip(request.contenders, family, strict=True):
            measured[contender.bundle, claim.name] = replace(one, details={**one.details, "p_values": p_values})


def _store(request: EvaluateRequest, blobs: BlobStore, one: Measured) -> Grant | None:
    """Store what names groups or classes apart from the statement, which lies in the catalogue for good and in clear."""
    details = {name: value for name, value in one.details.items() if name not in _FOR_THE_GATE}
    if not one.groups and not details:
        return None
    return blobs.put(canonical_json(Particulars(groups=one.groups, details=details)), team=request.team)


def _sign(
    request: EvaluateRequest,
    measured: dict[tuple[str, str], Measured],
    particulars: dict[tuple[str, str], str],
    signer: Ed25519Signer,
    now: int,
) -> Iterator[tuple[str, str, str]]:
    """Yield (bundle, claim name, envelope) for every measurement."""
    base = Measurement(
        app=request.app,
        claim="",
        kind="",
        metric="",
        policy=request.policy,
        holdout=request.holdout,
        look=request.look,
        num_candidates=len(request.contenders),
        champion=request.champion.bundle if request.champion else None,
        figure=None,
        node_class=request.node_class,
        environment=request.environment,
        measured_at_ns=now,
        expires_at_ns=request.expires_at_ns,
    )
    for contender in request.contenders:
        for claim in request.claims:
            one = measured[contender.bundle, claim.name]
            measurement = msgspec.structs.replace(
                base,
                claim=claim.name,
                kind=claim.kind,
                metric=claim.metric,
                figure=one.figure,
                problem=one.problem,
                details={name: one.details[name] for name in _FOR_THE_GATE if name in one.details},
                particulars=particulars.get((contender.bundle, claim.name), ""),
            )
            yield (
                contender.bundle,
                claim.name,
                sign_measurement(signer, contender.bundle, contender.candidate, measurement),
            )
