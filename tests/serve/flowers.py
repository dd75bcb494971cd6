"""The bundle of an application whose model nobody asks: for tests of who may come in."""

from datahall.core.records import BundleManifest, Column

MANIFEST = BundleManifest(
    app="flowers",
    task="classification",
    engine="sklearn",
    engine_settings={},
    features=(),
    target=Column(name="kind", kind="number"),
    threshold=None,
    environment="e" * 64,
    files={},
)
