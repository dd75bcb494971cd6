import pytest

from datahall.backends.blobs.memory import MemoryBlobStore


@pytest.fixture(scope="session")
def blobs():
    return MemoryBlobStore()
