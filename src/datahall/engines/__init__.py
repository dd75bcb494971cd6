"""Runs a bundle: what is proven is what serves, because training, evaluation and replicas all answer through here."""

from typing import TYPE_CHECKING

from datahall.core.registry import Registry

if TYPE_CHECKING:
    from datahall.engines.base import TablePredictor

ENGINES: Registry["type[TablePredictor]"] = Registry(
    "engine",
    {
        "onnx": "datahall.engines.onnx:OnnxEngine",
        "sklearn": "datahall.engines.sklearn:SklearnEngine",
        "torch": "datahall.engines.torch:TorchEngine",
    },
    extras={"torch": "torch"},
)
"""Engines by the name that a manifest gives them."""

__all__ = ["ENGINES"]
