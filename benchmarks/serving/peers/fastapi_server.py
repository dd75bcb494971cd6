# /// script
# dependencies = [
#     "fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.22.1", "httptools==0.9.0",
#     "scikit-learn==1.9.1", "numpy==2.4.6",
# ]
# ///
"""FastAPI: an asynchronous handler that calls the model, on uvicorn with uvloop and httptools."""

from __future__ import annotations

import numpy as np
import uvicorn
from fastapi import FastAPI
from fit import arguments, load
from pydantic import BaseModel

template, folder, port = arguments()
model = load(template, folder)
app = FastAPI()


class Rows(BaseModel):
    """What is asked."""

    rows: list[list[float]]


@app.post("/predict")
async def predict(asked: Rows) -> dict[str, list[int]]:
    """Return the rows' classes."""
    return {"predictions": model.predict(np.asarray(asked.rows)).tolist()}


uvicorn.run(
    app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning", backlog=4096
)  # on 127.0.0.1
