"""What a training says while it runs: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from siliforce.training.options import show_seconds

PLAIN_EVERY = 20.0
"""Seconds between two lines about an epoch where there is no terminal."""


class Console:
    """Messages and progress of one training; silent on all ranks but the first."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.rich = RichConsole(file=sys.stdout, highlight=False, soft_wrap=True)
        self.bar: Progress | None = None
        self.task: object = None
        self.last_line = -PLAIN_EVERY

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            self.rich.print(text, markup=False)

    def start(self) -> None:
        """Show the bar, on a terminal."""
        if self.quiet or not self.rich.is_terminal:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.bar = Progress(*columns, console=self.rich, transient=True)
        self.task = self.bar.add_task("", total=1.0, left="")
        self.bar.start()

    def stop(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def progress(self, epoch: int, step: int, loss: float, fraction: float, elapsed: float) -> None:
        """Update the bar; `fraction` of the budget was used in `elapsed` seconds."""
        if self.bar is None:
            return
        left = f"{show_seconds(elapsed * (1 / fraction - 1))} left" if fraction > 0 else ""
        text = f"epoch {epoch} step {step} loss {loss:.4g}"
        self.bar.update(self.task, completed=fraction, description=text, left=left)  # type: ignore[arg-type]

    def row(self, row: Mapping[str, float], fraction: float, best: bool) -> None:
        """One line about a validation; without a terminal not more often than readable."""
        now = time.monotonic()
        due = now - self.last_line >= PLAIN_EVERY or fraction >= 1
        if self.bar is None and not due:
            return
        self.last_line = now
        left = row["time_s"] * (1 / fraction - 1) if fraction > 0 else 0.0
        parts = [f"epoch {int(row['epoch'])}", f"lr {row['lr']:.2g}"]
        parts += [f"loss {row['train_loss']:.4g} / {row['valid_loss']:.4g}"]
        for name, label, unit in (("energy", "E", "meV/atom"), ("forces", "F", "meV/Å")):
            key = f"valid_{name}_mae_mev"
            if key in row:
                parts.append(f"{label} {row[key]:.3g} {unit}")
        parts.append(f"{show_seconds(row['time_s'])} ({show_seconds(left)} left)")
        self.say("  ".join(parts) + ("  *" if best else ""))
