"""Hydra's sweep grammar as a space of Optuna's, and a trial's values as overrides again."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from segkit.config.overrides import as_typed
from segkit.system.errors import SegkitError
from segkit.training.sweeps.samplers import build_sampler
from segkit.training.sweeps.space import Space
from tests.training.sweeps.conftest import settings

Make = Callable[..., Space]


def drawn(space: Space, n: int, sampler: str = "random", seed: int = 0) -> list[dict[str, str]]:
    """Overrides of `n` trials, each judged by its number."""
    study, out = optuna.create_study(), []
    for i in range(n):
        study.sampler = build_sampler(settings(sampler=sampler, seed=seed), space, i)
        trial = study.ask()
        out.append(space.suggest(trial))
        study.tell(trial, float(i))
    return out


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("optimizer.lr=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("model.dropout=interval(0,0.5)", FloatDistribution(0, 0.5)),
        ("data.batch_size=int(interval(1,8))", IntDistribution(1, 8)),
        ("data.batch_size=int(tag(log,interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("model.convs=range(1,8,3)", IntDistribution(1, 7, step=3)),  # 1, 4, 7: the stop is left out
        ("model.convs=range(1,7,3)", IntDistribution(1, 4, step=3)),
        ("model.dropout=range(0,0.6,0.2)", FloatDistribution(0, 0.4, step=0.2)),
        ("model=unet,unet_light", CategoricalDistribution(["unet", "unet_light"])),
        ("model.widths=choice([8,16],[16,32])", CategoricalDistribution(["[8,16]", "[16,32]"])),
        ("optimizer.lr=1e-3,1e-4", CategoricalDistribution([1e-3, 1e-4])),
    ],
)
def test_what_each_form_searches(text: str, distribution: object, make_space: Make) -> None:
    (parameter,) = make_space(text).parameters
    assert parameter.distribution == distribution


def test_the_values_of_a_trial_are_overrides_again(make_space: Make) -> None:
    space = make_space("optimizer.lr=tag(log,interval(1e-5,1e-2))", "model.widths=[8,16],[16,32]", "model.residual=true,false", "seed=1")
    assert space.fixed == ("seed=1",)
    for one in drawn(space, 20):
        assert 1e-5 <= float(one["optimizer.lr"]) <= 1e-2
        assert one["model.widths"] in ("[8,16]", "[16,32]")
        assert one["model.residual"] in ("true", "false")


def test_a_conditional_key_is_there_only_with_its_condition(make_space: Make) -> None:
    space = make_space("optimizer.momentum=interval(0.8,0.9)", "optimizer=sgd,adamw", optimizer__momentum="optimizer=sgd")
    trials = drawn(space, 20)
    assert {one["optimizer"] for one in trials} == {"sgd", "adamw"}
    assert all(("optimizer.momentum" in one) == (one["optimizer"] == "sgd") for one in trials)


def test_a_grid_meets_every_point_once(make_space: Make) -> None:
    trials = drawn(make_space("optimizer.lr=1e-3,1e-4", "model.convs=range(1,4)"), 6, "grid")
    assert len({tuple(one.values()) for one in trials}) == 6


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes"])
def test_the_draws_follow_from_the_seed_and_do_not_repeat(sampler: str, make_space: Make) -> None:
    """A sampler is made anew for each trial, as after a restart."""
    space = make_space("optimizer.lr=interval(0,1)", "model.dropout=interval(0,1)")
    one, again, other = (drawn(space, 6, sampler, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert len({trial["optimizer.lr"] for trial in one}) == 6


@pytest.mark.parametrize(
    ("overrides", "when", "message"),
    [
        (("optimizer.lr=tag(log,interval(0,1))",), {}, "log needs a lower end above 0"),
        (("optimizer.lr=interval(1,0.1)",), {}, "the smaller end comes first"),
        (("model.convs=range(3,3)",), {}, "is empty"),
        (("model.dropout=range(0,1,0.0)",), {}, "no step"),
        (("model.dropout=range(0,inf)",), {}, "write  interval(START,STOP)"),
        (("optimizer.lr=1e-3",), {}, "nothing to vary"),
        (("run=a,b",), {}, "is set by the sweep"),
        (("model.convs=1,2",), {"model.conv": "model=unet"}, "did you mean model.convs?"),
        (("model.convs=1,2", "model.bias=true,false"), {"model.convs": "model.bias"}, "write  model.bias=VALUE"),
        (("a=1,2", "b=1,2"), {"a": "b=1", "b": "a=1"}, "is circular"),
    ],
)
def test_a_space_that_makes_no_sense_says_why(overrides: tuple[str, ...], when: dict[str, str], message: str, make_space: Make) -> None:
    with pytest.raises(SegkitError) as error:
        make_space(*overrides, **{key.replace(".", "__"): text for key, text in when.items()})
    assert message in str(error.value)


def test_a_sampler_that_cannot_search_the_space_says_why(make_space: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    space = make_space("optimizer.lr=interval(0,1)")
    with pytest.raises(SegkitError, match=r"write  optimizer\.lr=range"):
        settings(sampler="grid").resolved(space)
    with pytest.raises(SegkitError, match="supports one objective"):
        settings(objectives={"dice": "max", "parameters": "min"}, sampler="cmaes")
    monkeypatch.setattr("segkit.training.sweeps.space.find_spec", lambda name: None)
    with pytest.raises(SegkitError, match="pip install cmaes"):
        settings(sampler="cmaes")
    with pytest.raises(SegkitError, match="compares trials by one objective"):
        settings(objectives={"dice": "max", "parameters": "min"}, pruner="median")


@pytest.mark.parametrize(
    ("overrides", "keys", "sampler", "n_trials"),
    [
        (("model=unet,unet_light", "seed=range(0,3)"), {}, "grid", 6),
        (("model=unet,unet_light",), {"n_trials": 9}, "tpe", 9),
        (("optimizer.lr=interval(0,1)", "seed=0,1"), {}, "tpe", 20),
        (("seed=range(0,10)",), {"sampler": "grid", "n_trials": 4}, "grid", 4),
        (("seed=range(0,10)",), {"sampler": "random"}, "random", 20),
    ],
)
def test_what_can_be_listed_is_run_through_unless_a_search_is_asked_for(
    overrides: tuple[str, ...], keys: dict[str, object], sampler: str, n_trials: int, make_space: Make
) -> None:
    chosen = settings(**{"sampler": "auto", "n_trials": None, **keys}).resolved(make_space(*overrides))
    assert (chosen.sampler, chosen.n_trials) == (sampler, n_trials)


def test_a_grid_goes_in_the_order_in_which_it_is_typed(make_space: Make) -> None:
    space = make_space("model=unet_light,unet", "seed=1,0")
    order = [("unet_light", "1"), ("unet_light", "0"), ("unet", "1"), ("unet", "0")]
    assert [(one["model"], one["seed"]) for one in drawn(space, 4, "grid")] == order


def test_a_glob_of_presets_means_those_that_train(make_space: Make) -> None:
    (parameter,) = make_space("experiment=glob(pelvis_*)").parameters
    assert list(parameter.texts) == ["pelvis_134", "pelvis_256", "pelvis_joint"]  # and not pelvis_combination


@pytest.mark.parametrize("text", ["range(0,1,0.1)", "range(0.9,-0.05,-0.1)"])
def test_a_range_of_fractions_is_counted_in_decimals(text: str, make_space: Make) -> None:
    space, tenths = make_space(f"model.dropout={text}"), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]
    (parameter,) = space.parameters
    assert [one["model.dropout"] for one in drawn(space, 10, "grid")] == tenths
    assert {one["model.dropout"] for one in drawn(space, 200)} == set(tenths)
    for value in parameter.grid():  # as the study checks a trial that is taken up again
        optuna.trial.create_trial(value=0, params={parameter.key: value}, distributions={parameter.key: parameter.distribution})


def test_a_number_typed_twice_is_tried_as_it_is_typed_first(make_space: Make) -> None:
    assert [one["seed"] for one in drawn(make_space("seed=1,1.0,2"), 2, "grid")] == ["1", "2"]


def test_a_shuffled_list_is_the_same_space_at_each_start(make_space: Make) -> None:
    spaces = [make_space("model=shuffle(unet,unet_light,smp,monai)", "seed=shuffle(range(0,9))") for _ in range(6)]
    assert all(space == spaces[0] and space.as_dict() == spaces[0].as_dict() for space in spaces)
    assert set(spaces[0].parameters[0].texts) == {"unet", "unet_light", "smp", "monai"}


@pytest.mark.parametrize("value", [None, True, 3, 0.5, [8, 16], ["a", None], {"a": 1}, "text"])
def test_a_listed_key_reads_as_its_value_was_written(value: object, loader: ConfigLoader) -> None:
    override = OverridesParser.create(loader).parse_override(as_typed("key", value))
    assert not override.is_sweep_override()
    assert override.value() == value
    assert type(override.value()) is type(value)


def test_a_listed_key_may_be_a_sweep() -> None:
    assert as_typed("model", "choice(unet, smp)") == "model=choice(unet, smp)"


@pytest.mark.parametrize("keys", [{"sampler": "auto", "n_trials": None}, {"sampler": "grid", "n_trials": 5}])
def test_a_grid_that_cannot_be_run_through_is_refused_at_once(keys: dict[str, object], make_space: Make) -> None:
    space = make_space(*(f"{key}=range(0,1000)" for key in ("seed", "split.seed", "model.convs")))
    with pytest.raises(SegkitError, match=r"has 1,000,000,000 combinations.*hydra\.sweeper\.sampler=tpe hydra\.sweeper\.n_trials="):
        settings(**keys).resolved(space)
    assert settings(sampler="auto", n_trials=7).resolved(space).n_trials == 7
