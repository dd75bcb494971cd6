"""Takes a staging folder into a bucket and is killed at the given failpoint's nth passing: for test_objects.py."""

import os
import signal
import sys
from pathlib import Path

from datahall.backends.blobs.objects import ObjectBlobStore
from datahall.backends.blobs.upload import upload_all
from datahall.core.failpoints import armed

url, endpoint, staging, part_bytes, point, nth = sys.argv[1:]
options = {"region": "us-east-1", "access_key_id": "test", "secret_access_key": "test", "endpoint": endpoint}
passings = iter(range(1, 1000))


def kill(name: str) -> None:
    """End this process as `kill -9` does."""
    if name == point and next(passings) == int(nth):
        os.kill(os.getpid(), signal.SIGKILL)


with armed(kill):
    store = ObjectBlobStore(url, options=options, allow_http=True, part_bytes=int(part_bytes))
    upload_all(store, Path(staging))
