"""Divides rows into train, validation and holdout, so that no person and no row's twin is on both sides.

A unit is all rows of one data subject or, where no subject is declared, all rows with equal features. A unit's
part follows from the keyed hash of the unit alone (BLAKE2b with the seed). Therefore the order of the rows, the
number of files and rows added later change no unit's part: what a model was trained on never enters a later
holdout of the same seed. The price is that shares are met only on average: of n units the holdout gets
n * share, give or take sqrt(n * share * (1 - share)); classes are spread alike by the same chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import polars as pl

PARTS = ("train", "validation", "holdout")


@dataclass(frozen=True)
class Units:
    """A 128-bit name for each row's unit, shape (rows, 2) of uint64; equal for rows that belong together."""

    names: np.ndarray

    def sizes(self) -> np.ndarray:
        """Return the number of rows of each unit, shape (units,)."""
        return np.unique(self.names[:, 0], return_counts=True)[1]


def units_of_subjects(subjects: pl.Series, seed: int) -> Units:
    """Return the units of rows whose `subjects` are given as text, none missing."""
    key = _key(seed, "subject")
    known = {text: _hash(text.encode(), key) for text in subjects.unique()}
    return Units(_names(known[text] for text in subjects))


def units_of_rows(frame: pl.DataFrame, seed: int) -> Units:
    """Return the units of rows that are known only by their content; the order of the columns does not matter."""
    return Units(row_digests(frame, _key(seed, "row")))


def assign(units: Units, *, holdout: float, validation: float) -> np.ndarray:
    """Return each row's part as an index into PARTS, shape (rows,)."""
    place = units.names[:, 0] / 2.0**64  # the keyed hash is uniform in [0, 1)
    parts = np.zeros(len(place), dtype=np.int64)
    parts[place < holdout + validation] = 1
    parts[place < holdout] = 2
    return parts


def order(units: Units, frame: pl.DataFrame) -> np.ndarray:
    """Return the one order of the rows that does not depend on the order of the sources: by unit, then by content."""
    contents = row_digests(frame, b"")
    keys = np.concatenate([units.names, contents], axis=1)
    return np.lexsort(keys.T[::-1])


def row_digests(frame: pl.DataFrame, key: bytes) -> np.ndarray:
    """Return the BLAKE2b of each row, shape (rows, 2) of uint64, over eight bytes a column, columns by name.

    Numbers count by their value, texts by their own hash; all missing values are alike.
    """
    columns = [_eight_bytes(frame[name]) for name in sorted(frame.columns)]
    width = 8 * len(columns)
    flat = memoryview(np.concatenate(columns, axis=1).tobytes())
    return _names(_hash(flat[start : start + width], key) for start in range(0, len(flat), width))


def pseudonyms(subjects: pl.Series, seed: int) -> pl.Series:
    """Return a name for each row's subject that means nothing outside this snapshot; no table of them is stored.

    The key is drawn from all subjects together and the seed, so another snapshot names the same person
    otherwise, while the same rows in another order or in other files keep their names. Whoever holds the source
    can compute the names again: this is pseudonymous (GDPR Art. 4(5)), not anonymous.
    """
    everyone = blake2b(key=_key(seed, "pseudonym"))
    for subject in subjects.unique().sort():
        everyone.update(blake2b(subject.encode()).digest())
    key = everyone.digest()
    known = {subject: blake2b(subject.encode(), key=key, digest_size=12).hexdigest() for subject in subjects.unique()}
    return pl.Series(subjects.name, [known[subject] for subject in subjects], dtype=pl.String)


def _eight_bytes(series: pl.Series) -> np.ndarray:
    if series.dtype == pl.String:
        known = {text: blake2b(text.encode(), digest_size=8).digest() for text in series.unique().drop_nulls()}
        flat = b"".join(known.get(text, bytes(8)) for text in series)
    else:
        numbers = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        flat = numbers.astype(">f8").tobytes()
    return np.frombuffer(flat, dtype=np.uint8).reshape(len(series), 8)


def _names(digests: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64).reshape(-1, 2)


def _key(seed: int, purpose: str) -> bytes:
    return f"{purpose}\x1f{seed}".encode()


def _hash(data: bytes | memoryview, key: bytes) -> bytes:
    return blake2b(data, key=key, digest_size=16).digest()
