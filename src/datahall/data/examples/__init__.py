"""Three applications to start from; each module writes its table and holds the text of its application file."""

from typing import TYPE_CHECKING

from datahall.core.registry import Registry

if TYPE_CHECKING:
    from datahall.data.examples.template import Template

EXAMPLES: Registry["Template"] = Registry(
    "template",
    {name: f"datahall.data.examples.{name}:TEMPLATE" for name in ("digits", "lending", "tumours")},
)
"""By the name that `datahall new --template` takes."""

__all__ = ["EXAMPLES"]
