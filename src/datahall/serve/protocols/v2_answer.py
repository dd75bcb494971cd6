"""The Open Inference Protocol's `inference_response`: what is the same in each is encoded once."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec

from datahall.core.records import BundleManifest
from datahall.serve.protocols.binary import SIZE, write_values
from datahall.serve.protocols.finite import encode_finite
from datahall.serve.protocols.prepared import Asked, Prepared
from datahall.serve.protocols.v2_metadata import describe_outputs

_encode = msgspec.json.Encoder().encode


class _Output:
    """One output's tensor: its JSON up to the number of rows, from there to the data, and its end."""

    __slots__ = ("binary_end", "datatype", "head", "is_text", "middle", "name", "width")

    def __init__(self, described: dict[str, Any]) -> None:
        self.name, self.datatype = described["name"], described["datatype"]
        self.is_text = self.datatype == "BYTES"
        self.width = described["shape"][1] if len(described["shape"]) > 1 else None
        self.head = _encode({"name": self.name, "datatype": self.datatype, "shape": []})[:-2]
        self.middle = b"]" if self.width is None else b",%d]" % self.width
        parameters = described.get("parameters")
        self.binary_end = b"" if parameters is None else _encode(parameters)[1:-1] + b","
        if parameters is not None:
            self.middle += b',"parameters":' + _encode(parameters)
        self.middle += b',"data":'


class V2Writer:
    """Writes answers of one route."""

    def __init__(self, app: str, number: str, manifest: BundleManifest) -> None:
        self._outputs = {described["name"]: _Output(described) for described in describe_outputs(manifest)}
        self._names = tuple(self._outputs)
        self._head = _encode({"model_name": app, "model_version": number, "outputs": []})[:-2]
        self._usual = self._leads(self._names, 1)

    def write(self, prepared: Prepared, start: int, stop: int, asked: Asked, answer_id: str) -> bytes:  # noqa: ARG002  all writers' signature
        """Return the response to the request whose rows are `start` to `stop` of the batch.

        Raises DatahallError where one of them has a number that is not finite.
        """
        alone = stop - start == 1
        usual = alone and asked.outputs == self._names
        parts: list[bytes] = []
        for output, lead in self._usual if usual else self._leads(asked.outputs, stop - start):
            values = prepared.rows[output.name][start:stop]
            if output.is_text:
                data = _encode(values)
            elif output.width is None:
                data = encode_finite(values)
            else:
                data = encode_finite(values[0] if alone else list(chain.from_iterable(values)))
            parts += (lead, data)
        parts.append(_tail(asked))
        return b"".join(parts)

    def _leads(self, names: tuple[str, ...], num_rows: int) -> list[tuple[_Output, bytes]]:
        """Return for each output everything between the data of the one before and its own."""
        outputs = [self._outputs[name] for name in names]
        befores = [self._head, *[b"},"] * len(outputs)]
        leads = [
            b"%b%b%d%b" % (before, one.head, num_rows, one.middle)
            for before, one in zip(befores, outputs, strict=False)
        ]
        return list(zip(outputs, leads, strict=True))

    def write_binary(self, prepared: Prepared, start: int, stop: int, asked: Asked) -> tuple[bytes, int]:
        """Return the response with the outputs of `asked.binary` as bytes, and how long its JSON is.

        Raises DatahallError where one of the rows has a number that is not finite.
        """
        num_rows = b"%d" % (stop - start)
        parts, tail = [self._head], []
        for name, is_binary in zip(asked.outputs, asked.binary, strict=True):
            output = self._outputs[name]
            values: list[Any] = prepared.rows[name][start:stop]
            if output.width is not None:
                values = list(chain.from_iterable(values))
            data = _encode(values) if output.is_text else encode_finite(values)
            if not is_binary:
                parts += (output.head, num_rows, output.middle, data, b"},")
                continue
            tail.append(write_values(output.datatype, values))
            width = b"]" if output.width is None else b",%d]" % output.width
            size = b',"parameters":{%b"%b":%d}},' % (output.binary_end, SIZE.encode(), len(tail[-1]))
            parts += (output.head, num_rows, width, size)
        parts[-1] = parts[-1][:-2]  # as `_tail` begins
        parts.append(_tail(asked))
        head = b"".join(parts)
        return b"".join([head, *tail]), len(head)


def _tail(asked: Asked) -> bytes:
    """Return what follows the last output's data."""
    return b'}],"id":%b}' % _encode(asked.id) if asked.id else b"}]}"
