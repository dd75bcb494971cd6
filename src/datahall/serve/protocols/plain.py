"""Plain JSON answers: a list of predictions, in which what is the same in each is encoded once."""

from __future__ import annotations

import msgspec

from datahall.core.records import BundleManifest
from datahall.serve.protocols.finite import encode_finite
from datahall.serve.protocols.prepared import Asked, Prepared

_encode = msgspec.json.Encoder().encode
_VALUES = ("value", "lower", "upper")


class PlainWriter:
    """Writes answers of one route: `{"id", "version", "predictions"}`.

    A prediction is a label with the probabilities by class, or a value with its interval.
    """

    def __init__(self, version: str, manifest: BundleManifest) -> None:
        self._is_labels = manifest.task == "classification"
        categories = manifest.target.categories
        self._labels = {category: _encode(category) for category in categories}
        members = [_encode(category).replace(b"%", b"%%") + b":%b" for category in categories]
        self._row = b'{"label":%%b,"probabilities":{%b}}' % b",".join(members)
        self._middle = b'","version":%b,"predictions":[' % _encode(version)

    def write(self, prepared: Prepared, start: int, stop: int, asked: Asked, answer_id: str) -> bytes:  # noqa: ARG002  all writers' signature
        """Return the answer to the request whose rows are `start` to `stop` of the batch.

        `answer_id` needs no escapes in JSON. Raises DatahallError where a row has a number that is not finite.
        """
        if not self._is_labels:
            rows = self._values(prepared, start, stop)
        elif stop - start == 1:
            rows = self._labelled(prepared.rows["label"][start], prepared.rows["probability"][start])
        else:
            both = zip(prepared.rows["label"][start:stop], prepared.rows["probability"][start:stop], strict=True)
            rows = b",".join([self._labelled(label, row) for label, row in both])
        return b"".join((b'{"id":"', answer_id.encode(), self._middle, rows, b"]}"))

    def _labelled(self, label: str, probabilities: list[float]) -> bytes:
        return self._row % (self._labels.get(label) or _encode(label), *encode_finite(probabilities)[1:-1].split(b","))

    def _values(self, prepared: Prepared, start: int, stop: int) -> bytes:
        names = [name for name in _VALUES if name in prepared.rows]
        member = b",".join([b'"%b":%%b' % name.encode() for name in names])
        columns = [encode_finite(prepared.rows[name][start:stop])[1:-1].split(b",") for name in names]
        return b",".join([b"{%b}" % (member % row) for row in zip(*columns, strict=True)])
