"""Three applications to start from; each module writes its table and holds the text of its application file."""

from types import ModuleType

from datahall.core.registry import Registry

EXAMPLES: Registry[ModuleType] = Registry(
    "template",
    {
        "digits": "datahall.data.examples:digits",
        "lending": "datahall.data.examples:lending",
        "tumours": "datahall.data.examples:tumours",
    },
)
"""By the name that `datahall new --template` takes: a module with `write(folder)` and `APP_FILE`."""

__all__ = ["EXAMPLES"]
