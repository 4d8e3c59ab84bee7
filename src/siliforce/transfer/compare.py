"""An adapted potential beside its control: the same model from scratch on the same frames.

The control has the same frames held out, the same budget, and a learning rate chosen for it: that
of the preset and others are tried until the one of lowest validation loss lies between two that are
worse. Both are judged on target frames that neither has seen; what the adapted one forgot, on
frames of the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from siliforce.data import Dataset, Split, load_dataset
from siliforce.data.fingerprint import copied
from siliforce.errors import DataError, TrainingError
from siliforce.potential import Potential
from siliforce.training.adapt import adapt, adapt_defaults, target_data
from siliforce.training.adapted import AdaptConfig
from siliforce.training.build import ModelChoice
from siliforce.training.inputs import DataConfig, Source, TrainingData
from siliforce.training.options import as_options
from siliforce.training.run import RunResult, train
from siliforce.training.session import Restart
from siliforce.training.sets import recorded_sets
from siliforce.training.settings import TrainConfig, resolve
from siliforce.transfer.judge import Comparison, judge

TEST = 0.2
"""Part of the target's frames kept for the test where no test frames are named."""
CONTROL_RATES = (1.0, 0.3)
"""Learning rates that the control tries first, over that of its preset."""
LADDER = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Those it tries where the best so far is the highest or the lowest."""


def compare(
    source: str | Path | Potential,
    data: Source | DataConfig,
    *,
    test: Source | None = None,
    source_test: Source | None = None,
    valid: Source | None = None,
    policy: str | None = None,
    replay: Source | None = None,
    config: AdaptConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    control: bool = True,
    rates: Sequence[float] = CONTROL_RATES,
    out: str | Path,
    restart: Restart = "never",
    quiet: bool = False,
) -> Comparison:
    """Adapt, train the control, and judge both.

    Args:
        test: target frames for the test; without them a fifth of `data` is kept for it.
        source_test: frames of the source, for what is forgotten; without them the test frames of
            the source's run folder, if it has any.
        control: train it.
        rates: learning rates the control tries first, over its preset's.
        out: run folder of the adapted potential; `control/` and `results/` lie in it.

    Further arguments are those of `adapt`.

    Raises:
        ConfigError, DataError, TrainingError: as `adapt`.
    """
    section = as_options(AdaptConfig, config, "adapt")
    user = as_options(TrainConfig, train, "train")
    potential = source if isinstance(source, Potential) else Potential.load(source)
    if test is None and not section.test and not _has_test(data):
        section = section.model_copy(update={"test": TEST})
    if valid is not None and test is None:
        raise DataError("--valid names the held-out frames: name those of the test too, by --test")
    inputs = target_data(data, section, valid, user.seed)
    sets = _test_sets(source, inputs, test, source_test)
    used = Dataset.concatenate([inputs.train, inputs.valid])
    if test is not None:
        refuse_copies(used, sets["test"], "--test")
    if source_test is not None:
        refuse_learned(source, sets["ood:source"])
    common: dict[str, Any] = {"restart": restart, "quiet": quiet}
    adapted = adapt(
        source, data, valid=valid, policy=policy, replay=replay, config=section, train=user,
        out=out, **common,
    )  # fmt: skip
    controls: dict[float, RunResult] = {}
    if control and not adapted.interrupted:
        frames = data if valid is not None else inputs.split
        controls = _controls(
            rates,
            lambda rate: train_control(
                potential, frames, user, rate, Path(out) / "control" / f"lr-{rate:g}", valid,
                **common,
            ),
        )  # fmt: skip
    return judge(potential, adapted, controls, sets, used)


def _controls(
    rates: Sequence[float], training: Callable[[float], RunResult]
) -> dict[float, RunResult]:
    """Train with every learning rate, and with others until the best lies between two.

    Raises:
        TrainingError: none of `rates` can be trained with.
    """
    found: dict[float, RunResult] = {}
    tried: list[float] = []
    waiting = list(rates)
    while waiting:
        tried.append(waiting.pop(0))
        try:
            found[tried[-1]] = done = training(tried[-1])
        except TrainingError:
            if not found and not waiting:
                raise
        else:
            if done.interrupted:
                break
        if not waiting:
            further = further_rate(
                tried, min(found, key=lambda rate: found[rate].best["valid_loss"])
            )
            waiting += [] if further is None else [further]
    return found


def further_rate(tried: Sequence[float], best: float) -> float | None:
    """The learning rate to try next where the best is the highest or the lowest of those tried.

    None where it lies between two, or at an end of what is sensible.
    """
    if best == max(tried) and best < LADDER[-1]:
        return next(rate for rate in LADDER if rate > best)
    if best == min(tried) and best > LADDER[0]:
        return next(rate for rate in reversed(LADDER) if rate < best)
    return None


def _test_sets(
    source: str | Path | Potential,
    inputs: TrainingData,
    test: Source | None,
    source_test: Source | None,
) -> dict[str, Dataset]:
    """Frames that nothing was trained on, of the target and of the source, if there are any."""
    if test is None:
        assert inputs.split is not None
        sets = {"test": inputs.split.test}
    else:
        sets = {"test": load_dataset(test)}  # type: ignore[arg-type]
    own = own_test(source) if source_test is None else load_dataset(source_test)  # type: ignore[arg-type]
    return sets if own is None else sets | {"ood:source": own}


def refuse_copies(used: Dataset, test: Dataset, option: str) -> None:
    """Frames for a test that are learned from, be they turned or renumbered, test nothing.

    Raises:
        DataError: there are such frames.
    """
    found = {j for _, j in copied(used, test)}
    if found:
        raise DataError(
            f"{option}: {len(found)} of {len(test)} frames are copies of frames that are trained "
            f"on or held out ({test.sources[min(found)]}): name others, or leave {option} out"
        )


def refuse_learned(source: str | Path | Potential, test: Dataset) -> None:
    """As `refuse_copies`, for what the source learned from, where its run folder knows that.

    Raises:
        DataError: there are such frames.
    """
    if isinstance(source, Potential) or not Path(source).is_dir():
        return
    try:
        sets = recorded_sets(source)
    except DataError:
        return
    known = [part for name, part in sets.items() if name in ("train", "valid")]
    refuse_copies(Dataset.concatenate(known), test, "--source-test")


def own_test(source: str | Path | Potential) -> Dataset | None:
    """Test frames that a source's run folder names; None where there are none, or have moved."""
    if isinstance(source, Potential) or not Path(source).is_dir():
        return None
    try:
        return recorded_sets(source).get("test")
    except DataError:
        return None


def _has_test(data: Any) -> bool:
    """Whether the data themselves say which frames are for the test."""
    if isinstance(data, Split):
        return len(data.test) > 0
    return isinstance(data, DataConfig) and data.split.test > 0


def train_control(
    potential: Potential,
    data: Any,
    user: TrainConfig,
    rate: float,
    out: Path,
    valid: Source | None = None,
    **options: Any,
) -> RunResult:
    """The source's model from scratch, with the budget of the adaptation.

    Args:
        data: the same training and validation frames.
        user: training section of the adaptation; its policy and learning rate are left out.
        rate: learning rate over that of the preset.
    """
    choice = model_section(potential)
    n_train = len(data.train) if hasattr(data, "train") else len(load_dataset(data))
    asked = user.model_dump(exclude_unset=True, exclude={"policy", "lr"})
    settings = adapt_defaults(TrainConfig.model_validate(asked), n_train)
    preset = ModelChoice.model_validate(choice).checked()
    lr = rate * resolve(settings, preset.model_class, preset.preset).lr
    settings = TrainConfig.model_validate(settings.model_dump(exclude_unset=True) | {"lr": lr})
    return train(data, choice, valid=valid, config=settings, out=out, **options)


def model_section(potential: Potential) -> dict[str, Any]:
    """What `train` needs to make such a model with random weights."""
    config = potential.model.config.model_dump(mode="json")
    config.pop("extensions", None)  # how a BPNN came to know its elements
    presets = type(potential.model).presets
    preset = potential.preset.partition(" x ")[0]
    return {
        "name": potential.model.name,
        "preset": preset if preset in presets else next(iter(presets)),
        "pin_isolated": potential.pin_isolated,
        "repulsion": potential.repulsion is not None,
        **config,
    }
