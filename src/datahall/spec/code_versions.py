"""The version of each stage's code, as far as it changes what the stage makes.

Raise a number when the stage would make something else from the same inputs; a refactor leaves it. A golden digest per
stage guards this: a test that goes red says that either the refactor was none, or the number must rise.
"""

from __future__ import annotations

from typing import Literal, get_args

Stage = Literal["data", "train", "export", "evaluate", "gate", "register", "deploy", "serve"]
STAGES: tuple[Stage, ...] = get_args(Stage)

CODE_VERSIONS: dict[Stage, int] = {
    "data": 1,
    "train": 1,
    "export": 1,
    "evaluate": 1,
    "gate": 1,
    "register": 1,
    "deploy": 1,
    "serve": 1,
}
