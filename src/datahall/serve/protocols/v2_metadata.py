"""The Open Inference Protocol's words for what a model takes and gives, and its descriptions of server and model."""

from __future__ import annotations

from typing import Any

from datahall.core.records import BundleManifest

WHOLE_TABLE = "input"
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
DATATYPES = {"number": (*INTEGERS, "FP16", "FP32", "FP64"), "category": ("BYTES",), "boolean": ("BOOL",)}
_MAIN_DATATYPE = {"number": "FP64", "category": "BYTES", "boolean": "BOOL"}


def describe_server(version: str) -> dict[str, Any]:
    """Return the `metadata_server_response`."""
    return {"name": "datahall", "version": version, "extensions": ["binary_tensor_data"]}


def describe_model(app: str, version: str, manifest: BundleManifest) -> dict[str, Any]:
    """Return the `metadata_model_response`: one input for each column."""
    inputs = [
        {"name": feature.name, "datatype": _MAIN_DATATYPE[feature.kind], "shape": [-1]} for feature in manifest.features
    ]
    platform = f"datahall_{manifest.engine}"
    outputs = describe_outputs(manifest)
    return {"name": app, "versions": [version], "platform": platform, "inputs": inputs, "outputs": outputs}


def describe_outputs(manifest: BundleManifest) -> list[dict[str, Any]]:
    """Return each output's `metadata_tensor`, in the order in which answers list them."""
    if manifest.task == "classification":
        labels = list(manifest.target.categories)
        return [
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
            # Which class a column of probabilities is about: the protocol has no field of its own for it.
            {"name": "probability", "datatype": "FP64", "shape": [-1, len(labels)], "parameters": {"labels": labels}},
        ]
    names = ["value"] + (["lower", "upper"] if "interval" in manifest.engine_settings else [])
    return [{"name": name, "datatype": "FP64", "shape": [-1]} for name in names]
