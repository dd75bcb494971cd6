# /// script
# dependencies = ["litserve==0.2.19", "scikit-learn==1.9.1"]
# ///
"""LitServe: batches of 64 rows or 2 ms, its fast queue between server and worker."""

from pathlib import Path

import litserve
import numpy as np
from fit import arguments, load


class Model(litserve.LitAPI):
    """One request is one row; batching is LitServe's own."""

    def __init__(self, template: str, folder: Path) -> None:
        super().__init__(max_batch_size=64, batch_timeout=0.002)
        self.template, self.folder = template, folder

    def setup(self, device: str) -> None:
        """Load the model in the worker."""
        del device
        self.model = load(self.template, self.folder)

    def decode_request(self, request) -> list[float]:  # noqa: ANN001  LitServe passes the JSON only where no type stands
        """Return the row that is asked about."""
        return request["rows"][0]

    def batch(self, inputs: list[list[float]]) -> np.ndarray:
        """Return many requests' rows."""
        return np.asarray(inputs)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the rows' classes."""
        return self.model.predict(x)

    def unbatch(self, output: np.ndarray) -> list[int]:
        """Return each request's class."""
        return output.tolist()

    def encode_response(self, output: int) -> dict[str, list[int]]:
        """Return the answer's body."""
        return {"predictions": [output]}


if __name__ == "__main__":  # its workers import this file
    name, place, number = arguments()
    server = litserve.LitServer(Model(name, place), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=number, log_level="warning", generate_client_file=False)
