"""What is done to a structure: strain, defects, surfaces, clusters, random packings.

Every function takes and returns `ase.Atoms`, never changes its argument, and draws from a
`numpy.random.Generator`, so that a seed gives the same structure again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from ase.build import make_supercell, surface
from ase.data import atomic_numbers, covalent_radii
from vesin import NeighborList

from siliforce.errors import DataError

AMU_PER_A3_IN_G_CM3 = 1.66053906660
MAX_PLACEMENT_TRIES = 2000
MAX_PACKINGS = 20


def strained(atoms: Atoms, strain: float | np.ndarray) -> Atoms:
    """Cell and atoms deformed: a number is a linear strain, a (3, 3) array the strain tensor."""
    out = atoms.copy()
    tensor = np.eye(3) * strain if isinstance(strain, int | float) else strain
    out.set_cell(atoms.cell.array @ (np.eye(3) + tensor), scale_atoms=True)
    return out


def rattled(atoms: Atoms, width: float, rng: np.random.Generator) -> Atoms:
    """Every coordinate moved by a normal deviate of `width` [Å]."""
    out = atoms.copy()
    out.positions += rng.normal(scale=width, size=out.positions.shape)
    return out


def with_vacancies(atoms: Atoms, counts: Mapping[str, int], rng: np.random.Generator) -> Atoms:
    """Take away so many random atoms of each element."""
    gone = [i for element, n in counts.items() for i in _choose(atoms, element, n, rng)]
    return atoms[[i for i in range(len(atoms)) if i not in set(gone)]]


def substituted(
    atoms: Atoms, old: str, new: str, rng: np.random.Generator, count: int = 1, relax: bool = True
) -> Atoms:
    """Replace random `old` atoms by `new`.

    Args:
        relax: move the bonded neighbours along their bonds by a random part of the difference
            of the covalent radii, so that short and long bonds are both in the data.
    """
    out = atoms.copy()
    sites = _choose(out, old, count, rng)
    change = covalent_radii[atomic_numbers[new]] - covalent_radii[atomic_numbers[old]]
    reach = 2.4 * covalent_radii[atomic_numbers[old]]
    for site in sites:
        out.numbers[site] = atomic_numbers[new]
        bonds = out.get_distances(site, range(len(out)), mic=True, vector=True)
        length = np.linalg.norm(bonds, axis=1)
        for j in np.flatnonzero((length > 0) & (length < reach)) if relax else []:
            out.positions[j] += rng.uniform() * change * bonds[j] / length[j]
    out.info["sites"] = sites
    return out


def with_interstitial(atoms: Atoms, element: str, rng: np.random.Generator) -> Atoms:
    """Add an atom at one of the roomiest of many random places.

    Raises:
        DataError: no place is farther than 0.7 times the sum of covalent radii from all atoms.
    """
    places = rng.uniform(size=(200, 3)) @ atoms.cell.array
    gaps = [_gap(atoms, place, element) for place in places]
    best = int(np.argmax(gaps))
    if gaps[best] < 0.7:
        raise DataError(f"no room for a {element} interstitial in {atoms.symbols}")
    return atoms + Atoms(element, positions=[places[best]])


def slab(
    atoms: Atoms,
    miller: tuple[int, int, int],
    layers: int = 2,
    vacuum: float = 6.0,
    repeat: tuple[int, int] = (1, 1),
) -> Atoms:
    """Surface, cut where planes of atoms are farthest apart, so that the fewest bonds break.

    Args:
        layers: repeats of the cell along the normal.
        vacuum: on either side [Å].
        repeat: of the surface cell in its plane.
    """
    out = surface(atoms, miller, layers, periodic=True)
    height = np.sort(out.get_scaled_positions()[:, 2])
    gaps = np.diff(height, append=height[0] + 1)
    lowest = height[(np.argmax(gaps.round(6)) + 1) % len(height)]
    out.positions -= (lowest - 1e-6) * out.cell[2]
    out.wrap(eps=0)
    out.cell[2] = np.cross(out.cell[0], out.cell[1])
    out.center(vacuum=vacuum, axis=2)
    return out.repeat((*repeat, 1))


def wire(atoms: Atoms, vacuum: float = 6.0) -> Atoms:
    """Periodic along the third axis only: the other two axes grow by `vacuum` [Å] per side."""
    out = atoms.copy()
    for axis in (0, 1):
        out.center(vacuum=vacuum, axis=axis)
    return out


def cluster(atoms: Atoms, radius: float, vacuum: float = 6.0) -> Atoms:
    """Atoms within `radius` [Å] of one atom near the middle, alone in a box."""
    repeats = np.ceil(2 * radius / _heights(atoms)).astype(int) + 1
    big = make_supercell(atoms, np.diag(repeats))
    middle = big.cell.array.sum(axis=0) / 2
    center = big.positions[np.argmin(np.linalg.norm(big.positions - middle, axis=1))]
    kept = np.linalg.norm(big.positions - center, axis=1) <= radius
    out = Atoms(big.numbers[kept], big.positions[kept])
    out.center(vacuum=vacuum)
    out.pbc = True
    return out


def random_packing(
    formula: str, density: float, rng: np.random.Generator, closest: float = 0.75
) -> Atoms:
    """Atoms at random in a cubic box, none too close: the start of a melt.

    Args:
        density: [g/cm³].
        closest: smallest distance, as a fraction of the sum of the covalent radii.

    Raises:
        DataError: the box is too full for that distance.
    """
    empty = Atoms(formula)
    edge = (empty.get_masses().sum() * AMU_PER_A3_IN_G_CM3 / density) ** (1 / 3)
    for _ in range(MAX_PACKINGS):  # in a dense box some orders leave no room for the last atoms
        if (packed := _packed(rng.permutation(empty.numbers), edge, closest, rng)) is not None:
            return packed
    raise DataError(
        f"cannot place {formula} at {density} g/cm³ with distances of {closest} covalent "
        "radii; lower the density or `closest`"
    )


def _packed(
    numbers: np.ndarray, edge: float, closest: float, rng: np.random.Generator
) -> Atoms | None:
    out = Atoms(cell=[edge] * 3, pbc=True)
    for number in numbers:
        element = Atoms(numbers=[number])
        for _ in range(MAX_PLACEMENT_TRIES):
            place = rng.uniform(0, edge, 3)
            if not len(out) or _gap(out, place, element.get_chemical_symbols()[0]) >= closest:
                break
        else:
            return None
        element.positions = [place]
        out += element
    return out


def bent_molecule(
    symbols: tuple[str, str, str],
    bond: tuple[float, float],
    angle: tuple[float, float],
    rng: np.random.Generator,
) -> Atoms:
    """A-B-A molecule of random bond lengths [Å], angle [°] and orientation.

    Args:
        symbols: the middle atom first.
        bond: mean and largest deviation of the bond length.
        angle: mean and largest deviation of the angle.
    """
    r1, r2 = bond[0] + rng.uniform(-bond[1], bond[1], 2)
    theta = np.radians(angle[0] + rng.uniform(-angle[1], angle[1]))
    flat = np.array([[0, 0, 0], [r1, 0, 0], [r2 * np.cos(theta), r2 * np.sin(theta), 0]])
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    out = Atoms(list(symbols), flat @ rotation.T)
    out.info |= {"r1": float(r1), "r2": float(r2), "angle": float(np.degrees(theta))}
    return out


def closest_approach(atoms: Atoms) -> float:
    """Smallest distance in units of the sum of covalent radii; infinite for a lone atom."""
    neighbors = NeighborList(cutoff=4.0, full_list=False)
    i, j, d = neighbors.compute(atoms.positions, atoms.cell.array, bool(atoms.pbc.any()), "ijd")
    radii = covalent_radii[atoms.numbers]
    return float((d / (radii[i] + radii[j])).min()) if len(d) else float("inf")


def _choose(atoms: Atoms, element: str, count: int, rng: np.random.Generator) -> list[int]:
    sites = np.flatnonzero(atoms.numbers == atomic_numbers[element])
    if count > len(sites):
        raise DataError(f"{count} {element} atoms asked for, {atoms.symbols} has {len(sites)}")
    return sorted(int(i) for i in rng.choice(sites, size=count, replace=False))


def _gap(atoms: Atoms, place: np.ndarray, element: str) -> float:
    """Smallest distance from a place to the atoms, in sums of covalent radii."""
    shifts = np.array([[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)])
    images = (shifts if atoms.pbc.any() else shifts[13:14]) @ atoms.cell.array
    delta = atoms.positions[:, None] + images[None] - place
    radii = covalent_radii[atoms.numbers] + covalent_radii[atomic_numbers[element]]
    return float((np.linalg.norm(delta, axis=2) / radii[:, None]).min())


def _heights(atoms: Atoms) -> np.ndarray:
    """Distances between opposite faces of the cell (3,) [Å]."""
    return 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)
