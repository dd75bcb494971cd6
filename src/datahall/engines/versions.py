"""Which packages an engine needs to answer alike, and in which versions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from datahall.core.canonical import digest_of
from datahall.core.errors import UnavailableError
from datahall.core.records import BundleManifest

PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("numpy", "onnxruntime"),
    "sklearn": ("numpy", "scikit-learn", "scipy", "skops"),
    "torch": ("numpy", "torch"),
}
"""Distributions by engine; all else of the environment does not reach an answer."""


def engine_versions(engine: str) -> dict[str, str]:
    """Return the installed versions of what `engine` needs.

    Raises UnavailableError for a package that is not installed.
    """
    try:
        return {name: version(name) for name in PACKAGES[engine]}
    except PackageNotFoundError as error:
        raise UnavailableError(
            f"the engine '{engine}' needs the package '{error.name}'", hint=f"pip install {error.name}"
        ) from error


def check_environment(manifest: BundleManifest) -> None:
    """Raise UnavailableError where other versions are installed than those that the bundle was proven with."""
    here = engine_versions(manifest.engine)
    if digest_of(here) == manifest.environment:
        return
    proven = dict(manifest.engine_settings.get("packages", {}))
    differing = [
        f"{name} {proven.get(name, '?')} (here {here[name]})" for name in here if proven.get(name) != here[name]
    ]
    raise UnavailableError(
        f"this bundle was proven with {', '.join(differing) or 'another environment'}",
        hint="install those versions, or train and prove it again here",
    )
