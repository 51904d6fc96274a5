"""Who has started the processes of a training, how many there are, and what each may use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import FSDPPrecision
from lightning.pytorch.strategies import FSDPStrategy
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from segkit.config.compose import compose
from segkit.config.schema import Train
from segkit.data.dataset import EpochSampler
from segkit.models.segmentation import Normalizer, SegmentationModel
from segkit.models.smp import SMP
from segkit.models.unet import UNet
from segkit.system import environment as env
from segkit.system import hardware
from segkit.system.errors import SegkitError
from segkit.system.hardware import Hardware
from segkit.training import distributed
from segkit.training.callbacks.pruning import RunningTrial
from segkit.training.trainer import build_strategy, check_devices, leaves_some_unused, wants_sync

SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_PROCID": "5", "SLURM_JOB_ID": "77", "SLURM_NTASKS": "8"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "exp7", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*SRUN, *TORCHRUN, env.PARENT, env.TRIAL}:
        monkeypatch.delenv(name, raising=False)


def started_by(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def config(*overrides: str) -> Train:
    cfg = compose("train", list(overrides))
    assert isinstance(cfg, Train)
    return cfg


def hardware_of(cfg: Train) -> Hardware:
    asked = cfg.trainer
    return Hardware.of_training(asked.accelerator, asked.precision, asked.threads, asked.devices, asked.num_nodes)


def test_a_process_that_was_started_alone_is_the_first() -> None:
    assert (env.job(), env.rank(), env.is_child(), env.job_name()) == (None, 0, False, None)


def test_srun_and_torchrun_say_which_process_this_is_of_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, SRUN)
    assert env.job() == env.Job("srun", 5, 2, 4)
    assert env.job_name() == "slurm-77"
    started_by(monkeypatch, TORCHRUN)
    assert env.job() == env.Job("torchrun", 3, 2, 2)
    assert env.job_name() == "torchrun-exp7"
    assert env.layout(1, 1, there=8, usual=8, kind="GPU(s)") == env.layout("auto", "auto", there=8, usual=8, kind="GPU(s)") == (2, 2)


@pytest.mark.parametrize("environment", [SRUN, TORCHRUN])
def test_in_a_sweep_every_task_trains_by_itself(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, environment | {env.TRIAL: trial_of_a_sweep()})
    assert env.job() is None
    assert not env.is_child()
    started_by(monkeypatch, {env.PARENT: "1", "LOCAL_RANK": "1"})
    assert env.rank() == 1


def trial_of_a_sweep() -> str:
    import json
    from dataclasses import fields

    return json.dumps({field.name: [] if field.name == "objectives" else None for field in fields(RunningTrial)})


def test_a_batch_script_without_srun_and_a_job_of_one_task_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, {"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "77"})
    assert env.job() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert env.job() is None


@pytest.mark.parametrize(
    ("environment", "asked", "words"),
    [
        ({}, ("auto", "auto"), "trainer.num_nodes=auto: neither srun nor torchrun"),
        ({}, (9, 1), "trainer.devices=9, but this process may use 8 GPU(s);   use  trainer.devices=8"),
        (TORCHRUN, (3, 1), "trainer.devices=3, but torchrun has started 2"),
        (TORCHRUN, (1, 5), "trainer.num_nodes=5, but torchrun has started 2"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}, (1, 1), "--ntasks-per-node"),
    ],
)
def test_what_cannot_be_started_names_the_key(
    environment: dict[str, str], asked: tuple[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started_by(monkeypatch, environment)
    with pytest.raises(SegkitError, match=re.escape(words)):
        env.layout(*asked, there=8, usual=8, kind="GPU(s)")


def test_a_torchrun_without_a_name_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, TORCHRUN | {"TORCHELASTIC_RUN_ID": "none"})
    with pytest.raises(SegkitError, match="run=NAME"):
        env.job_name()


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    two = hardware_of(config("trainer=cpu", "trainer.devices=2"))
    assert (two.processes, two.threads, two.world) == (2, 4, 2)
    assert "2 processes of 4 threads" in str(two)
    assert hardware_of(config("trainer=cpu", "trainer.devices=auto")).world == 1
    assert hardware_of(config("trainer=cpu", "trainer.devices=2", "trainer.threads=1")).threads == 1
    assert [hardware.loader_workers("auto", "cuda", False, n) for n in (1, 2, 8)] == [7, 3, 1]
    started_by(monkeypatch, SRUN)  # which binds each task to cores of its own
    assert hardware_of(config("trainer=cpu")).threads == 8


def test_more_processes_than_cores_are_refused_before_anything_is_read() -> None:
    with pytest.raises(SegkitError, match=r"trainer\.devices=1000, but this process may use \d+ core\(s\);   use  trainer\.devices="):
        hardware_of(config("trainer=cpu", "trainer.devices=1000"))


@pytest.mark.parametrize(
    ("keys", "device", "words"),
    [
        (["trainer.strategy=fsdp"], "cpu", "trainer.strategy=fsdp shards a network over GPUs"),
        (["trainer.strategy=fsdp", "callbacks.weight_averaging.decay=0.9"], "cuda", "cannot average weights"),
        (["trainer.sync_batchnorm=true"], "cpu", "trainer.sync_batchnorm=true needs GPUs"),
    ],
)
def test_what_the_devices_cannot_do_is_reported_before_training(keys: list[str], device: str, words: str) -> None:
    with pytest.raises(SegkitError, match=re.escape(words)):
        check_devices(config(*keys), Hardware(device, device, "32", 1, 2))
    check_devices(config(), Hardware(device, device, "32", 1, 2))


def test_fsdp_rounds_neither_constants_nor_statistics(tmp_path: Path) -> None:
    """A checkpoint whose normalization is not that of its metadata to the last digits is refused; here one process over gloo."""
    gpu = Hardware("cuda", "GPU", "bf16", 1)
    without_autocast = build_strategy(config("trainer.strategy=fsdp", "trainer.precision=bf16-true"), gpu, nn.Identity(), None)
    strategy = build_strategy(config("trainer.strategy=fsdp"), gpu, nn.Identity(), None)
    assert isinstance(strategy, FSDPStrategy)
    assert isinstance(without_autocast, FSDPStrategy)
    assert without_autocast.mixed_precision is None  # Lightning's own: all in one type
    strategy.precision_plugin = FSDPPrecision("bf16-mixed")  # as the Trainer does; by itself it rounds all three
    model = SegmentationModel(UNet(1, 1, (4, 8)), Normalizer("dataset", [0.1873], [0.1411]), "binary")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        keys = {"mixed_precision": strategy.mixed_precision_config, "use_orig_params": True}
        sharded = FullyShardedDataParallel(model, device_id=torch.device("cpu"), **keys)
        sharded(torch.randint(0, 255, (2, 1, 32, 32), dtype=torch.uint8)).sum().backward()
        buffers = dict(model.named_buffers())
        assert buffers["normalizer.mean"].item() == torch.tensor(0.1873).item()
        assert {buffer.dtype for name, buffer in buffers.items() if "running" in name} == {torch.float32}
    finally:
        torch.distributed.destroy_process_group()


def test_batch_norm_counts_the_images_of_all_gpus_where_each_has_few() -> None:
    def synced(*keys: str, device: str = "cuda", n: int = 2, norm: str = "batch") -> bool:
        model = SegmentationModel(UNet(1, 1, (4, 8), norm=norm), Normalizer("unit"), "binary")  # type: ignore[arg-type]
        return wants_sync(config(*keys), Hardware(device, device, "32", 1, n), model)

    assert synced("data.batch_size=2")
    assert not synced("data.batch_size=8")
    assert synced("data.batch_size=8", "trainer.sync_batchnorm=true")
    assert not synced("data.batch_size=2", "trainer.sync_batchnorm=false")
    assert not synced("data.batch_size=2", n=1)
    assert not synced("data.batch_size=2", norm="instance")
    assert not synced("data.batch_size=2", device="cpu")


def test_weights_without_a_gradient_are_found_without_computing_anything() -> None:
    def model(network: torch.nn.Module) -> SegmentationModel:
        return SegmentationModel(network, Normalizer("unit"), "binary")

    assert leaves_some_unused(model(SMP(1, 1, arch="PSPNet", encoder_name="resnet18")), 1, (64, 64))
    whole = model(UNet(1, 1, (4, 8)))
    assert not leaves_some_unused(whole, 1, (64, 64))
    assert leaves_some_unused(whole, 1, None)  # cannot be told
    for weight in whole.network.encoder.parameters():  # type: ignore[union-attr]
        weight.requires_grad_(False)
    assert not leaves_some_unused(whole, 1, (64, 64))  # frozen ones are nobody's to wait for


@pytest.mark.parametrize(("n", "batch_size", "world"), [(40, 4, 2), (43, 2, 3), (17, 8, 2), (5, 4, 2)])
def test_processes_see_each_image_once_and_together_the_batches_of_one(n: int, batch_size: int, world: int) -> None:
    together = [list(EpochSampler(n, batch_size, 7, rank, world)) for rank in range(world)]
    alone = list(EpochSampler(n, batch_size * world, 7))
    assert len({len(batches) for batches in together}) == 1
    assert [sorted(i for batches in together for i in batches[step]) for step in range(len(alone))] == [sorted(batch) for batch in alone]
    assert len(alone) == len(together[0])


def test_who_shares_a_training_does_not_outlive_it() -> None:
    """Even where nobody had the time to tell it."""
    child = (
        "from segkit.training.distributed import end_with_parent; end_with_parent(); import time; print('on', flush=True); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys\n"
        f"env = {{**os.environ, '{env.PARENT}': str(os.getpid())}}\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], env=env, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, cwd=Path.cwd())
    import psutil

    assert not psutil.pid_exists(int(done.stdout)) or not psutil.wait_procs([psutil.Process(int(done.stdout))], timeout=20)[1]


def test_a_process_is_given_the_moment_that_its_end_takes_after_its_connections(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3); raise SystemExit(3)"])
    assert distributed.lost([other], tmp_path) == ""
    assert "process 2 of the 2 that share this training has failed (exit code 3" in distributed.lost([other], tmp_path, seconds=30)
