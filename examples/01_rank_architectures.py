"""Which architecture suits these frames? Equal time for each, errors on frames none has seen.

    python examples/01_rank_architectures.py FRAMES [TIME] [NAME ...]

TIME (`10m`) is processor time for each; all architectures compete if none is named. For seeds,
simulations, scores and intervals write a campaign instead: docs/benchmark.md.
"""

import sys

from siliforce.indicators.errors import evaluate
from siliforce.models import MODELS
from siliforce.training import train
from siliforce.training.sets import recorded_sets

frames = sys.argv[1]
time = sys.argv[2] if len(sys.argv) > 2 else "10m"
names = sys.argv[3:] or list(MODELS)
ranking = []
for name in names:
    run = train(
        {"source": frames, "split": {"valid": 0.1, "test": 0.2}},
        name,
        preset="small",
        config={"max_time": time, "clock": "processor"},
        out=f"runs/ranking/{name}",
        restart="auto",
    )
    result = evaluate(run.potential(), recorded_sets(run.run_dir)["test"])
    forces, energy = result.metric("forces_mae"), result.metric("energy_mae")
    ranking.append((forces, energy, name, run.n_parameters))

for forces, energy, name, parameters in sorted(ranking, key=lambda row: row[0].value):
    few = forces.low is None  # frames, too few for an interval
    interval = "" if few else f" [{forces.low:.1f}, {forces.high:.1f}]"
    print(
        f"{name:12s} {parameters:>9,} parameters   forces {forces.value:6.1f}{interval} "
        f"{forces.unit}   energy {energy.value:6.2f} {energy.unit}"
    )
