"""The version of each stage's code, as far as it changes what the stage makes.

Raise a number when the stage would make something else from the same inputs; a refactor leaves it. Every hall then
runs that stage, and what follows from it, once more.
"""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["data", "train", "export", "evaluate", "gate", "register", "deploy", "serve"]
STAGES: tuple[Stage, ...] = get_args(Stage)

CODE_VERSIONS: dict[Stage, int] = {
    "data": 1,
    "train": 2,
    "export": 2,
    "evaluate": 2,
    "gate": 2,
    "register": 1,
    "deploy": 1,
    "serve": 1,
}
