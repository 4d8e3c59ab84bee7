"""A training in a process of its own, for tests that kill it or start several.

`python -m tests.unit.training.worker RUN_DIR JSON_OPTIONS`: starts, or goes on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from siliforce.training import checkpoint
from siliforce.training.distributed import join_world
from tests.unit.training.frames import make_trainer


def main(run_dir: Path, options: dict[str, Any]) -> None:
    die_in_write = options.pop("die_in_write", None)
    if die_in_write is not None:
        _die_in_write(die_in_write)
    world = join_world()
    trainer = make_trainer(run_dir, world=world, **options)
    if checkpoint.exists(run_dir):
        trainer.restore(checkpoint.load(run_dir)[0])
    trainer.fit()
    world.close()


def _die_in_write(call: int) -> None:
    """SIGKILL in the middle of the n-th synchronised write."""
    real, calls = os.fsync, []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == call:
            os.ftruncate(handle, 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle)

    os.fsync = fsync


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
