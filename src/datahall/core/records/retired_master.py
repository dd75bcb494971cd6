"""A master key under which no data key may lie any more."""

from __future__ import annotations

from typing import ClassVar

from datahall.core.records.base import Record


class RetiredMaster(Record, frozen=True, kw_only=True):
    """A master key that is about to be destroyed: no act can name a data key under it from now on.

    `id` is the key's id in hex, which tells nothing about the key. The record stays when the key is gone, for a writer
    may come with what it wrapped however late.
    """

    KIND: ClassVar[str] = "retired_master"
