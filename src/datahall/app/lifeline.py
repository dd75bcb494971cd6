"""Ends this process when the one that started it ends, however that ends."""

from __future__ import annotations

import os
import threading

ORPHANED = 75  # EX_TEMPFAIL of sysexits.h: nobody is there any more to do the work for


def hold(descriptor: int) -> None:
    """Watch the reading end of a pipe whose writing end only the owner holds; leave at once when it closes."""

    def watch() -> None:
        os.read(descriptor, 1)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
