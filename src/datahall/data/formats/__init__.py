"""One file a format: each reads bytes into a raw table and lists column names cheaply."""

from typing import TYPE_CHECKING

from datahall.core.registry import Registry

if TYPE_CHECKING:
    from datahall.data.formats.base import Format

FORMATS: Registry["Format"] = Registry(
    "format",
    {
        "csv": "datahall.data.formats.csv_text:CSV",
        "json": "datahall.data.formats.json_text:JSON",
        "parquet": "datahall.data.formats.parquet_file:PARQUET",
    },
)

__all__ = ["FORMATS"]
