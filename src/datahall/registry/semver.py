"""A version's number says what changed: schema (major), behaviour (minor), nothing that answers (patch)."""

from __future__ import annotations

import re

from datahall.core.records import BundleManifest

FIRST = "1.0.0"
_FORM = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


def next_semver(parent: tuple[str, BundleManifest] | None, manifest: BundleManifest) -> tuple[str, str]:
    """Return the number of the version after `parent` (its number and manifest) and the reason.

    Follows Semantic Versioning 2.0.0 read for models: what callers send or receive is the interface.
    """
    if parent is None:
        return FIRST, "the first version"
    number, before = parent
    match = _FORM.fullmatch(number)
    assert match, f"{number} is no semantic version"
    major, minor, patch = (int(part) for part in match.groups())
    broken = _broken_schema(before, manifest)
    if broken:
        return f"{major + 1}.0.0", broken
    if _behaviour(before) != _behaviour(manifest):
        return f"{major}.{minor + 1}.0", "its answers may differ"
    return f"{major}.{minor}.{patch + 1}", "the same model in another environment"


def order(number: str) -> tuple[int, int, int]:
    """Return a key that sorts version numbers as numbers."""
    major, minor, patch = (int(part) for part in number.split("."))
    return major, minor, patch


def _broken_schema(before: BundleManifest, after: BundleManifest) -> str:
    if before.task != after.task:
        return f"the task changed from {before.task} to {after.task}"
    old = {column.name: column.kind for column in before.features}
    new = {column.name: column.kind for column in after.features}
    for what, names in (("takes a new input", new.keys() - old.keys()), ("lost the input", old.keys() - new.keys())):
        if names:
            return f"{what}: {', '.join(sorted(names))}"
    changed = sorted(name for name in new if new[name] != old[name])
    if changed:
        return f"input {changed[0]} is now a {new[changed[0]]}"
    if before.target.kind != after.target.kind or before.target.categories != after.target.categories:
        return "the possible answers changed"
    return ""


def _behaviour(manifest: BundleManifest) -> tuple[object, ...]:
    return (manifest.engine, manifest.engine_settings, manifest.threshold, manifest.files)
