"""The folds of a sweep: trained by one word, judged out of fold, used as an ensemble, calibrated together."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from segkit.cli import calibrate as calibration
from segkit.cli.compare import command as print_comparison
from segkit.cli.evaluate import evaluate
from segkit.cli.predict import predict
from segkit.config.compose import compose
from segkit.inference.evaluation import Result
from segkit.metrics.compare import compare
from segkit.metrics.summary import Summary
from segkit.metrics.table import CaseTable, position, read_table
from segkit.models import checkpoint
from segkit.models.checkpoint import METADATA_KEY
from segkit.system.errors import SegkitError
from segkit.training.sweeps.folds import out_of_fold
from tests.conftest import QUICK, run_segkit

KEYS = (
    *("data=csv", "data.root=set", "data.batch_size=4", "preprocess.size=[32,48]", "model.widths=[4,8]", "name=small"),
    *("optimizer.lr=4e-2", "trainer.max_epochs=5", "trainer.compile=false", "trainer.accelerator=cpu", "trainer.threads=1"),
    *QUICK,
    *("logger.tensorboard=false", "split=kfold", "split.n_folds=3"),
)
TESTED = ("011_1", "012_1", "013_1")
CHANGED = ("inference.tta=horizontal", "inference.threshold=0.4", "metric=surface")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with 15 images to train on, 3 to test, and three networks."""
    cwd = tmp_path_factory.mktemp("swept")
    assert run_segkit(cwd, "phantom", "output=set", "data=csv", "n=18").returncode == 0
    rows = list(csv.DictReader((cwd / "set/cases.csv").read_text().splitlines()))
    with (cwd / "set/cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "split"])
        writer.writeheader()
        writer.writerows({**row, "split": "test" if row["id"] in TESTED else "train"} for row in rows)
    done = run_segkit(cwd, "train", *KEYS, "folds=all", env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd


@pytest.fixture
def here(swept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(swept)
    return swept


@pytest.fixture
def copied(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sweep where a test may change it."""
    for part in ("set", "outputs/small/sweeps"):
        shutil.copytree(swept / part, tmp_path / part, ignore=shutil.ignore_patterns("evaluation"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


HOME = Path("outputs/small/sweeps/fold")
RUNS = [HOME / f"fold-{k}" for k in range(3)]


def judge(*keys: str) -> Result:
    return evaluate(composed("evaluate", *keys))


def composed(command: str, *keys: str) -> Any:
    where = [] if any(key.startswith("data") for key in keys) else ["data.root=set"]
    return compose(command, [*keys, *where, "hardware.threads=1"])


def rewrite_card(run: Path, **changed: Any) -> None:
    path = run / "checkpoints/best.ckpt"
    content = checkpoint.read(path)
    checkpoint.save({**content, METADATA_KEY: {**content[METADATA_KEY], **changed}}, path)


def inference_of(runs: Sequence[Path]) -> list[dict[str, Any]]:
    return [checkpoint.read(run / "checkpoints/best.ckpt")[METADATA_KEY]["config"]["inference"] for run in runs]


def test_one_word_trains_every_fold(here: Path) -> None:
    folds = [set(json.loads((run / "split.json").read_text())["val"]) for run in RUNS]
    assert len(set.union(*folds)) == sum(map(len, folds)) == 15
    assert sorted(path.name for path in HOME.glob("*/cases.csv")) == ["cases.csv"] * 3


@pytest.mark.parametrize("keys", [(), CHANGED], ids=["as trained", "with other keys"])
def test_the_merge_equals_a_merge_by_hand(keys: tuple[str, ...], here: Path) -> None:
    result = judge("sweep=fold", *keys)
    assert result.folder == HOME / "evaluation/val"
    assert {path.name for path in result.folder.iterdir()} >= {"cases.csv", "summary.json", "samples.png"}
    alone = [judge(f"ckpt={run}", *keys).folder for run in RUNS]
    by_hand = out_of_fold(alone)
    together = read_table(result.folder)
    assert list(together.rows) == sorted(by_hand.rows, key=position)
    assert len({row.values["dice"] for row in together.rows}) == 15
    written = Summary.from_dict(json.loads((result.folder / "summary.json").read_text())["results"])
    assert written.lines == pytest.approx(CaseTable(together.rows, by_hand.statistics).summary(0).lines, nan_ok=True)


def test_test_cases_are_evaluated_by_all_together(here: Path) -> None:
    result = judge("sweep=small/fold", "subset=test")
    rows = read_table(result.folder).rows
    assert [(row.case, row.subset) for row in rows] == [(case, "test") for case in TESTED]
    by_name = judge(f"ckpt=[{','.join(map(str, RUNS))}]", "subset=test")
    assert rows == read_table(by_name.folder).rows


def test_other_data_are_evaluated_by_all_together(here: Path) -> None:
    result = judge(f"sweep={HOME}", "data=phantom", "data.phantom_n=5")
    assert result.summary.line("dice").n == 5
    assert result.folder.parent == HOME / "evaluation"


def test_predictions_are_the_mean_of_the_folds(here: Path) -> None:
    def probs(*keys: str) -> Any:
        asked = ("input=set/images/011_1.png", "output=masks", "probabilities=true", "overwrite=true")
        assert predict(composed("predict", *keys, *asked)) == 0
        return np.load("masks/011_1_probabilities.npz")["probs"].astype(np.float32)

    alone = np.stack([probs(f"ckpt={run}") for run in RUNS])
    assert np.ptp(alone, axis=0).max() > 0.01
    np.testing.assert_allclose(probs("sweep=fold"), alone.mean(axis=0), atol=1e-3)


def test_a_sweep_is_compared_by_its_table_out_of_fold(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(HOME / "evaluation", ignore_errors=True)
    with pytest.raises(SegkitError, match="segkit evaluate"):
        print_comparison(compose("compare", [f"runs=[{HOME},{RUNS[0]}]"]))
    judge("sweep=fold")
    print_comparison(compose("compare", [f"runs=[{HOME},{RUNS[0]}]"]))
    assert "Wilcoxon" in capsys.readouterr().out
    comparison = compare(read_table(HOME), read_table(RUNS[0]))
    assert comparison.only_b == ()
    assert {line.difference for line in comparison.lines} == {0.0}


def test_what_helps_out_of_fold_is_kept_in_every_fold(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in RUNS:
        rewrite_card(run, config=with_threshold(run, 0.6))
    before = judge("sweep=fold").summary.line("dice").mean
    store = calibration.store
    written: list[Path] = []

    def killed(path: Path, *args: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        store(path, *args)

    monkeypatch.setattr(calibration, "store", killed)
    with pytest.raises(KeyboardInterrupt):
        calibration.calibrate(composed("calibrate", "sweep=fold"))
    monkeypatch.setattr(calibration, "store", store)
    assert calibration.calibrate(composed("calibrate", "sweep=fold")) == 0  # as if there had been no kill
    first, *others = inference_of(RUNS)
    assert others == [first, first]
    assert first["threshold"] < 0.6
    all_metadata = [checkpoint.read(run / "checkpoints/best.ckpt")[METADATA_KEY] for run in RUNS]
    assert all(metadata["calibration"] == all_metadata[0]["calibration"] for metadata in all_metadata)
    assert all_metadata[0]["calibration"]["n"] == 15
    assert judge("sweep=fold").summary.line("dice").mean > before


def vary(folder: Path, space: dict[str, str], runs: dict[str, dict[str, str]]) -> None:
    """A sweep of copies: folder -> the fold that it is a copy of, and its keys."""
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"space": space}))
    for name, keys in runs.items():
        shutil.copytree(HOME / f"fold-{keys['split.fold']}", folder / name)
        (folder / name / "overrides.yaml").write_text(yaml.safe_dump(["data=csv", *(f"{key}={value}" for key, value in keys.items())]))


def test_each_setting_of_the_other_keys_has_a_table(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {"optimizer.lr": "choice(0.001, 0.01)", "split.fold": "0 to 2 by 1"}
    runs = {f"lr-{lr}_fold-{k}": {"optimizer.lr": lr, "split.fold": str(k)} for lr in ("0.001", "0.01") for k in range(3)}
    vary(Path("outputs/small/sweeps/wide"), space, runs)
    for k in range(3):
        rewrite_card(Path(f"outputs/small/sweeps/wide/lr-0.01_fold-{k}"), config=with_threshold(RUNS[k], 0.6))
    result = judge("sweep=wide")
    assert result.folder == Path("outputs/small/sweeps/wide/evaluation/lr-0.001/val")
    rows = [line.split("   ")[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("dice ")]
    assert rows == ["3 folds, optimizer.lr=0.001", "3 folds, optimizer.lr=0.01"]
    with pytest.raises(SegkitError, match=r"varies more than folds(.|\n)*'where=\{optimizer.lr: 0.01\}'"):
        predict(composed("predict", "sweep=wide", "input=set/images", "output=masks"))
    shutil.rmtree("outputs/small/sweeps/wide/lr-0.001_fold-1")
    with pytest.raises(SegkitError, match=r"wide optimizer.lr=0.001 lacks folds\n  split.fold=1   has not been trained"):
        judge("sweep=wide")
    worse = judge("sweep=wide", "where={optimizer.lr: 1e-2}")
    assert worse.summary.line("dice").mean < result.summary.line("dice").mean


def with_threshold(run: Path, threshold: float) -> dict[str, Any]:
    config: dict[str, Any] = checkpoint.read(run / "checkpoints/best.ckpt")[METADATA_KEY]["config"]
    return {**config, "inference": {**config["inference"], "threshold": threshold}}


def test_networks_of_several_seeds_evaluate_a_case_together(copied: Path) -> None:
    """Where the seed also changes the split, as it does unless split.seed is set: here the second has the folds by one place later."""
    runs = {f"seed-{seed}_fold-{k}": {"seed": str(seed), "split.fold": str(k)} for seed in (0, 1) for k in range(3)}
    folder = Path("outputs/small/sweeps/seeds")
    vary(folder, {"seed": "choice(0, 1)", "split.fold": "choice(0, 1, 2)"}, runs)
    splits = [checkpoint.read(run / "checkpoints/best.ckpt")[METADATA_KEY]["split"] for run in RUNS]
    for k in range(3):
        rewrite_card(folder / f"seed-1_fold-{k}", split=splits[(k + 1) % 3])
    together = read_table(judge("sweep=seeds").folder)
    for k, split in enumerate(splits):
        pair = f"ckpt=[{folder / f'seed-0_fold-{k}'},{folder / f'seed-1_fold-{(k - 1) % 3}'}]"
        by_hand = read_table(judge(pair).folder)
        assert {row.case for row in by_hand.rows} == set(split["val"])
        assert [row for row in together.rows if row.case in split["val"]] == list(by_hand.rows)


def test_a_fold_that_failed_is_named_with_the_command(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = RUNS[1] / "status.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "state": "failed", "traceback": "Traceback\nValueError: as planned\n"}))
    shutil.rmtree(RUNS[2])
    wanted = (
        r"lacks folds\n  fold-1   failed: ValueError: as planned\n  split.fold=2   has not been trained\n"
        r"(.|\n)*segkit train .*data=csv .*split.fold=0,1,2.* -m(.|\n)*partial=true"
    )
    with pytest.raises(SegkitError, match=wanted):
        judge("sweep=fold")
    with pytest.raises(SegkitError, match=wanted):
        predict(composed("predict", "sweep=fold", "input=set/images", "output=masks"))
    assert judge("sweep=fold", "partial=true").summary.line("dice").n == 5
    assert "10 of 15 cases are validated by no network" in capsys.readouterr().out
    assert predict(composed("predict", "sweep=fold", "input=set/images/011_1.png", "output=masks", "partial=true")) == 0
    shutil.rmtree(RUNS[0])
    with pytest.raises(SegkitError, match="has no fold that was trained to its end"):
        judge("sweep=fold", "partial=true")


def test_networks_of_another_split_are_no_folds(copied: Path) -> None:
    split = checkpoint.read(RUNS[1] / "checkpoints/best.ckpt")[METADATA_KEY]["split"]
    rewrite_card(RUNS[2], split=split)
    with pytest.raises(SegkitError, match=r"more cases are validated twice \(.*fold-1, .*fold-2\): these are no folds of one split"):
        judge("sweep=fold")
    rewrite_card(RUNS[2], split={**split, "train": ["new"]})
    with pytest.raises(SegkitError, match=r"fold-0 and .*fold-2 are not of one split: 11 cases are in one alone"):
        judge("sweep=fold")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("sweep=fould",), "there is no sweep fould; did you mean fold"),
        (("sweep=fold", "subset=all"), "each fold was trained on other cases"),
        (("sweep=fold", "ckpt=x"), "exclude each other;   leave one out: ckpt or sweep"),
        (("sweep=fold", "masks=x"), "exclude each other;   leave one out: sweep or masks"),
        (("sweep=fold", "where={optimizer.lr: 1}"), "where.optimizer.lr: the sweep does not vary it; it varies nothing but folds"),
        (("ckpt=x", "where={optimizer.lr: 1}"), "chooses among the trainings of a sweep;   add  sweep=NAME"),
        ((), "is needed;   add  ckpt=FILE"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(keys: tuple[str, ...], message: str, here: Path) -> None:
    with pytest.raises(SegkitError) as refusal:
        judge(*keys)
    assert message in str(refusal.value)


def test_a_sweep_without_folds_is_refused(copied: Path) -> None:
    (HOME / "sweep.json").write_text(json.dumps({"space": {"optimizer.lr": "choice(1, 2)"}}))
    with pytest.raises(SegkitError, match=r"has no folds: it varies optimizer.lr;   segkit train -m … split=kfold folds=all"):
        judge("sweep=fold")
