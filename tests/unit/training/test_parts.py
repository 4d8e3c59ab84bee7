"""Smaller parts: normalisation, choices, prefetching, memory, launch variables."""

import threading
import time

import pytest
import torch

from siliforce.data.stats import DataStats, ReferenceEnergies
from siliforce.errors import ConfigError, TrainingError
from siliforce.hardware import choose_device
from siliforce.models import get_model
from siliforce.species import Species
from siliforce.training.build import choose_preset
from siliforce.training.distributed import _first_host, join_world
from siliforce.training.estimate import Estimate, estimate
from siliforce.training.loader import prefetch
from siliforce.training.memory import PeakMemory, available_bytes, is_out_of_memory
from siliforce.training.normalise import NormaliseConfig, given_energies, normalisation
from siliforce.training.record import differences
from tests.unit.training.frames import make_trainer, weights


def stats(method="least squares", **changes):
    references = ReferenceEnergies({14: -5.0, 8: -2.0}, method, 2, 2, 0.1, [])
    facts = {
        "n_frames": 3, "n_atoms": 9, "elements": (8, 14), "references": references,
        "mean_energy_per_atom": -3.0, "std_energy_per_atom": 0.5, "mean_residual_per_atom": -0.7,
        "std_residual_per_atom": 0.2, "rms_force": 1.5, "mean_neighbors": 17.0,
        "max_neighbors": 20, "atoms_per_volume": None, "temperature": None, "min_distance": {},
    }  # fmt: skip
    return DataStats(**(facts | changes))


SIO = Species((14, 8))


def constants(config=None, pinned=True, **changes):
    return normalisation(NormaliseConfig(**(config or {})), stats(**changes), SIO, pinned)


def test_energies_follow_the_species_order():
    assert constants().atomic_energies.tolist() == [-5.0, -2.0]


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 1.5),
        ({"scale": "std_energy"}, 0.2),
        ({"kind": "centred"}, 1.0),
        ({"kind": "none"}, 1.0),
    ],
)
def test_scale(config, scale):
    assert constants(config).scale == scale


def test_scale_without_forces_or_spread():
    assert constants(rms_force=float("nan")).scale == 0.2
    assert constants(rms_force=0.0, std_residual_per_atom=0.0).scale == 1.0


def test_shift_is_zero_where_isolated_atoms_are_pinned_to_known_energies():
    assert constants(method="isolated atoms").shift == 0
    assert constants(method="given").shift == 0
    assert constants(method="isolated atoms", pinned=False).shift == -0.7
    assert constants(method="least squares").shift == -0.7
    assert constants({"shift": "zero"}).shift == 0
    assert constants({"shift": "mean"}, method="given").shift == -0.7


def test_none_leaves_energies_as_they_are():
    result = constants({"kind": "none"})
    assert result.atomic_energies.tolist() == [0, 0]
    assert (result.shift, result.mean_neighbors) == (0, 17)


def test_given_energies_by_atomic_number():
    config = NormaliseConfig(atomic_energies={"Si": -1.0, "O": -2.0})
    assert given_energies(config) == {14: -1.0, 8: -2.0}
    assert given_energies(NormaliseConfig()) is None


def test_preset_by_hardware_and_amount_of_data():
    model = get_model("mace")
    assert choose_preset(model, torch.device("cpu"), 10_000)[0] == "small"
    assert choose_preset(model, torch.device("cuda"), 10_000)[0] == "paper"
    assert choose_preset(model, torch.device("cuda"), 100)[0] == "small"


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="'gpu' cannot be used"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="'cuda' cannot be used"):
            choose_device("cuda")


def test_prefetch_keeps_order_and_raises_errors_where_they_belong():
    def items():
        yield from range(10)
        raise ValueError("in the thread")

    stream = prefetch(items())
    assert [next(stream) for _ in range(10)] == list(range(10))
    with pytest.raises(ValueError, match="in the thread"):
        next(stream)


def test_prefetch_ends_its_thread_when_it_is_left():
    made = []

    def items():
        for k in range(1000):
            made.append(k)
            yield k

    stream = prefetch(items(), depth=2)
    assert next(stream) == 0
    stream.close()
    count = len(made)
    assert count < 10
    time.sleep(0.15)
    assert len(made) == count
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_what_counts_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("no"))
    assert not is_out_of_memory(RuntimeError("index out of range"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)


def test_peak_memory_sees_an_allocation():
    watch = PeakMemory(torch.device("cpu"))
    block = torch.ones(30_000_000)
    assert 0.9 * 4 * block.numel() < watch.peak() < 4 * 4 * block.numel()
    assert available_bytes(torch.device("cpu")) > 2**20


def test_the_estimate_changes_nothing_and_measures(tmp_path):
    trainer = make_trainer(tmp_path, epochs=5)
    before, state = weights(trainer.potential), torch.get_rng_state()
    cost = estimate(trainer)
    assert torch.equal(before, weights(trainer.potential))
    assert torch.equal(state, torch.get_rng_state())
    assert trainer.state.step == 0
    assert cost.n_steps == 15
    assert cost.total_s == pytest.approx(15 * cost.step_s + 5 * cost.valid_s)
    assert cost.step_s > 0
    assert "15 steps" in cost.sentence(5, 2)
    limited = estimate(make_trainer(tmp_path, epochs=None, max_time=10))
    assert (limited.n_steps, limited.total_s) == (None, 10)


def test_few_steps_in_the_time_given_are_told():
    def told(seconds: float, batch_size: int) -> str:
        return Estimate(0.5, 10.0, None, seconds, 0, 1000).sentence(1, batch_size)

    assert "in it about 980 steps" in told(500.0, 8)
    assert "smaller train.batch_size (now 8)" in told(500.0, 8)
    assert "batch_size" not in told(510.0, 8) + told(500.0, 1)


def test_the_estimate_lowers_the_budget_to_the_memory_there_is(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, n_train=24, batch_size=12)
    monkeypatch.setattr("siliforce.training.estimate.available_bytes", lambda device: 1)
    monkeypatch.setattr(PeakMemory, "peak", lambda self: 1000)
    estimate(trainer)
    assert trainer.sampler.max_edges == trainer.sampler.cost.max()


def test_the_estimate_survives_running_out_of_memory(tmp_path):
    trainer = make_trainer(tmp_path, n_train=24, batch_size=12)
    real, limit = trainer.predict, int(trainer.sampler.cost.max())

    def predict(graph, create_graph):
        if graph.n_edges > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(graph, create_graph)

    trainer.predict = predict
    estimate(trainer, measure_memory=False)
    assert trainer.sampler.max_edges < 100_000
    trainer.predict = lambda graph, create_graph: predict(
        graph.replace(center=torch.zeros(10**6)), create_graph
    )
    with pytest.raises(TrainingError, match="largest frame"):
        estimate(trainer, measure_memory=False)


@pytest.fixture
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_alone_without_a_launcher(no_launcher):
    world = join_world()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert world.total([1.0, 2.0]) == [1.0, 2.0]
    assert world.share({"a": 1}) == {"a": 1}
    assert world.smallest(3) == 3


def test_a_slurm_job_without_a_step_is_one_process(no_launcher):
    no_launcher.setenv("SLURM_NTASKS", "8")
    no_launcher.setenv("SLURM_PROCID", "0")
    assert join_world().size == 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("node[03-05,9]", "node03"), ("a1,b2", "a1"), ("host", "host"), ("gpu-[1]", "gpu-1")],
)
def test_first_host_of_a_slurm_list(nodes, first):
    assert _first_host(nodes) == first


def test_differences_name_what_changed():
    old = {"a": {"b": 1, "c": (1, 2)}, "d": None}
    new = {"a": {"b": 2, "c": [1, 2]}, "d": None, "e": 3}
    assert differences(old, new) == ["a.b was 1, is 2", "e was None, is 3"]
    assert differences(old, old) == []
