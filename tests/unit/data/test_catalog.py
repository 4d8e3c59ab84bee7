"""Sets by name: those in the package, and SAMD23 from every form in which it is published."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from siliforce.data import Dataset, Store, catalog, load_dataset, samd23
from siliforce.data import download as download_module
from siliforce.data.download import download
from siliforce.data.reference import Reference
from siliforce.errors import DataError
from tests.shared_data import shared_data
from tests.unit.data.samd23_files import samd23_folder

XYZ = {"train": "Trainset", "valid": "Validset", "test": "Testset", "ood": "OOD"}
MIRROR = {"train": "train", "valid": "validation", "test": "test", "ood": "out-of-domain"}
SIZES = {"train": 5, "valid": 2, "test": 3, "ood": 4}


# -- a server like the real ones ------------------------------------------------------------------


class Files(BaseHTTPRequestHandler):
    """Serves `files`; answers ranges; breaks off once per entry of `breaks`; asks to confirm."""

    files: dict[str, bytes]
    breaks: list[int]
    requests: list[tuple[str, str | None]]
    ranges = True

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        wanted = self.headers.get("Range")
        self.requests.append((self.path, wanted))
        if path not in self.files:
            self.send_error(404)
            return
        if path.startswith("/drive") and "confirm=t" not in query:
            page = (
                f'<form id="f" action="{path}" method="get"><input type="hidden" name="id" '
                'value="X&amp;Y"><input type="hidden" name="confirm" value="t"></form>'
            ).encode()
            self.answer(200, page, {"Content-Type": "text/html; charset=utf-8"})
            return
        content, status = self.files[path], 200
        headers = {"Content-Type": "application/octet-stream"}
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            content, status = content[start:], 206
        self.answer(status, content, headers)

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: self.breaks.pop(0)] if self.breaks else content)

    def log_message(self, *_: object) -> None:
        pass


class Server:
    """A server on this machine with the files of one test."""

    def __init__(self) -> None:
        self.handler = type("Handler", (Files,), {"files": {}, "breaks": [], "requests": []})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module, "WAIT", 0.0)
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


# -- downloads ------------------------------------------------------------------------------------


def test_broken_downloads_go_on_where_they_stopped(tmp_path: Path, server: Server) -> None:
    content = np.random.default_rng(0).bytes(300_000)
    server.handler.files["/f"] = content
    server.handler.breaks += [100_000, 50_000]
    assert download(f"{server.url}/f", tmp_path / "f").read_bytes() == content
    assert [r for _, r in server.handler.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]
    download(f"{server.url}/f", tmp_path / "f", size=300_000)
    assert len(server.handler.requests) == 3  # it is there


def test_part_of_an_earlier_run_is_continued(tmp_path: Path, server: Server) -> None:
    server.handler.files["/f"] = b"0123456789"
    (tmp_path / "f.part").write_bytes(b"01234")
    assert download(f"{server.url}/f", tmp_path / "f", size=10).read_bytes() == b"0123456789"
    assert server.handler.requests == [("/f", "bytes=5-")]


def test_complete_part_and_servers_without_ranges(tmp_path: Path, server: Server) -> None:
    server.handler.files["/f"] = b"0123456789"
    (tmp_path / "f.part").write_bytes(b"0123456789")
    assert download(f"{server.url}/f", tmp_path / "f").read_bytes() == b"0123456789"
    server.handler.ranges = False
    (tmp_path / "g.part").write_bytes(b"xxxxx")
    assert download(f"{server.url}/f", tmp_path / "g").read_bytes() == b"0123456789"


def test_confirmation_page_is_answered(tmp_path: Path, server: Server) -> None:
    server.handler.files["/drive"] = b"the archive"
    path = download(f"{server.url}/drive?id=X", tmp_path / "f")
    assert path.read_bytes() == b"the archive"
    assert server.handler.requests[-1][0] == "/drive?id=X%26Y&confirm=t"


@pytest.mark.parametrize(
    ("size", "sha256", "message"), [(9, None, "9 were announced"), (10, "0" * 64, "SHA-256")]
)
def test_wrong_content_is_refused(
    tmp_path: Path, server: Server, size: int, sha256: str | None, message: str
) -> None:
    server.handler.files["/f"] = b"0123456789"
    with pytest.raises(DataError, match=message):
        download(f"{server.url}/f", tmp_path / "f", size, sha256)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_addresses_are_named(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match=r"/nothing: 404 .*--from"):
        download(f"{server.url}/nothing", tmp_path / "f")
    with pytest.raises(DataError, match=r"cannot be reached .*--from"):
        download("http://127.0.0.1:9/f", tmp_path / "f")


# -- SAMD23 ---------------------------------------------------------------------------------------


def frames(n: int, seed: int) -> list[ase.Atoms]:
    """Frames of the published kind: HfO2, 96 atoms, energy, free energy, forces, stress."""
    rng, made = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk("HfO2", "fluorite", a=5.08, cubic=True) * (2, 2, 2)
        atoms.positions += 0.1 * rng.normal(size=(96, 3))
        energy = -907.658 + 39.0 * rng.normal()
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=energy + 0.01,
            free_energy=energy,
            forces=2.1511 * rng.normal(size=(96, 3)),
            stress=0.01 * rng.normal(size=6),
        )
        made.append(atoms)
    return made


@pytest.fixture(scope="module")
def parts() -> dict[str, list[ase.Atoms]]:
    return {part: frames(n, k) for k, (part, n) in enumerate(SIZES.items())}


def archive(path: Path, parts: dict[str, list[ase.Atoms]], folder: str = "HfO") -> Path:
    """As the authors pack it."""
    with tarfile.open(path, "w") as tar:
        for part, atoms in parts.items():
            text = io.StringIO()
            ase.io.write(text, atoms, format="extxyz")
            member = tarfile.TarInfo(f"{folder}/{XYZ.get(part, part)}.xyz")
            member.size = len(text.getvalue())
            tar.addfile(member, io.BytesIO(text.getvalue().encode()))
    return path


def parquet(path: Path, atoms: list[ase.Atoms], as_json: bool, normalised: bool) -> Path:
    """As the mirror stores it; arrays may be JSON text, the stress may still hold the volume."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    wrap: Callable[[Any], Any] = json.dumps if as_json else lambda value: value
    rows = [
        {
            "positions": wrap(a.positions.tolist()),
            "cell": wrap(a.cell.array.tolist()),
            "atomic_numbers": wrap(a.numbers.tolist()),
            "pbc": wrap(a.pbc.tolist()),
            "energy": a.get_potential_energy(force_consistent=True),
            "atomic_forces": wrap(a.get_forces().tolist()),
            "cauchy_stress": wrap(
                (a.get_stress(voigt=False) * (1 if normalised else a.get_volume())).tolist()
            ),
            "cauchy_stress_volume_normalized": normalised,
            "method": "DFT-PBE",
            "software": "VASP",
            "names": ["SAMD23 HfO"],
            "hash": "0",
            "multiplicity": 1,
        }
        for a in atoms
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def mirror(folder: Path, parts: dict[str, list[ase.Atoms]]) -> Path:
    """The mirror's folders, each in another of the forms that occur."""
    for k, (part, atoms) in enumerate(parts.items()):
        name = f"SAIT_semiconductors_ACS_2023_HfO_{MIRROR[part]}"
        parquet(folder / name / "co" / "co_0.parquet", atoms, k % 2 == 0, k < 2)
    return folder


def assert_parts(out: Path, parts: dict[str, list[ase.Atoms]]) -> None:
    for part, expected in parts.items():
        store = Store.open(out / part)
        assert len(store) == len(expected)
        for frame, atoms in zip(Dataset([store]), expected, strict=True):
            np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-7)
            free = atoms.get_potential_energy(force_consistent=True)
            np.testing.assert_allclose(frame.energy, free, atol=1e-7)
            np.testing.assert_allclose(frame.forces, atoms.get_forces(), atol=1e-7)
            np.testing.assert_allclose(frame.stress, atoms.get_stress(voigt=False), atol=1e-7)
        assert store.facts["licence"].startswith("CC-BY-4.0")


def test_samd23_from_copies(tmp_path: Path, parts: dict[str, list[ase.Atoms]]) -> None:
    """The archive, its unpacked files, and the mirror's folders give the same frames."""
    packed = archive(tmp_path / "HfO.tar", parts)
    with tarfile.open(packed) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    sources = [packed, tmp_path / "unpacked", mirror(tmp_path / "mirror", parts)]
    for k, source in enumerate(sources):
        fetched = catalog.get("samd23-hfo", tmp_path / f"out{k}", source)
        assert fetched.n_frames == sum(SIZES.values())
        assert_parts(fetched.path, parts)


def test_samd23_from_the_mirror(
    tmp_path: Path, parts: dict[str, list[ase.Atoms]], server: Server, monkeypatch: Any
) -> None:
    """Listed, fetched with a break, checked by SHA-256, and not fetched twice."""
    import hashlib

    monkeypatch.setattr(samd23, "HUB", server.url)
    folder = mirror(tmp_path / "mirror", parts)
    for path in folder.rglob("*.parquet"):
        name = path.relative_to(folder).parts[0]
        content = path.read_bytes()
        listing = [
            {"type": "file", "path": "README.md", "size": 10},
            {"type": "file", "path": "ds.parquet", "size": 5},
            {
                "type": "file",
                "path": "co/co_0.parquet",
                "size": len(content),
                "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)},
            },
        ]
        tree = f"/api/datasets/colabfit/{name}/tree/main"
        server.handler.files[tree] = json.dumps(listing).encode()
        server.handler.files[f"/datasets/colabfit/{name}/resolve/main/co/co_0.parquet"] = content
    # The second answer is the first file: it breaks off.
    server.handler.breaks += [10_000, 1_000]
    fetched = catalog.get("samd23-hfo", tmp_path / "out")
    assert_parts(fetched.path, parts)
    assert ("bytes=1000-") in [r for _, r in server.handler.requests]
    before = len(server.handler.requests)
    catalog.get("samd23-hfo", tmp_path / "out")
    assert len(server.handler.requests) == before


def test_samd23_from_the_archive(
    tmp_path: Path, parts: dict[str, list[ase.Atoms]], server: Server, monkeypatch: Any
) -> None:
    """Without pyarrow, from the authors' drive."""
    monkeypatch.setattr(samd23, "find_spec", lambda name: None)
    monkeypatch.setattr(samd23, "DRIVE", server.url + "/drive?id={}")
    server.handler.files["/drive"] = archive(tmp_path / "HfO.tar", parts).read_bytes()
    assert_parts(catalog.get("samd23-hfo", tmp_path / "out").path, parts)


def test_samd23_raw(tmp_path: Path) -> None:
    source = archive(
        tmp_path / "raw.tar", {"run_1": frames(2, 0), "run_2": frames(1, 1)}, "HfO_raw"
    )
    fetched = catalog.get("samd23-hfo-raw", tmp_path / "out", source)
    assert fetched.n_frames == 3
    assert len(Store.open(fetched.path / "raw")) == 3


def test_samd23_statistics(
    tmp_path: Path, parts: dict[str, list[ase.Atoms]], monkeypatch: Any
) -> None:
    """What differs from the published numbers is said; other elements are refused."""
    source = archive(tmp_path / "HfO.tar", parts)
    notes = catalog.get("samd23-hfo", tmp_path / "out", source).notes
    train = next(n for n in notes if n.startswith("train"))
    assert "NOT AS PUBLISHED: 5 frames instead of 26000 to 30000" in train
    known = samd23.Published((5, 5), (96, 96), *_statistics(parts["train"]))
    monkeypatch.setitem(samd23.MATERIALS["hfo"].published, "train", known)
    notes = catalog.get("samd23-hfo", tmp_path / "out", source).notes
    assert "train: 5 frames, statistics as published" in notes
    with pytest.raises(DataError, match="this is not SiN"):
        catalog.get("samd23-sin", tmp_path / "other", source)


def _statistics(atoms: list[ase.Atoms]) -> tuple[float, float, float]:
    energies = np.array([a.get_potential_energy(force_consistent=True) for a in atoms])
    forces = np.array([a.get_forces() for a in atoms])
    return energies.mean(), (energies / 96).std(), float(np.sqrt((forces**2).mean()))


def test_damaged_and_foreign_copies(tmp_path: Path, parts: dict[str, list[ase.Atoms]]) -> None:
    source = archive(tmp_path / "HfO.tar", parts)
    source.write_bytes(source.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"HfO\.tar: cannot be unpacked"):
        catalog.get("samd23-hfo", tmp_path / "a", source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no files of HfO train.* expected are Trainset\.xyz"):
        catalog.get("samd23-hfo", tmp_path / "b", tmp_path / "empty")
    with pytest.raises(DataError, match="no such file"):
        catalog.get("samd23-hfo", tmp_path / "c", tmp_path / "nowhere")
    pytest.importorskip("pyarrow")
    for path in mirror(tmp_path / "mirror", parts).rglob("*train/co/*.parquet"):
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"co_0\.parquet: damaged"):
        catalog.get("samd23-hfo", tmp_path / "d", tmp_path / "mirror")
    assert not (tmp_path / "d" / "train").exists()


def test_reference(tmp_path: Path) -> None:
    source = shared_data("samd23_eval/samd23_eval_raw.tar.xz")
    fetched = catalog.get("samd23-reference", tmp_path / "out", source)
    assert fetched.licence.startswith("CC-BY-NC-SA")
    assert fetched.notes == [
        "SiN: 4 starts (3 of them OOD) with RDF and ADF, 5 EOS, 5 PEC",
        "HfO: 13 starts (3 of them OOD) with RDF and ADF, 6 EOS, 6 PEC",
    ]
    hfo = Reference.load(tmp_path / "out" / "HfO")
    assert hfo.licence.startswith("CC-BY-NC-SA")
    # Known of these data: 1.1 eV between HfO at 8 Å and its atoms, taken from the two dimers.
    last = {c.name: c.energy[-1] for c in hfo.pec}
    assert last["HfO"] - 0.5 * (last["HfHf"] + last["OO"]) == pytest.approx(-1.1, abs=0.05)
    for scan in hfo.eos:  # the volumes in the table are those of the structure
        volumes = scan.atoms.get_volume() * scan.points[:, 0] ** 3
        np.testing.assert_allclose(scan.points[:, 1], volumes, atol=0.01)


def test_reference_from_the_repository(tmp_path: Path, server: Server, monkeypatch: Any) -> None:
    """Only `datasets/` is unpacked, without the folder that the archive begins with; a copy of
    what was fetched is not fetched again.
    """
    for name in ("SiN", "HfO"):
        samd23_folder(tmp_path / "datasets" / f"{name}_eval")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "datasets", "MLFF-Framework-main/datasets")
        tar.addfile(tarfile.TarInfo("MLFF-Framework-main/x/code.py"))
    server.handler.files["/main.tar.gz"] = packed.getvalue()
    monkeypatch.setattr(samd23, "REPOSITORY", f"{server.url}/main.tar.gz")
    fetched = catalog.get("samd23-reference", tmp_path / "out")
    assert fetched.n_frames == 2
    assert sorted(p.name for p in (tmp_path / "out" / "datasets" / "SiN_eval").iterdir()) == [
        "dfs",
        "eos",
        "pec",
    ]
    assert not (tmp_path / "out" / "x").exists()
    server.handler.files.clear()
    assert catalog.get("samd23-reference", tmp_path / "out").n_frames == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no reference data in it"):
        catalog.get("samd23-reference", tmp_path / "new", tmp_path / "empty")


# -- sets in the package --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [e.name for e in catalog.entries().values() if e.embedded])
def test_embedded_sets(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILIFORCE_CACHE", str(tmp_path / "cache"))
    fetched = catalog.get(name, tmp_path / "set.extxyz")
    dataset = load_dataset(fetched.path)
    stated = json.loads((catalog.SETS / name / "set.json").read_text())
    assert len(dataset) == fetched.n_frames == stated["n_frames"]
    assert dataset.facts["licence"] == stated["licence"] == fetched.licence
    assert "level_of_theory" in dataset.facts
    assert all(frame.forces is not None for frame in dataset)
    assert catalog.get(name, tmp_path / "set.extxyz") == fetched


def test_unknown_names_and_files_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set 'samd24'; there are .*samd23-hfo"):
        catalog.get("samd24", tmp_path / "x")
    (tmp_path / "x").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        catalog.get("si-substitution", tmp_path / "x")
    with pytest.raises(DataError, match="needs a folder"):
        catalog.get("samd23-hfo", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"
