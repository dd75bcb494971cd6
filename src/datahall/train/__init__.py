"""Fits candidates: search, seeds, and models that are never pickles."""

from typing import TYPE_CHECKING

from datahall.core.registry import Registry

if TYPE_CHECKING:
    from datahall.spec.kinds import ModelConfig

MODELS: Registry["type[ModelConfig]"] = Registry(
    "model",
    {
        "boosting": "datahall.train.models.boosting:Boosting",
        "forest": "datahall.train.models.forest:Forest",
        "logistic": "datahall.train.models.logistic:Logistic",
        "net": "datahall.train.models.net:Net",
        "mlp": "datahall.train.models.mlp:Mlp",
        "ridge": "datahall.train.models.ridge:Ridge",
    },
)
"""Kinds of models by the name that an application file gives them; each is the class of its settings."""

__all__ = ["MODELS"]
