"""Trainings that are killed, and trainings of several processes."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from siliforce.graph import Topology
from siliforce.potential import Potential
from siliforce.training import checkpoint
from siliforce.training.runlog import read_metrics
from tests.unit.training.frames import make_trainer, morse_silicon, weights

ROOT = Path(__file__).resolve().parents[3]


def start(run_dir, options, **env):
    command = [sys.executable, "-m", "tests.unit.training.worker", str(run_dir)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, json.dumps(options)], cwd=ROOT, env={**os.environ, **threads, **env}
    )


def final(run_dir):
    """Everything a finished training leaves, without times."""
    tensors = checkpoint.load(run_dir)[0].tensors
    rows = [{k: v for k, v in r.items() if k != "time_s"} for r in read_metrics(run_dir)]
    return tensors, rows, weights(Potential.load(run_dir))


def assert_equal_runs(a, b):
    tensors, rows, best = final(a)
    tensors_b, rows_b, best_b = final(b)
    assert tensors.keys() == tensors_b.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, tensors_b[name]), name
    assert rows == rows_b
    assert torch.equal(best, best_b)


def test_killed_in_the_middle_of_a_write(tmp_path):
    options = {"epochs": 3, "checkpoint_every": 0}
    torch.set_num_threads(1)
    make_trainer(tmp_path / "whole", **options).fit()
    process = start(tmp_path / "killed", {**options, "die_in_write": 6})
    assert process.wait(timeout=120) == -signal.SIGKILL
    assert 0 < checkpoint.load(tmp_path / "killed")[0].header["state"]["step"] < 9
    assert start(tmp_path / "killed", options).wait(timeout=120) == 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.full
def test_killed_at_any_moment_many_times(tmp_path):
    options = {"epochs": 200, "n_train": 32, "n_valid": 8, "checkpoint_every": 0.05}
    make_trainer(tmp_path / "whole", **options).fit()
    rng, kills = random.Random(0), 0
    for _ in range(40):
        process = start(tmp_path / "killed", options)
        waited = time.monotonic()
        while not checkpoint.exists(tmp_path / "killed") and process.poll() is None:
            time.sleep(0.05)
        try:
            process.wait(timeout=time.monotonic() - waited + rng.uniform(0.0, 1.5))
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    else:
        assert start(tmp_path / "killed", options).wait(timeout=600) == 0
    assert kills > 2
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


def launch_ranks(run_dir, options, n):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(run_dir, options, RANK=str(k), LOCAL_RANK=str(k), **shared) for k in range(n)]
    try:
        for process in ranks:
            assert process.wait(timeout=240) == 0
    finally:
        for process in ranks:
            process.kill()


def test_two_processes_give_the_losses_of_one(tmp_path):
    """Uneven labels, an odd number of validation frames, and portions on top."""
    options = {
        "epochs": 3, "n_train": 13, "n_valid": 5, "batch_size": 5, "max_edges": 400,
        "checkpoint_every": 0, "loss": {"kind": "mae", "stress": 0.5, "pool": "structures"},
    }  # fmt: skip
    make_trainer(tmp_path / "one", **options).fit()
    launch_ranks(tmp_path / "two", options, 2)
    one, two = (read_metrics(tmp_path / k) for k in ("one", "two"))
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for key in a.keys() - {"time_s"}:
            assert b[key] == pytest.approx(a[key], rel=1e-8, abs=1e-12), key
    # Energies, not weights: pinned isolated atoms leave the last bias without effect.
    data = morse_silicon(18)
    batch = data.batch(np.arange(18), 4.0, Topology(pairs=True), torch.float64)
    energies = [Potential.load(tmp_path / k)(batch.graph).energy for k in ("one", "two")]
    torch.testing.assert_close(*energies, rtol=1e-10, atol=1e-9)
