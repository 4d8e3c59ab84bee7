"""Frames from the parquet files of the ColabFit exchange on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from siliforce.data.frame import Frame
from siliforce.errors import DataError

NEEDED = ("positions", "cell", "atomic_numbers", "energy", "atomic_forces")
OPTIONAL = (
    "pbc",
    "cauchy_stress",
    "cauchy_stress_volume_normalized",
    "method",
    "software",
    "names",
)
ROWS = 256


def read_parquet(paths: Iterable[Path]) -> Iterator[Frame]:
    """Rows of parquet files as frames; only a few rows are in memory at a time.

    Raises:
        DataError: pyarrow is missing, a file is damaged, or has other columns.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError("parquet files need pyarrow: pip install 'siliforce[parquet]'") from None
    for path in paths:
        try:
            file = pq.ParquetFile(path)
            names = file.schema_arrow.names
            missing = [c for c in NEEDED if c not in names]
            if missing:
                raise DataError(f"{path}: has no column {', '.join(missing)}")
            columns = [c for c in (*NEEDED, *OPTIONAL) if c in names]
            count = 0
            for batch in file.iter_batches(ROWS, columns=columns):
                for row in batch.to_pylist():
                    yield _frame(row, f"{path.name}:{count}")
                    count += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: damaged or not parquet ({error})") from error


def _frame(row: dict[str, Any], source: str) -> Frame:
    row = {name: _plain(value) for name, value in row.items()}
    cell = np.array(row["cell"], dtype=np.float64).reshape(3, 3)
    energy, forces, stress = row["energy"], row["atomic_forces"], row.get("cauchy_stress")
    if stress is not None:
        stress = np.array(stress, dtype=np.float64).reshape(3, 3)
        if row.get("cauchy_stress_volume_normalized") is False:
            stress = stress / abs(np.linalg.det(cell))
    names = row.get("names") or []
    name = names if isinstance(names, str) else next(iter(names), "")
    level = "-".join(str(row[k]) for k in ("software", "method") if row.get(k))
    return Frame(
        numbers=np.array(row["atomic_numbers"], dtype=np.int64),
        positions=np.array(row["positions"], dtype=np.float64).reshape(-1, 3),
        cell=cell,
        pbc=np.array(row.get("pbc") or (True, True, True), dtype=bool),
        energy=np.nan if energy is None else float(energy),
        forces=None if forces is None else np.array(forces, dtype=np.float64).reshape(-1, 3),
        stress=stress,
        tags={k: v for k, v in (("name", name), ("level", level)) if v},
        source=source,
    )


def _plain(value: Any) -> Any:
    """Arrays that were stored as JSON text, back as lists."""
    if isinstance(value, str) and value[:1] in "[{":
        return json.loads(value)
    return value
