"""`generate plan`: what a protocol will do, and for how long, before it does it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from siliforce.generate.protocols import Protocol, Trajectory


@dataclass(frozen=True)
class Condition:
    """One row of a plan: trajectories of the same start in the same condition."""

    system: str
    split: str
    condition: str
    trajectories: int
    frames: int
    atoms: int


@dataclass(frozen=True)
class Plan:
    """Every condition of a protocol.

    Attributes:
        labelled: frames that will be stored, after thinning.
        calls: of the labelling engine. Where it moves the atoms as well, one for each time step,
            in stages whose frames are not kept as well; relaxations may need fewer.
    """

    name: str
    conditions: list[Condition]
    trajectories: int
    frames: int
    labelled: int
    calls: int
    seconds_per_frame: float | None

    @property
    def n_conditions(self) -> int:
        """Conditions, each trajectory counted by itself: the way the benchmark's authors count."""
        return sum(c.trajectories for c in self.conditions)

    @property
    def hours(self) -> float | None:
        """Time of the labelling engine on one worker; None without a measured time per call."""
        if self.seconds_per_frame is None:
            return None
        return self.calls * self.seconds_per_frame / 3600

    def table(self) -> str:
        """Text for a terminal."""
        head = f"{'system':24} {'split':5} {'condition':20} {'runs':>5} {'frames':>8} {'atoms':>6}"
        rows = [
            f"{c.system:24.24} {c.split:5} {c.condition:20.20} {c.trajectories:5d} "
            f"{c.frames:8d} {c.atoms:6d}"
            for c in self.conditions
        ]
        total = (
            f"{self.trajectories} runs, {self.n_conditions} conditions, {self.frames} frames "
            f"sampled, {self.labelled} labelled in {self.calls} calls of the engine"
        )
        hours = self.hours
        cost = (
            "time unknown: no labelled frame yet (label a few, then plan again)"
            if hours is None
            else f"about {hours:.1f} h on one worker ({self.seconds_per_frame:.1f} s per frame)"
        )
        return "\n".join([self.name, head, *rows, total, cost])


def plan(protocol: Protocol, seconds_per_frame: float | None = None) -> Plan:
    """List what a protocol will do.

    Args:
        seconds_per_frame: measured time of one label.
    """
    rows: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    n_trajectories = frames = labelled = calls = 0
    sizes: dict[str, int] = {}
    for trajectory in protocol.trajectories():
        n_trajectories += 1
        frames += trajectory.n_frames
        kept = min(trajectory.n_frames, protocol.wanted(trajectory) or trajectory.n_frames)
        labelled += kept
        calls += _calls(protocol, trajectory, kept)
        if trajectory.system not in sizes:
            sizes[trajectory.system] = len(trajectory.build())
        for condition in trajectory.conditions:
            row = rows[trajectory.system, trajectory.start.split, condition]
            row[0] += 1
            row[1] += _frames_in(trajectory, condition)
            row[2] = sizes[trajectory.system]
    conditions = [Condition(s, split, c, *row) for (s, split, c), row in rows.items()]
    return Plan(
        protocol.name, conditions, n_trajectories, frames, labelled, calls, seconds_per_frame
    )


def _calls(protocol: Protocol, trajectory: Trajectory, kept: int) -> int:
    """Calls of the labelling engine for one trajectory."""
    if protocol.sampler is not None or not trajectory.stages:
        return kept
    steps = sum(s.n_segments * s.steps(protocol.timestep_fs) for s in trajectory.stages)
    return 1 + steps + (kept if trajectory.start.replace_after else 0)


def _frames_in(trajectory: Trajectory, condition: str) -> int:
    if not trajectory.stages:
        return 1
    return sum(
        stage.n_segments
        for stage in trajectory.stages
        if stage.keep and (stage.condition or stage.name) == condition
    )
