"""Hands an auditor all that is needed to check a hall's ledger without Datahall."""

from __future__ import annotations

import shlex
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from datahall.core.errors import UserError
from datahall.core.hall import HallPaths
from datahall.ledger import verify


def write_kit(folder: Path, paths: HallPaths, public_key: bytes, checkpoint: str | None) -> str:
    """Write the verifier, the hall's public key and the newest witnessed checkpoint; return the command to run.

    The verifier needs Python and the package `cryptography`, nothing else. Raises UserError where the folder cannot
    be written.
    """
    pem = Ed25519PublicKey.from_public_bytes(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "verify.py").write_text(Path(verify.__file__).read_text("utf-8"), "utf-8")
        (folder / "public.pem").write_bytes(pem)
        if checkpoint is not None:
            (folder / "checkpoint.note").write_text(checkpoint, "utf-8")
    except OSError as error:
        raise UserError(f"cannot write the kit: {error.strerror}", where=str(folder)) from error
    command = ["python3", str(folder / "verify.py"), str(paths.db), "--key", str(folder / "public.pem")]
    if checkpoint is not None:
        command += ["--checkpoint", str(folder / "checkpoint.note")]
    return shlex.join(command)
