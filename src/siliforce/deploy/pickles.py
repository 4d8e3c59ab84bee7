"""Reading what `torch.save` wrote without running anything the file asks for.

A pickle is a program that may call whatever can be imported. Here it makes containers and tensors
only: a class or function of the packages that wrote such files becomes a `StandIn`, which keeps
what it was given and does nothing, so that the packages need not be installed either; any other
name ends the reading.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from siliforce.errors import ModelFileError

PACKAGES = {
    "allegro",
    "collections",
    "e3nn",
    "lightning",
    "mace",
    "nequip",
    "numpy",
    "omegaconf",
    "opt_einsum_fx",
    "pytorch_lightning",
    "torch",
    "torchmetrics",
}
"""Whose classes and functions are replaced by stand-ins."""

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class StandIn:
    """An object whose class is not loaded; a class stands for itself where it is only named.

    Attributes:
        path: of its class or function, with all packages.
        args: what it would have been called with.
        state: what it would have been restored from.
    """

    path: ClassVar[str]
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_options: Any) -> StandIn:
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """What a kind of dict is filled with; dropped."""

    def append(self, value: Any) -> None:
        """What a kind of list is filled with; dropped."""


def path_of(value: Any) -> str:
    """Path of a class or function, or of an instance's class; of a stand-in, the original's."""
    if isinstance(value, StandIn) or (isinstance(value, type) and issubclass(value, StandIn)):
        return value.path
    return type(value).__name__


def read_pickle(path: str | Path) -> Any:
    """The object in a file of `torch.save`; tensors on the CPU.

    Raises:
        ModelFileError: no such file, damaged, of another kind, or naming a function that no model
            needs; nothing of it was run.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            root = _root(archive, path)
            return _Unpickler(archive, root).load()
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except zipfile.BadZipFile as error:
        raise ModelFileError(
            f"{path}: damaged, cut short, or not written by torch.save ({error})"
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelFileError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def _root(archive: zipfile.ZipFile, path: Path) -> str:
    """Folder of the pickle inside the archive."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise ModelFileError(
            f"{path}: a compiled model (TorchScript); give the file that was saved beside it "
            "without compiling, for MACE NAME.model in place of NAME_compiled.model"
        )
    if any(name.endswith(("/extern_modules", ".py")) for name in names):
        raise ModelFileError(
            f"{path}: a package of code (torch.package); give the checkpoint (.ckpt) of the "
            "training instead, which holds the weights and no code"
        )
    found = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(found) != 1:
        raise ModelFileError(f"{path}: an archive, but not written by torch.save")
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        raise ModelFileError(f"{path}: compressed inside, which torch.save never does")
    return found[0].removesuffix("data.pkl")


class _Unpickler(pickle.Unpickler):
    """Makes containers, tensors and stand-ins."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root = archive, root
        order = f"{root}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ModelFileError("written on a big-endian machine, which is not supported")
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}
        self.known: dict[str, Any] = {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
        self.known |= {
            "collections.OrderedDict": OrderedDict,
            "_codecs.encode": _encode,
            "torch.Size": tuple,
            "torch._utils._rebuild_tensor_v2": _tensor,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
        }
        for kind in (set, frozenset, slice, complex, int, float, list, dict, tuple):
            self.known[f"builtins.{kind.__name__}"] = kind

    def find_class(self, module_name: str, global_name: str) -> Any:
        """A constructor of data, or a stand-in, a new class for every name and file."""
        module_name = "builtins" if module_name == "__builtin__" else module_name  # of old pickles
        path = f"{module_name}.{global_name}"
        if path not in self.known:
            if path.split(".")[0] not in PACKAGES:
                raise ModelFileError(
                    f"asks for '{path}', which is neither data nor of a known package; it was "
                    "not run, and nothing of the file is used"
                )
            self.known[path] = type("StandIn", (StandIn,), {"path": path})
        return self.known[path]

    def persistent_load(self, pid: Any) -> Tensor:
        """Numbers of a tensor, as one flat tensor."""
        kind, dtype, key, _location, size = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise ModelFileError(f"tensors of an unknown kind: {kind} {path_of(dtype)}")
        if (key, dtype) not in self.storages:
            content = bytearray(self.archive.read(f"{self.root}data/{key}"))
            if len(content) != size * dtype.itemsize:
                raise ModelFileError(f"damaged: {len(content)} bytes for {size} {dtype}")
            empty = torch.empty(0, dtype=dtype)
            self.storages[key, dtype] = torch.frombuffer(content, dtype=dtype) if size else empty
        return self.storages[key, dtype]


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: Any
) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _parameter(data: Tensor, *_rest: Any) -> Tensor:
    return data


def _encode(text: str, encoding: str) -> bytes:
    """How old pickles write bytes."""
    return text.encode(encoding)


@dataclass(frozen=True)
class Layer:
    """A `torch.nn.Module` of a file.

    Attributes:
        name: of its place in the model; empty for the model itself.
        kind: name of its class.
        parameters, buffers: its own tensors, not those of its parts.
        parts: inner modules by name.
        attributes: what else it holds.
    """

    name: str
    kind: str
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    parts: dict[str, Layer]
    attributes: dict[str, Any]

    @classmethod
    def read(cls, value: Any, name: str = "") -> Layer:
        """The module that a stand-in stands for.

        Raises:
            ModelFileError: it is none, or it has hooks, which change what a module computes.
        """
        state = value.state if isinstance(value, StandIn) else None
        if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict):
            raise ModelFileError(f"{name or 'the object'} is no module but {path_of(value)}")
        for key, hooks in state.items():
            if key.startswith("_forward") and key.endswith("hooks") and hooks:
                raise ModelFileError(f"{name} has {key}, which cannot be imported")
        prefix = f"{name}." if name else ""
        return cls(
            name,
            value.path.rsplit(".", 1)[-1],
            {k: v for k, v in state["_parameters"].items() if v is not None},
            {k: v for k, v in state["_buffers"].items() if v is not None},
            {
                k: cls.read(v, prefix + k)
                for k, v in state["_modules"].items()
                if isinstance(v, StandIn) and isinstance(v.state, dict)
            },
            {k: v for k, v in state.items() if not k.startswith("_") and k != "training"},
        )

    def walk(self) -> Iterator[Layer]:
        """This module and all inside it."""
        yield self
        for part in self.parts.values():
            yield from part.walk()

    def tensors(self, choose: Callable[[Layer], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Own tensors of all modules by full name; `choose` takes parameters or buffers."""
        return {
            f"{layer.name}.{key}".lstrip("."): value
            for layer in self.walk()
            for key, value in choose(layer).items()
        }
