"""metrics.jsonl (and TensorBoard, if wanted): one row a validation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from siliforce.errors import ConfigError

METRICS = "metrics.jsonl"


class MetricsLog:
    """Appends rows; cut back to a checkpoint's length on resume, so that no row is there twice.

    Attributes:
        size: bytes written.
    """

    def __init__(self, run_dir: Path, tensorboard: bool, active: bool = True) -> None:
        """Prepare.

        Args:
            active: write at all; false on all ranks but the first.

        Raises:
            ConfigError: TensorBoard wanted but not installed.
        """
        self.path = run_dir / METRICS
        self.active = active
        self.size = 0
        self.board: Any = _board(run_dir / "tensorboard") if tensorboard and active else None

    def truncate(self, size: int) -> None:
        """Forget what came after the first `size` bytes."""
        self.size = size
        if not self.active or not self.path.exists():
            self.size = 0 if self.active else size
            return
        if self.path.stat().st_size > size:
            os.truncate(self.path, size)

    def write(self, row: dict[str, float]) -> None:
        """Append one row."""
        if not self.active:
            return
        data = (json.dumps(row) + "\n").encode()
        with self.path.open("ab") as file:
            file.truncate(self.size)
            file.write(data)
        self.size += len(data)
        if self.board is not None:
            for key, value in row.items():
                self.board.add_scalar(key.replace("_", "/", 1), value, int(row["step"]))

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self.board is not None:
            self.board.close()


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "train.tensorboard needs the package: pip install 'siliforce[tensorboard]'; "
            "metrics.jsonl is written in any case"
        ) from None
    return SummaryWriter(str(folder))


def read_metrics(run_dir: str | Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.jsonl."""
    path = Path(run_dir) / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
