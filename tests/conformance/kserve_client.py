"""Run in kserve's own environment: its REST client against a hall, which prints what it got as JSON.

Usage: python kserve_client.py URL KEY
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

ROWS = np.array([[1.5, 0.0], [-2.0, 1.0]])


def request(*, binary: bool, model: str = "flowers", outputs: list[str] | None = None, rows: np.ndarray = ROWS):
    given = InferInput("input", list(rows.shape), "FP64")
    given.set_data_from_numpy(rows, binary_data=binary)
    asked = [RequestedOutput(name) for name in outputs or []]
    return InferRequest(model_name=model, infer_inputs=[given], request_id="abc", request_outputs=asked or None)


async def main(url: str, key: str) -> dict[str, object]:
    headers = {"Authorization": f"Bearer {key}"}
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    shown: dict[str, object] = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model": await client.is_model_ready(url, "flowers", headers=dict(headers)),
    }
    for name, asked in (
        ("json", request(binary=False)),
        ("binary", request(binary=True)),
        ("one output", request(binary=False, outputs=["probability"])),
    ):
        answer = await client.infer(url, asked, model_name="flowers", headers=dict(headers))
        shown[name] = {
            "id": answer.id,
            "model": [answer.model_name, answer.model_version],
            "outputs": {one.name: [one.datatype, one.shape, one.as_numpy().tolist()] for one in answer.outputs},
        }
    for name, asked, model in (
        ("shape", request(binary=False, rows=np.zeros((1, 3))), "flowers"),
        ("another model in the body", request(binary=False, model="other"), "flowers"),
        ("no such model", request(binary=False, model="nobody"), "nobody"),
    ):
        try:
            await client.infer(url, asked, model_name=model, headers=dict(headers))
        except httpx.HTTPStatusError as error:
            shown[name] = str(error)
    await client.close()
    return shown


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(*sys.argv[1:]))))
