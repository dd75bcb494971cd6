"""The export job: fitted models become bundles, in ONNX where that is proven equal, else in scikit-learn."""

from __future__ import annotations

from typing import Any, get_args

from datahall.core.canonical import digest_bytes, digest_of
from datahall.core.errors import IntegrityError, UserError
from datahall.core.jobs import Progress, Report
from datahall.core.ports import BlobStore, Columns
from datahall.core.records import BundleManifest, EngineName
from datahall.data.frames import load_columns
from datahall.engines import network, onnx, sklearn
from datahall.engines.bundle import pack, unpack
from datahall.engines.network import check_network, read_network
from datahall.engines.open import open_predictor
from datahall.engines.quiet import quiet_libraries
from datahall.engines.skops import load_model
from datahall.engines.versions import engine_versions
from datahall.optimize.contract import ExportRequest, ExportResult
from datahall.optimize.convert import ConversionError, to_onnx
from datahall.optimize.prove import TOLERANCE, Equality, compare
from datahall.train.conformal import CONFIDENCE

_ZIP_MAGIC = b"PK"


def run(request: ExportRequest, blobs: BlobStore, report: Report) -> ExportResult:
    """Make one bundle per model: the first in the engine that serves, the others, which show stability, as fitted.

    Raises UserError where `engine: onnx` is demanded of a model whose ONNX form is not proven equal, or where a
    threshold is given for other than two classes; IntegrityError where a model is not what training makes.
    """
    _check(request)
    with quiet_libraries():
        total = len(request.models) + 1
        made = []
        for place, grant in enumerate(request.models):
            model = blobs.get(grant, team=request.team)
            made.append(_fitted(request, model, place))
            report(Progress(done=place + 1, total=total, message=f"bundled fit {place + 1}"))
        if _asks_for_onnx(request, made[0][1]):
            message = "converting to ONNX, then comparing the answers"
            report(Progress(done=len(made), total=total, message=message))
        served, manifest, equivalence = _choose(request, blobs, made[0])
        report(Progress(done=total, total=total, message=_told(equivalence)))
    packed = [served, *(data for data, _ in made[1:])]
    return ExportResult(
        bundles=tuple(blobs.put(data, team=request.team) for data in packed),
        manifests=(manifest, *(other for _, other in made[1:])),
        equivalence=equivalence,
    )


def _check(request: ExportRequest) -> None:
    num_classes = len(request.target.categories)
    if not request.models:
        raise UserError("there is no model to export")
    if request.engine not in ("auto", *get_args(EngineName)):
        raise UserError(f"there is no engine '{request.engine}'", where="train.engine", hint="auto, onnx or sklearn")
    if request.threshold is not None and num_classes != 2:
        raise UserError(
            f"a threshold needs a target of two classes; '{request.target.name}' has {num_classes}",
            where="train.threshold",
            hint=f"leave it out; classes: {', '.join(request.target.categories[:10])}",
        )
    widths = len(request.interval_half_widths)
    if widths not in (0, len(request.models)):
        raise UserError(f"{widths} interval half widths for {len(request.models)} models", where="interval_half_widths")


def _choose(
    request: ExportRequest, blobs: BlobStore, first: tuple[bytes, BundleManifest]
) -> tuple[bytes, BundleManifest, dict[str, Any]]:
    """Return the bundle that serves, its manifest, and the record of what was tried."""
    own = first[1].engine
    if own == "torch":
        return *first, _record(own, tried=False, reason="a network of torch is served by torch")
    if request.engine == "sklearn":
        return *first, _record("sklearn", tried=False, reason="the application file asks for sklearn")
    try:
        candidate = _onnx_bundle(request, first[0])
        equality = compare(open_predictor(first[0]), open_predictor(candidate[0]), _tables(request, blobs))
    except (ConversionError, IntegrityError) as error:
        equality = Equality(equal=False, num_rows=0, num_label_flips=0, max_abs_difference=0.0, reason=error.what)
    if equality.equal:
        return *candidate, _record("onnx", tried=True, equality=equality)
    if request.engine == "onnx":
        raise UserError(
            f"the ONNX form of this model is not proven equal: {equality.reason}",
            where="train.engine",
            hint="with engine: auto it is served by scikit-learn instead",
        )
    return *first, _record("sklearn", tried=True, equality=equality)


def _tables(request: ExportRequest, blobs: BlobStore) -> tuple[Columns, ...]:
    grants = (request.train, request.holdout_inputs)
    return tuple(load_columns(blobs.get(grant, team=request.team), request.features) for grant in grants)


def _asks_for_onnx(request: ExportRequest, fitted: BundleManifest) -> bool:
    """Return whether the ONNX form is to be tried. Raises UserError for an engine that cannot run what was fitted."""
    if request.engine in {"auto", fitted.engine}:
        return request.engine == "auto" and fitted.engine == "sklearn"
    if "torch" in (request.engine, fitted.engine):
        what = f"a model of {'torch' if fitted.engine == 'torch' else 'scikit-learn'} is not run by '{request.engine}'"
        raise UserError(what, where="train.engine", hint="with engine: auto each model gets the engine that suits it")
    return True


def _fitted(request: ExportRequest, model: bytes, place: int) -> tuple[bytes, BundleManifest]:
    """Return a fit's bundle in the library that fitted it: skops files are zips, networks are not."""
    if model.startswith(_ZIP_MAGIC):
        return _bundle(request, "sklearn", {sklearn.MODEL_FILE: model}, place)
    found, _ = read_network(model)
    check_network(found, request.features, len(request.target.categories) or 1)
    return _bundle(request, "torch", {network.MODEL_FILE: model}, place)


def _onnx_bundle(request: ExportRequest, fitted: bytes) -> tuple[bytes, BundleManifest]:
    _, files = unpack(fitted)
    pipeline = load_model(files[sklearn.MODEL_FILE])
    model = to_onnx(pipeline, request.task, len(request.features))
    return _bundle(request, "onnx", {onnx.MODEL_FILE: model}, 0)


def _bundle(
    request: ExportRequest, engine: EngineName, files: dict[str, bytes], place: int
) -> tuple[bytes, BundleManifest]:
    packages = engine_versions(engine)
    settings: dict[str, Any] = {"packages": packages}
    if request.interval_half_widths:
        settings["interval"] = {"confidence": CONFIDENCE, "half_width": request.interval_half_widths[place]}
    manifest = BundleManifest(
        app=request.app,
        task=request.task,
        engine=engine,
        engine_settings=settings,
        features=request.features,
        target=request.target,
        threshold=request.threshold,
        environment=digest_of(packages),
        files={name: digest_bytes(data) for name, data in files.items()},
    )
    return pack(manifest, files), manifest


def _record(engine: str, *, tried: bool, equality: Equality | None = None, reason: str = "") -> dict[str, Any]:
    return {
        "engine": engine,
        "tried": tried,
        "equal": equality.equal if equality else None,
        "num_rows": equality.num_rows if equality else 0,
        "num_label_flips": equality.num_label_flips if equality else 0,
        "max_abs_difference": equality.max_abs_difference if equality else None,
        "tolerance": TOLERANCE,
        "reason": equality.reason if equality else reason,
    }


def _told(equivalence: dict[str, Any]) -> str:
    if equivalence["engine"] == "onnx":
        return f"ONNX answers alike on {equivalence['num_rows']} rows"
    return f"served by scikit-learn: {equivalence['reason']}"
