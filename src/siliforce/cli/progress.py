"""What a simulation says while it runs: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from siliforce.simulation.md import Status

PLAIN_EVERY = 20.0
"""Seconds between two lines where there is no terminal."""


class SimulationProgress:
    """Shows the status of a batch of runs; a context manager."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, highlight=False, quiet=quiet)
        self.last = time.monotonic()
        self.alarm = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("MD", total=None, text="")

    def __enter__(self) -> SimulationProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, status: Status) -> None:
        """Take up a status."""
        text = f"{status.ns_per_day:.3g} ns/day, {status.running} running"
        if status.failed:
            text += f", {status.failed} failed"
        self.bar.update(self.task, completed=status.done, total=status.total, text=text)
        if status.alarm and not self.alarm:
            self.console.print(f"alarm: {status.alarm}", style="yellow", markup=False)
        self.alarm = status.alarm
        if not self.console.is_terminal and time.monotonic() - self.last > PLAIN_EVERY:
            self.last = time.monotonic()
            alarm = f"; alarm: {status.alarm}" if status.alarm else ""
            self.console.print(
                f"step {status.done} of {status.total}, {text}{alarm}", markup=False, soft_wrap=True
            )
