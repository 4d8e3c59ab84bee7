"""Files of `torch.save` are read; what they ask for is not run."""

from __future__ import annotations

import builtins
import os
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from siliforce.deploy.pickles import Layer, StandIn, read_pickle
from siliforce.errors import ModelFileError


class Attack:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, Attack]:
    return {
        f"{os.system.__module__}.system": Attack(os.system, f"touch {marker}"),
        "shutil.copy": Attack(shutil.copy, __file__, str(marker)),
        "builtins.eval": Attack(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Attack(getattr, marker, "touch"),
    }


@pytest.mark.parametrize("name", list(attacks(Path("m"))))
@pytest.mark.parametrize("nested", [False, True])
def test_no_foreign_function_runs(name: str, nested: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.model"
    attack = attacks(marker)[name]
    torch.save({"weights": torch.ones(2), "extra": [attack]} if nested else attack, path)
    with pytest.raises(ModelFileError, match=rf"asks for '{name}'.*not run"):
        read_pickle(path)
    assert not marker.exists()
    if name != "builtins.getattr":
        torch.load(path, weights_only=False)
        assert marker.exists(), "the attack does nothing: the test would prove nothing"


def test_functions_of_known_packages_do_not_run_either(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "evil.model"
    torch.save(Attack(torch.save, 1, str(marker)), path)
    content = read_pickle(path)
    assert isinstance(content, StandIn)
    assert content.path == "torch.serialization.save"
    assert content.args == (1, str(marker))
    assert not marker.exists()


def test_tensors_and_containers_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    content = {
        "views": [base, base.t(), base[1:, 2]],
        "types": [torch.tensor([1, -2]), torch.tensor(True), torch.tensor([0.1]).half()],
        "empty": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "ordered": OrderedDict(a=(1, 2.5), b={"x", "y"}),
        "bytes": b"\x00\xff",
        "slice": slice(1, 2),
        "size": torch.Size([2, 3]),
    }
    path = tmp_path / "content.pt"
    torch.save(content, path)
    found = read_pickle(path)
    for key in ("views", "types"):
        for ours, theirs in zip(found[key], content[key], strict=True):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
    assert found["empty"].shape == (0, 3)
    assert torch.equal(found["parameter"], torch.ones(2))
    assert {k: found[k] for k in ("ordered", "bytes", "slice", "size")} == {
        k: content[k] for k in ("ordered", "bytes", "slice", "size")
    }


def test_a_module_is_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(module, path)
    layer = Layer.read(read_pickle(path))
    found = layer.tensors(lambda part: part.parameters)
    assert {k: v.tolist() for k, v in found.items()} == {
        k: v.tolist() for k, v in module.named_parameters()
    }
    assert set(layer.tensors(lambda part: part.buffers)) == {k for k, _ in module.named_buffers()}
    assert [(part.name, part.kind) for part in layer.walk()] == [
        ("", "Sequential"), ("0", "Linear"), ("1", "BatchNorm1d"),
    ]  # fmt: skip
    assert layer.parts["0"].attributes == {"in_features": 2, "out_features": 3}


def test_hooks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "module.pt"
    module = torch.nn.Linear(1, 1)
    module.register_forward_hook(torch.nn.functional.relu)
    torch.save(module, path)
    with pytest.raises(ModelFileError, match="_forward_hooks"):
        Layer.read(read_pickle(path))


def write_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return path


def test_what_is_no_saved_object_says_so(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ModelFileError, match=message) as caught:
            read_pickle(path)
        assert str(path) in str(caught.value)

    refused(tmp_path / "absent.model", "no such file")
    refused(tmp_path, "no such file")
    text = tmp_path / "notes.model"
    text.write_text("not a model")
    refused(text, "not written by torch.save")
    text.write_text("")
    refused(text, "not written by torch.save")
    refused(write_zip(tmp_path / "some.zip", "a/b.txt"), "not written by torch.save")
    refused(write_zip(tmp_path / "m.nequip.zip", "m/.data/extern_modules"), "checkpoint")
    refused(write_zip(tmp_path / "c.model", "c/constants.pkl", "c/code/x.py"), "TorchScript")
    refused(write_zip(tmp_path / "d.model", "d/data.pkl"), "damaged")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
def test_a_truncated_file_says_so(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.model"
    torch.save({"weights": torch.randn(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ModelFileError, match="cut short"):
        read_pickle(path)


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "changed.model"
    torch.save({"weights": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(1000)) + 500] = 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="damaged"):
        read_pickle(path)
