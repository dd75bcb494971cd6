"""Opens a packed bundle, whichever engine it names."""

from __future__ import annotations

from datahall.core.errors import IntegrityError
from datahall.core.ports import Predictor
from datahall.engines import ENGINES
from datahall.engines.bundle import unpack
from datahall.engines.versions import check_environment


def open_predictor(packed: bytes | memoryview, *, num_threads: int = 1) -> Predictor:
    """Return the predictor of a packed bundle; `packed` must live as long as it.

    Raises IntegrityError for a bundle that was changed or that holds what its engine does not load, and
    UnavailableError where other package versions are installed than those that the bundle was proven with.
    """
    manifest, files = unpack(packed)
    if manifest.engine not in ENGINES:
        raise IntegrityError(f"the bundle names the engine '{manifest.engine}', which does not exist")
    check_environment(manifest)
    return ENGINES.load(manifest.engine)(manifest, files, num_threads=num_threads)
