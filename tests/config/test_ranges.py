"""Keys that only make sense together are refused before training, with a line that works."""

from __future__ import annotations

import re

import pytest

from segkit.config import compose
from segkit.config.schema import Train
from segkit.config.validate import restore
from segkit.system.errors import ProblemsFound

WINDOW = "preprocess.scale=window"

REFUSED = {
    ("preprocess.window=[0,5]",): "has no effect with preprocess.scale=auto",
    (WINDOW, "preprocess.window=[1500,-650]"): r"is [least, greatest], got [1500, -650]; level L and width W are [L-W/2, L+W/2]",
    (WINDOW, "preprocess.window=[-5,-600]"): r"is [least, greatest], got [-5, -600]",
    (WINDOW, "preprocess.window=[40,40]"): r"is [least, greatest], got [40, 40]",
    (WINDOW,): "is needed for preprocess.scale=window: [least, greatest]; level L and width W are [L-W/2, L+W/2]",
    ("preprocess.scale=percentiles", "preprocess.percentiles=[99.5,0.5]"): "two percentages from 0 to 100, got [99.5, 0.5]",
    ("preprocess.scale=percentiles", "preprocess.percentiles=[50,50]"): "two percentages from 0 to 100, got [50, 50]",
    ("preprocess.percentiles=[1,99]",): "has no effect with preprocess.scale=auto",
    ("preprocess.size=[32,64,64]",): "has 3 numbers, but data.dims=2 has rows and columns",
    ("data.dims=3", "preprocess.size=[64,64]"): "has 2 numbers, but data.dims=3 has slices, rows and columns",
    ("data.dims=3", "preprocess.spacing_mm=[1,1]"): "has 2 numbers, but data.dims=3",
    ("inference.window=[8,64,64]",): "has 3 numbers, but data.dims=2",
    ("optimizer.lr=-1e-3",): "needs at least 0, got -0.001",
    ("optimizer=sgd", "optimizer.momentum=-0.9"): "needs at least 0, got -0.9",
}
WITHOUT_ADVICE = {
    ("preprocess.scale=percentiles", "preprocess.percentiles=[-1,99]"): "needs at least 0, got -1",
    ("preprocess.scale=percentiles", "preprocess.percentiles=[1,101]"): "needs at most 100, got 101",
    (WINDOW, "preprocess.window=[0,inf]"): "needs a finite number, got Infinity",
    (WINDOW, "preprocess.window=[nan,5]"): "needs a finite number, got NaN",
    (WINDOW, "preprocess.window=[1,2,3]"): "needs a list of at most 2",
    (WINDOW, "preprocess.window=[1]"): "needs a list of 2",
    ("preprocess.size=[0,64]",): "needs more than 0, got 0",
    ("preprocess.spacing_mm=[-1,1]",): "needs more than 0, got -1",
    ("sampling.patch=[0,64]",): "needs more than 0, got 0",
    ("sampling.patches_per_image=1000000000000",): "needs at most 10000",
    ("data.num_workers=1000000000000",): "needs auto or at most 1024",
    ("trainer.threads=1000000000000",): "needs auto or at most 1024",
    ("split.seed=-1",): "needs at least 0, got -1",
    ("optimizer.lr=nan",): "needs a finite number, got nan",  # of keys that no schema of ours knows: a saved config could not hold them
    ("augment.transforms.affine.scale=[1,inf]",): "needs a finite number, got inf",
    ("loss.parts.dice.smooth=-inf",): "needs a finite number, got -inf",
}


def composed(*keys: str) -> Train:
    cfg = compose.compose("train", ["data=phantom", *keys])
    assert isinstance(cfg, Train)
    return cfg


def problems(*keys: str) -> list[tuple[str, str, str]]:
    with pytest.raises(ProblemsFound) as error:
        composed(*keys)
    return [(problem.where, problem.what, problem.fix) for problem in error.value.problems]


@pytest.mark.parametrize("keys", REFUSED, ids=" ".join)
def test_one_line_names_the_key_and_each_line_to_type_works(keys: tuple[str, ...]) -> None:
    ((where, what, fix),) = problems(*keys)
    assert where in " ".join(keys) or where == "preprocess.window"
    assert REFUSED[keys] in what
    advised = re.findall(r"(?<!\S)'?([\w.]+=(?:\[[^\]]*\]|[\w.]+))'?", fix)
    assert advised
    for line in advised:
        assert composed(*(key for key in keys if not key.startswith(line.partition("=")[0] + "=")), line)


def test_a_width_and_its_level_typed_as_a_window_become_its_ends() -> None:
    ((_, _, fix),) = problems(WINDOW, "preprocess.window=[1500,-650]")
    assert "if it is width 1500 at level -650:  'preprocess.window=[-1400,100]'" in fix


@pytest.mark.parametrize("keys", WITHOUT_ADVICE, ids=" ".join)
def test_numbers_out_of_bounds(keys: tuple[str, ...]) -> None:
    ((_, what, _),) = problems(*keys)
    assert WITHOUT_ADVICE[keys] in what


def test_a_checkpoint_with_a_window_that_its_scale_never_used_still_opens() -> None:
    saved = composed(WINDOW, "preprocess.window=[-160,240]").model_dump(mode="json")
    saved["preprocess"] |= {"scale": "minmax", "window": [240, -160]}
    assert restore(saved, ()).preprocess.scale == "minmax"
