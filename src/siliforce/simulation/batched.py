"""Molecular dynamics of many systems at once, each with an end that always has a reason."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.io.jsonio import MyEncoder

from siliforce.errors import ConfigError
from siliforce.potential import Potential
from siliforce.simulation.archive import Archive
from siliforce.simulation.engine import Batch
from siliforce.simulation.forces import CalculatorForces, PotentialForces
from siliforce.simulation.md import MDConfig, MDRun, Progress, Status

Source: TypeAlias = Potential | Sequence[Potential] | Calculator

CHECKPOINT_EVERY = 30.0
"""Seconds between two states on disk: what a kill costs at most."""
MAY_DIFFER = {"temperature", "pressure", "seed"}
"""Settings that runs of one batch need not share."""


def run_batch(
    source: Source,
    starts: Sequence[Atoms],
    config: MDConfig | Sequence[MDConfig] | None = None,
    out: str | Path | None = None,
    progress: Progress = lambda status: None,
    names: Sequence[str] | None = None,
    checkpoint_every: float = CHECKPOINT_EVERY,
) -> list[MDRun]:
    """Run all starts side by side; one that fails is taken out and never stops the others.

    Args:
        source: a potential or several (an ensemble: the mean moves the atoms), evaluated as one
            batch; or any ASE calculator, for which the starts run one after another.
        starts: left as they are; at least two atoms each. They may differ in size and elements.
        config: of all runs, which then have the seeds `seed`, `seed + 1`, ...; or one for each
            run, alike but for temperature, pressure and seed.
        out: folder for a trajectory and a log of each run, written as they come, and the state
            from which the same call goes on after it was interrupted. If all has been done
            already, it is read. Runs of a calculator without `parameters` never are.
        progress: called at every logged step.
        names: of the files; `run-0` and so on.
        checkpoint_every: s.

    Returns:
        One record per start, in their order; those that failed say when and why.

    Raises:
        ConfigError: settings that contradict each other or the source; `out` holds other runs.
        DataError: unknown elements, or a start that cannot be evaluated or whose atoms are
            closer than 0.5 Å.
    """
    configs = run_configs(config, len(starts))
    names = list(names) if names is not None else [f"run-{k}" for k in range(len(starts))]
    if len(names) != len(starts) or len(set(names)) != len(names):
        raise ConfigError(f"{len(names)} names for {len(starts)} runs; each needs one of its own")
    members = potentials_of(source)
    key = _key(source, members, starts, configs)
    if members is None:
        assert isinstance(source, Calculator)
        return _one_by_one(source, starts, configs, out, progress, names, key, checkpoint_every)
    for atoms in starts:
        members[0].check_elements(atoms.numbers)
    archive = None if out is None else Archive(out, names, key)
    batch = Batch(PotentialForces(members), starts, configs, archive, progress, checkpoint_every)
    return batch.run()


def run_md(
    atoms: Atoms,
    source: Source,
    config: MDConfig | None = None,
    out: str | Path | None = None,
    progress: Progress = lambda status: None,
) -> MDRun:
    """One structure; see `run_batch`."""
    return run_batch(source, [atoms], config, out, progress)[0]


def potentials_of(source: Any) -> list[Potential] | None:
    """The potentials that make up a source, None for a calculator that is none of ours."""
    if isinstance(source, Potential):
        return [source]
    if isinstance(source, Sequence):
        if not source or not all(isinstance(s, Potential) for s in source):
            raise ConfigError("an ensemble is a sequence of at least one potential")
        return list(source)
    members = getattr(source, "potentials", None)
    return list(members) if members else None


def identity(calculator: Calculator) -> str:
    """Class and parameters of a calculator.

    Where it states no parameters, or such that cannot be written down, nobody knows whether two
    are the same: the answer is another one every time.
    """
    kind = f"{type(calculator).__module__}.{type(calculator).__qualname__}"
    stated = getattr(calculator, "parameters", None) or uuid4().hex
    try:
        return json.dumps([kind, stated], sort_keys=True, cls=MyEncoder)
    except (TypeError, ValueError):
        return json.dumps([kind, uuid4().hex])


def _one_by_one(
    calculator: Calculator,
    starts: Sequence[Atoms],
    configs: Sequence[MDConfig],
    out: str | Path | None,
    progress: Progress,
    names: Sequence[str],
    key: str,
    checkpoint_every: float,
) -> list[MDRun]:
    runs: list[MDRun] = []
    total = sum(c.total_steps for c in configs)
    for number, (atoms, config, name) in enumerate(zip(starts, configs, names, strict=True)):
        archive = None if out is None else Archive(out, [name], f"{key}-{number}", f"{name}.npz")
        before = sum(c.total_steps for c in configs[:number])
        failed = sum(run.failure is not None for run in runs)

        def report(status: Status, before: int = before, failed: int = failed) -> None:
            done = before + status.done
            progress(replace(status, done=done, total=total, failed=failed + status.failed))

        forces = CalculatorForces(calculator, atoms)
        runs += Batch(forces, [atoms], [config], archive, report, checkpoint_every).run()
    return runs


def run_configs(config: MDConfig | Sequence[MDConfig] | None, count: int) -> list[MDConfig]:
    """One for each run: as given, or the same with the seeds `seed`, `seed + 1`, ...

    Raises:
        ConfigError: none, or settings that runs of one batch must share differ.
    """
    if count == 0:
        raise ConfigError("no structure to start from")
    if config is None or isinstance(config, MDConfig):
        base = config or MDConfig()
        return [base.model_copy(update={"seed": base.seed + k}) for k in range(count)]
    if len(config) != count:
        raise ConfigError(f"{len(config)} configurations for {count} starts; one for each")
    shared = [c.model_dump(exclude=MAY_DIFFER) for c in config]
    for other in shared[1:]:
        differing = [name for name in other if other[name] != shared[0][name]]
        if differing:
            raise ConfigError(
                f"runs of one batch share {', '.join(differing)}; only "
                f"{', '.join(sorted(MAY_DIFFER))} may differ. Run them as two batches"
            )
    return list(config)


def _key(
    source: Any,
    members: Sequence[Potential] | None,
    starts: Sequence[Atoms],
    configs: Sequence[MDConfig],
) -> str:
    """Fingerprint of everything that decides the runs."""
    digest = hashlib.sha256()
    for member in members or ():
        digest.update(json.dumps(member.header(), sort_keys=True).encode())
        for tensor in member.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    if members is None:
        digest.update(identity(source).encode())
    for atoms in starts:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(np.ascontiguousarray(array).tobytes())
    for config in configs:
        digest.update(config.model_dump_json().encode())
    return digest.hexdigest()
