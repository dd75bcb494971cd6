"""What an application file may name: every model and every claim that is registered."""

from __future__ import annotations

from datahall.evaluate import CLAIMS
from datahall.spec.kinds import Kinds
from datahall.train import MODELS

KINDS = Kinds(models=MODELS, claims=CLAIMS)
