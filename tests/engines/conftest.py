import itertools

import pytest

from datahall.core.canonical import digest_bytes
from datahall.core.records import Grant


class Shelf:
    """A blob store in a dictionary."""

    def __init__(self):
        self.held = {}
        self._numbers = itertools.count()

    def put(self, data, *, team):
        name = str(next(self._numbers))
        self.held[name] = bytes(data)
        return Grant(digest=digest_bytes(data), object=name, size_bytes=len(data), key=b"")

    def get(self, grant, *, team):
        return self.held[grant.object]

    def delete(self, object_name, *, team):
        self.held.pop(object_name, None)

    def list(self, *, team):
        return sorted(self.held)


@pytest.fixture(scope="session")
def blobs():
    return Shelf()
