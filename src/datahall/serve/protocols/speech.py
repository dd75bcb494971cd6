"""Every protocol as one route speaks it, so that whoever carries a request need not know which one it is in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from datahall.core.records import Route
from datahall.serve.columns import RowReader
from datahall.serve.protocols.mlflow import InvocationReader, InvocationWriter, error_body
from datahall.serve.protocols.plain import PlainWriter
from datahall.serve.protocols.prepared import Asked, Prepared
from datahall.serve.protocols.v2 import TensorReader
from datahall.serve.protocols.v2_answer import V2Writer
from datahall.serve.responses import Response
from datahall.serve.rows import Rows

Write = Callable[[Prepared, int, int, Asked, str], bytes]
"""`write(prepared, start, stop, asked, answer_id)`: see `AnswerWriter`."""


class Speech(NamedTuple):
    """One protocol, as one route speaks it."""

    read: Callable[[bytes], Asked]
    """Raises UserError for a body that asks nothing."""
    write: Write
    tell: Callable[[Response], Response] | None = None
    """Puts an error into the protocol's words; None where ours are."""
    read_binary: Callable[[bytes, bytes], Asked] | None = None
    """Reads a body behind the number of its bytes that are JSON, in digits; None where all have to be."""
    write_binary: Callable[[Prepared, int, int, Asked], tuple[bytes, int]] | None = None
    """Like `write`, for `asked.binary`; returns also how much of the body is JSON."""


def speeches(route: Route) -> Mapping[str, Speech]:
    """Return each protocol by its name in `serve.protocols`, whether the route offers it or not."""
    manifest = route.manifest
    tensors, v2 = TensorReader(manifest), V2Writer(route.app, route.number, manifest)
    return {
        "predict": Speech(_asked(RowReader(manifest).read), PlainWriter(route.version, manifest).write),
        "v2": Speech(tensors.read, v2.write, None, tensors.read_binary, v2.write_binary),
        "mlflow": Speech(_asked(InvocationReader(manifest).read), InvocationWriter(manifest).write, tell_mlflow),
    }


def _asked(read: Callable[[bytes], Rows]) -> Callable[[bytes], Asked]:
    return lambda body: Asked(read(body))


def tell_mlflow(response: Response) -> Response:
    """Return an error of ours as MLflow's clients expect one."""
    return msgspec.structs.replace(response, body=error_body(response.status, response.body))
