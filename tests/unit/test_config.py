"""Configuration: precedence, overrides, and errors that help."""

import re
from pathlib import Path

import pytest

import siliforce
from siliforce.config import RunConfig, load_config, parse_override, parse_settings
from siliforce.errors import ConfigError
from siliforce.models import get_model
from siliforce.training.options import merged, parse, seconds, show_seconds
from siliforce.training.settings import TrainConfig, default_batch_size, resolve

FILE = """
data: {source: si.xyz}
model: {name: schnet, preset: paper, cutoff: 5.5}
train: {lr: 3e-4, epochs: 7, loss: {energy: 2, kind: mse}}
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "run.yaml").write_text(FILE)
    return tmp_path / "run.yaml"


def test_nothing_given_is_the_defaults():
    assert load_config() == RunConfig()


def test_file_then_values_then_set(file):
    config = load_config(
        file,
        overrides=["train.loss.energy=5", "train.lr=1e-5"],
        values={"train": {"lr": 1.0, "epochs": 9, "seed": None}, "model": {"name": None}},
    )
    assert config.model.name == "schnet"
    assert config.train.lr == 1e-5
    assert config.train.epochs == 9
    assert (config.train.loss.energy, config.train.loss.kind) == (5, "mse")
    assert config.model.overrides == {"cutoff": 5.5}


def test_defaults_then_preset_then_user():
    cls = get_model("mace")
    preset = resolve(TrainConfig(), cls, "paper")
    published = cls.training_presets["paper"]
    assert preset.lr == published["lr"]
    assert preset.schedule.kind == "linear"
    assert (preset.loss.kind, preset.epochs) == ("mse", 200)
    assert preset.betas == TrainConfig().betas
    user = TrainConfig.model_validate({"lr": 9e-9, "loss": {"energy": 4}, "ema": None})
    mine = resolve(user, cls, "paper")
    assert (mine.lr, mine.ema) == (9e-9, None)
    assert (mine.loss.energy, mine.loss.kind) == (4, "mse")
    assert mine.weight_decay == published["weight_decay"]


@pytest.mark.parametrize("name", ["bpnn", "schnet", "mace"])
@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_every_preset_resolves(name, preset):
    resolve(TrainConfig(), get_model(name), preset)


def test_a_resolved_section_stays_as_it_is():
    config = resolve(TrainConfig(), get_model("schnet"), "paper")
    again = TrainConfig(**config.model_dump(mode="json"))
    assert resolve(again, get_model("schnet"), "small") == config


def fails(message, **where):
    return pytest.raises(ConfigError, match=re.escape(message))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "unknown key 'train.lrr'; did you mean 'lr'?"),
        ("train.loss.forcse=1", "unknown key 'train.loss.forcse'; did you mean 'forces'?"),
        ("train.schedule.kind=cosin", "'train.schedule.kind': Input should be 'cosine'"),
        ("trian.lr=1", "did you mean 'train'?"),
        ("lr=1", "did you mean 'train.lr'?"),
        ("train.lr", "write section.key=value"),
        ("train.lr=fast", "'train.lr': Input should be a valid number"),
        ("train.lr=-1", "'train.lr': Input should be greater than 0 (given: -1)"),
        ("train.normalise.atomic_energies={Sj: 1}", "not chemical symbols: Sj"),
        ("data.splt=random", "unknown key 'data.splt'; did you mean 'split'?"),
        ("model.hiden=3", "did you mean 'hidden'?"),
    ],
)
def test_errors_say_what_was_meant(file, override, message):
    from siliforce.errors import SiliforceError

    with pytest.raises(SiliforceError, match=re.escape(message)) as error:
        load_config(file, [override])
    assert "\n" not in str(error.value)


def test_the_list_of_known_keys_is_that_of_the_section(file):
    with pytest.raises(ConfigError) as error:
        load_config(file, ["train.loss.late.sart=0.5", "train.loss.late.energy=1"])
    assert "did you mean 'start'?" in str(error.value)
    assert "huber_delta" not in str(error.value)


def test_unreadable_files(tmp_path):
    with fails("cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("train: [1, 2")
    with fails("not YAML"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("just words")
    with fails("holds a str; sections are expected"):
        load_config(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("")
    assert load_config(tmp_path / "c.yaml") == RunConfig()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.lr=1e-4", 1e-4),
        ("train.lr=2", 2),
        ("train.lr=true", True),
        ("train.lr=[1, 2e3]", [1, 2000.0]),
        ("train.lr=a=b", "a=b"),
        ("train.lr=null", None),
    ],
)
def test_values_are_yaml(text, value):
    assert parse_override(text) == {"train": {"lr": value}}


def test_merging_is_by_key_and_does_not_change_its_inputs():
    base = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(base, {"a": {"b": 9}, "d": {"e": 1}}) == {"a": {"b": 9, "c": 2}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("45s", 45), ("30m", 1800), ("30min", 1800), ("1h30m", 5400), ("2d", 172800),
     ("1.5h", 5400), ("01:30:00", 5400), ("10:30", 630), (12.5, 12.5)],
)  # fmt: skip
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["soon", "", "3 weeks"])
def test_what_is_no_duration(text):
    with fails("'max_time': a duration reads"):
        parse(TrainConfig, {"max_time": text})


def test_durations_for_people():
    assert [show_seconds(s) for s in (0.25, 42, 125, 7300)] == [
        "0.25 s", "42 s", "2 min 05 s", "2 h 01 min",
    ]  # fmt: skip


def test_batch_size_by_amount_of_data():
    assert [default_batch_size(n) for n in (3, 50, 200, 1000, 10**6)] == [1, 1, 4, 16, 16]


CONFIGS = sorted(Path(siliforce.__file__).parent.glob("configs/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize("model", ["bpnn", "schnet", "mace"])
def test_the_configurations_of_materials_fit_every_architecture(path, model):
    if "steps" in path.read_text():
        pytest.skip("a list of commands, not a configuration")
    config = load_config(path, [f"model.name={model}"])
    config.model.architecture("small")
    resolve(config.train, get_model(model), "small")


def test_width_scales_the_preset_before_single_changes() -> None:
    choice = load_config(overrides=["model.name=schnet", "model.width=0.5"]).model
    assert choice.architecture("paper").hidden == 512
    changed = load_config(
        overrides=["model.name=schnet", "model.width=0.5", "model.hidden=100"]
    ).model.architecture("paper")
    assert (changed.hidden, changed.n_filters) == (100, 128)
    with pytest.raises(ConfigError, match=r"model\.width"):
        load_config(overrides=["model.width=0"])
    narrow = load_config(overrides=["model.name=dpa1", "model.width=0.1"]).model
    with pytest.raises(ConfigError, match=r"model\.width 0\.1 does not fit DPA-1 'small': .* axis"):
        narrow.architecture("small")


def test_settings_of_a_verb_are_a_mapping() -> None:
    given = parse_settings(["sizes=[5, 20]", "a.b=1e-4", "a.c=x"])
    assert given == {"sizes": [5, 20], "a": {"b": 1e-4, "c": "x"}}
    with pytest.raises(ConfigError, match=r"write section\.key=value"):
        parse_settings(["sizes"])
