"""What cannot be imported is named, and nothing is written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from siliforce.cli import main
from siliforce.deploy.load import import_model
from siliforce.deploy.mace_torch import decimal, mace_potential
from siliforce.deploy.nequip_checkpoint import nequip_potential
from siliforce.deploy.pickles import Layer, StandIn, read_pickle
from siliforce.errors import ModelFileError
from tests.parity.test_import import unpacked


def stand_in(path: str, state: Any = None) -> StandIn:
    made = type("StandIn", (StandIn,), {"path": path})()
    made.state = state
    return made


def module(path: str) -> StandIn:
    return stand_in(path, {"_modules": {}, "_parameters": {}, "_buffers": {}})


def inside(content: StandIn, *names: str) -> dict[str, Any]:
    """State of an inner module."""
    for name in names:
        content = content.state["_modules"][name]
    return content.state


def first_block(content: StandIn) -> None:
    parts = inside(content, "interactions")["_modules"]
    path = "mace.modules.blocks.RealAgnosticInteractionBlock"
    parts["0"] = stand_in(path, parts["0"].state)


def part(name: str, path: str, *place: str) -> Callable[[StandIn], None]:
    def edit(content: StandIn) -> None:
        inside(content, *place)["_modules"][name] = module(path)

    return edit


def setting(name: str, value: Any, *place: str) -> Callable[[StandIn], None]:
    def edit(content: StandIn) -> None:
        inside(content, *place)[name] = value

    return edit


def tensor(name: str, *place: str) -> Callable[[StandIn], None]:
    def edit(content: StandIn) -> None:
        inside(content, *place)["_parameters"][name] = torch.ones(2)

    return edit


def frequencies(content: StandIn) -> None:
    buffers = inside(content, "radial_embedding", "bessel_fn")["_buffers"]
    buffers["bessel_weights"] = buffers["bessel_weights"] * 1.01


def couplings(content: StandIn) -> None:
    place = ("products", "0", "symmetric_contractions", "contractions", "0")
    inside(content, *place)["_buffers"]["U_matrix_2"] += 1


def orders(content: StandIn) -> None:
    place = ("products", "0", "symmetric_contractions", "contractions", "0", "weights")
    inside(content, *place)["_parameters"].clear()


def ungated(content: StandIn) -> None:
    inside(content, *GATE[:-1])["_modules"].clear()


def smaller(content: StandIn) -> None:
    parameters = inside(content, "interactions", "1", "linear")["_parameters"]
    parameters["weight"] = parameters["weight"][:-4]


TANH = type("StandIn", (StandIn,), {"path": "torch.tanh"})
GATE = ("readouts", "1", "non_linearity", "acts", "0")
MACE_EDITS: dict[str, tuple[Callable[[StandIn], None], str]] = {
    "first block": (first_block, r"interactions\.0 \(RealAgnosticInteractionBlock\)"),
    "repulsion": (part("pair_repulsion_fn", "mace.modules.radial.ZBLBasis"), r"\(ZBLBasis\)"),
    "transform": (
        part("distance_transform", "mace.modules.radial.AgnesiTransform", "radial_embedding"),
        r"radial_embedding\.distance_transform \(AgnesiTransform\)",
    ),
    "parity": (setting("use_so3", True), "use_so3 is True"),
    "unknown setting": (setting("surprise", 3), "surprise = 3"),
    "heads": (setting("heads", ["a", "b"]), r"2 heads \(a, b\)"),
    "irreps": (setting("hidden_irreps", "4x0e+4x1e", "interactions", "0"), r"4x0e\+4x1e"),
    "neighbours": (setting("avg_num_neighbors", 3.0, "interactions", "1"), "avg_num_neighbors"),
    "no number": (setting("avg_num_neighbors", "many", "interactions", "1"), "'many'"),
    "gate": (setting("f", TANH, *GATE), r"torch\.tanh"),
    "no gate": (ungated, "no activation"),
    "orders": (orders, "several orders"),
    "weight": (tensor("surprise", "interactions", "0", "linear"), "linear.surprise"),
    "frequencies": (frequencies, "Bessel functions"),
    "sizes": (smaller, "unexpected shapes"),
    "couplings": (couplings, "couplings"),
    "hooks": (setting("_forward_hooks", {0: TANH}, "products"), "_forward_hooks"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("saved")


@pytest.mark.parametrize("edit", MACE_EDITS)
def test_what_mace_lacks_is_named(edit: str, folder: Path) -> None:
    content = read_pickle(unpacked("mace", "model", "float64", folder))
    change, message = MACE_EDITS[edit]
    change(content)
    with pytest.raises(ModelFileError, match=message):
        mace_potential(Layer.read(content))


def test_mace_without_a_scale_is_taken(folder: Path) -> None:
    content = read_pickle(unpacked("mace", "model", "float64", folder))
    scaled = mace_potential(Layer.read(content))
    del content.state["_modules"]["scale_shift"]
    plain = mace_potential(Layer.read(stand_in("mace.modules.models.MACE", content.state)))
    assert scaled.scale > 1
    assert plain.scale == 1
    assert torch.equal(plain.atomic_energies.weight, scaled.atomic_energies.weight)
    assert torch.equal(plain.model.embedding.weight, scaled.model.embedding.weight)


def several(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["model.second.model.func.x"] = torch.ones(1)


def averages(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["ema.ema_weight_3"] = torch.ones(1)


def unknown_weight(checkpoint: dict[str, Any]) -> None:
    del checkpoint["state_dict"]["ema.ema_weight_0"]
    checkpoint["state_dict"] = {
        k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("ema")
    }
    checkpoint["state_dict"]["model.sole_model.model.func.surprise"] = torch.ones(1)


def model_setting(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(checkpoint: dict[str, Any]) -> None:
        checkpoint["hyper_parameters"]["model"][name] = value

    return edit


def version(checkpoint: dict[str, Any]) -> None:
    checkpoint["hyper_parameters"]["info_dict"]["versions"]["nequip"] = "0.6.1"


CHECKPOINT_EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "builder": (model_setting("_target_", "nequip.model.ModelFromPackage"), "ModelFromPackage"),
    "repulsion": (model_setting("pair_potential", {"_target_": "ZBL"}), "pair_potential"),
    "unknown setting": (model_setting("surprise", 1), "surprise"),
    "version": (version, r"nequip 0\.6\.1"),
    "several models": (several, "second"),
    "averages": (averages, "averaged"),
    "weight": (unknown_weight, "surprise"),
}


@pytest.mark.parametrize("package", ["nequip", "allegro"])
@pytest.mark.parametrize("edit", CHECKPOINT_EDITS)
def test_what_the_others_lack_is_named(edit: str, package: str, folder: Path) -> None:
    checkpoint = read_pickle(unpacked(package, "ckpt", "float64", folder))
    change, message = CHECKPOINT_EDITS[edit]
    change(checkpoint)
    with pytest.raises(ModelFileError, match=message):
        nequip_potential(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1)}, "a dict of a, not a model"),
        ([1, 2], "list"),
        (torch.ones(3), "Tensor"),
        (torch.nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        ({"model": {}, "optimizer": {}, "lr_scheduler": {}, "epoch": 1}, "NAME.model"),
        ({"hyper_parameters": {}, "state_dict": {}}, "not laid out"),
    ],
)
def test_what_is_no_model_says_so(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(content, path)
    with pytest.raises(ModelFileError, match=message) as caught:
        import_model(path)
    assert str(path) in str(caught.value)


def test_float32_settings_keep_their_decimals() -> None:
    assert decimal(torch.tensor(4.6)) == 4.6
    assert decimal(torch.tensor(4.6, dtype=torch.float64)) == 4.6
    assert decimal(torch.tensor(1 / 3, dtype=torch.float64)) == 1 / 3


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs `siliforce import`; returns exit code, and what was printed."""

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["siliforce", "import", *words])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out + captured.err

    return call


def test_the_command_writes_a_model_or_nothing(
    command: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    source, out = unpacked("mace", "model", "float32", tmp_path), tmp_path / "m.safetensors"
    code, text = command(str(source), "-o", str(out))
    assert code == 0, text
    assert "MACE for O Si, cutoff 4 Å, float32" in text
    out.unlink()
    source.write_bytes(source.read_bytes()[:5000])
    code, text = command(str(source), "-o", str(out))
    assert code == 2
    assert "cut short" in text
    assert "Traceback" not in text
    assert not out.exists()
