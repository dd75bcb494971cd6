"""What packages need from the world, as Protocols; `app.wiring` hands in what fulfils them."""

from datahall.core.ports.blobs import BlobStore
from datahall.core.ports.catalogue import Catalogue, LedgerStore
from datahall.core.ports.clock import Clock
from datahall.core.ports.coordination import Coordinator
from datahall.core.ports.launching import Launcher, Limits, Process, ProcessSpec
from datahall.core.ports.prediction import Answerer, Columns, Predictor
from datahall.core.ports.signing import Signer, Witness
from datahall.core.ports.transport import Done, Link, Outcome, Transport

__all__ = [
    "Answerer",
    "BlobStore",
    "Catalogue",
    "Clock",
    "Columns",
    "Coordinator",
    "Done",
    "Launcher",
    "LedgerStore",
    "Limits",
    "Link",
    "Outcome",
    "Predictor",
    "Process",
    "ProcessSpec",
    "Signer",
    "Transport",
    "Witness",
]
