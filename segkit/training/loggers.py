"""The loggers of a training, as the config names them: all get the same scalars, pictures, hyper-parameters and final metrics.

What they write lies in the run folder; MLflow's store, which runs are compared in, in `output_dir`.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import loggers
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.nn import Module
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams as hparams_summaries

from segkit.config.groups import in_folder, with_folder
from segkit.config.schema import Train
from segkit.config.targets import instantiate, keywords_of
from segkit.metrics.summary import Summary
from segkit.system.environment import is_child
from segkit.system.errors import SegkitError, first_line
from segkit.system.files import write_text_atomic
from segkit.system.locks import locked
from segkit.system.plain import read_json
from segkit.system.progress import console
from segkit.training.hparams import final_metrics, hparams, varied
from segkit.training.media import kind_of, log_text
from segkit.training.module import SegmentationModule
from segkit.training.run_folder import RunFolder

IDENTITIES = "loggers.json"
"""File of a run folder: logger -> what its service calls the run."""
SERVER = os.environ.get("MLFLOW_TRACKING_URI")
"""Of MLflow, as the user has set it: MLflow sets the variable itself as soon as it logs."""
CONTINUES = {"WandbLogger": "id", "MLFlowLogger": "run_id", "CometLogger": "experiment_key"}
"""Class -> the keyword that continues a run of the service."""
SERVED: dict[Path, dict[str, Logger]] = {}
"""The loggers of this process by run folder, from the start of the training until it is evaluated."""

ENDS: dict[str, Callable[[Any], Any]] = {
    "WandbLogger": lambda logger: logger.experiment.finish(),  # else the next trial of a sweep would log into the same run
    "CometLogger": lambda logger: logger.experiment.end(),
}


# --- building and ending ----------------------------------------------------------------------------------------------


def build_loggers(cfg: Train, run: RunFolder, global_step: int) -> list[Logger]:
    """The loggers of a run. `global_step` is where a resumed run continues: what is logged beyond it locally is dropped."""
    threading.excepthook = silence_writer
    quiet()
    known = read_json(run.path / IDENTITIES)
    with locked(Path(cfg.output_dir) / ".loggers.lock"):  # two trials must not create a store at the same time
        built = {name: build_logger(name, node, cfg, run, global_step, known.get(name)) for name, node in cfg.logger.items() if node}
        SERVED[run.path] = built
        if not is_child():
            introduce(run, cfg, known)
    return list(built.values())


def build_logger(name: str, node: Mapping[str, Any], cfg: Train, run: RunFolder, global_step: int, identity: str | None = None) -> Logger:
    kind = str(node["_target_"]).rpartition(".")[2]
    given = with_folder(("logger", name), in_folder(node, run.path), cfg.allow_targets, str(run.events))
    more: dict[str, Any] = {CONTINUES[kind]: identity} if identity and kind in CONTINUES else {}
    purges = kind == "TensorBoardLogger" or "purge_step" in keywords_of(str(node["_target_"]), cfg.allow_targets, training=True)
    more |= {"purge_step": global_step + 1} if global_step and purges else {}
    built = instantiate({**usual(kind, given, cfg, run), **given, **more}, f"logger.{name}", allow=cfg.allow_targets, training=True)
    if not isinstance(built, Logger):
        raise SegkitError(f"logger.{name}: {node['_target_']} is no lightning.pytorch.loggers.Logger")
    if isinstance(built, loggers.WandbLogger):
        built._wandb_init.pop("anonymous", None)  # which wandb warns of, although nobody has set it
    return built


def quiet() -> None:
    """Silence what a user cannot act on, and what would send statistics of use to the makers of MLflow."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("mlflow", "alembic", "lightning.pytorch.loggers.mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


def usual(kind: str, node: Mapping[str, Any], cfg: Train, run: RunFolder) -> dict[str, Any]:
    """Keywords of a service that follow from the run, unless the config has them."""
    if kind == "MLFlowLogger":
        store = Path(cfg.output_dir).absolute()
        uri = str(node.get("tracking_uri") or SERVER or f"sqlite:///{store / 'mlflow.db'}")
        artifacts = {"artifact_location": (store / ".mlartifacts").as_uri()} if uri.startswith("sqlite:") else {}
        return {"experiment_name": cfg.name, "run_name": run.path.name, "tracking_uri": uri, **artifacts}
    if kind in ("WandbLogger", "CometLogger"):
        return {"project": str(cfg.name).replace("/", "-"), "name": run.path.name}
    return {}


def introduce(run: RunFolder, cfg: Train, known: Mapping[str, str]) -> None:
    """Start a run of each service, tell it the hyper-parameters, and keep what it is called, so that a resume goes on in it."""
    found = dict(known)
    for name, logger in SERVED[run.path].items():
        if name not in known and not isinstance(logger, loggers.TensorBoardLogger):  # which wants them with the final metrics
            logger.log_hyperparams(hparams(run, cfg))
        if run.resume_from is None:
            log_text(logger, "config", yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False))
        if kind_of(logger, CONTINUES):
            found[name] = str(logger.version)
    if found != known:
        write_text_atomic(run.path / IDENTITIES, json.dumps(found, indent=1))


@contextmanager
def ending_loggers(run: RunFolder) -> Iterator[None]:
    """End the runs of services, whatever ends the training."""
    try:
        yield
    finally:
        for logger in SERVED.pop(run.path, {}).values():
            if kind := kind_of(logger, ENDS):
                ENDS[kind](logger)


def record_result(run: RunFolder, cfg: Train, summary: Summary | None = None) -> None:
    """Log the final metrics; a pruned run has no summary, only its best epoch."""
    metrics, step = final_metrics(run, cfg, summary)
    for logger in SERVED.get(run.path, {}).values():
        if isinstance(logger, loggers.TensorBoardLogger):
            write_hparams(logger.log_dir, varied(run, cfg), metrics, step)
        else:
            logger.log_metrics(metrics, step)
            logger.save()


def write_hparams(folder: str, values: Mapping[str, Any], metrics: Mapping[str, float], step: int) -> None:
    """Write the row of a run in TensorBoard's HPARAMS tab.

    Lightning's `log_hyperparams` would make the columns of one run those of all runs; here TensorBoard collects them.
    """
    *_, session_start, session_end = hparams_summaries(dict(values), dict(metrics))  # type: ignore[no-untyped-call]
    with SummaryWriter(folder) as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        for session in (session_start, session_end):
            writer.file_writer.add_summary(session)


# --- our own ----------------------------------------------------------------------------------------------------------


class TensorBoardLogger(loggers.TensorBoardLogger):
    """TensorBoard events in the run folder, without Lightning's empty hparams.yaml beside config.yaml.

    A disk that cannot hold them is reported with the checkpoint that does not fit on it, not by the writer's thread.
    """

    def __init__(self, save_dir: str = ".", name: str | None = "", version: int | str | None = "", **keywords: Any) -> None:
        super().__init__(save_dir, name, version, **{"default_hp_metric": False, **keywords})

    def save(self) -> None:
        with suppress(OSError):
            self.experiment.flush()

    def finalize(self, status: str) -> None:
        with suppress(OSError):
            super().finalize(status)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Without the epoch, which Lightning adds to each line: its curve says nothing."""
        shown = {name: value for name, value in metrics.items() if name != "epoch"}
        with suppress(OSError):
            super().log_metrics(shown, step)

    def log_graph(self, model: Module, input_array: Tensor | None = None) -> None:
        """Log the network as a graph where `log_graph=true` asks for it; of segkit's module an example of its input is known."""
        if not self._log_graph or not isinstance(model, SegmentationModule):
            super().log_graph(model, input_array)  # type: ignore[arg-type]
            return
        try:
            self.experiment.add_graph(model.model, example_input(model))
        except Exception as error:  # whatever a network raises that cannot be traced
            console.print(f"note       logger.tensorboard.log_graph: this network cannot be traced: {first_line(error)}", markup=False)


def example_input(module: SegmentationModule) -> Tensor:
    """An image of zeros (1, C, *S) that the network takes."""
    config, metadata = module.config, module.metadata
    size = config.sampling.patch or config.preprocess.size or (64,) * metadata.dims
    return torch.zeros(1, metadata.channels, *size[: metadata.dims], device=module.device)


def silence_writer(failed: threading.ExceptHookArgs) -> None:
    """The thread that writes events hands its error on to the logger; that of any other thread is printed as ever."""
    if not (isinstance(failed.exc_value, OSError) and type(failed.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(failed)


class CSVLogger(loggers.CSVLogger):
    """Every step that is logged, as metrics.csv, hyper-parameters as hparams.yaml, pictures as PNG, in RUN/csv.

    A resumed run keeps the rows before `purge_step`, where Lightning's own logger begins an empty file.
    """

    def __init__(
        self, save_dir: str, name: str = "", version: str = "", prefix: str = "", flush_logs_every_n_steps: int = 100, purge_step: int = 0
    ) -> None:
        super().__init__(save_dir, name, version, prefix, flush_logs_every_n_steps)
        path = Path(self.log_dir) / "metrics.csv"
        rows = list(csv.DictReader(path.open(newline=""))) if purge_step and path.is_file() else []
        self.kept = [{key: value for key, value in row.items() if value} for row in rows if int(row["step"]) < purge_step]

    @property
    def experiment(self) -> Any:
        is_new = self._experiment is None
        writer = super().experiment
        if is_new and self.kept:
            writer.metrics.extend(self.kept)
            writer.save()
        return writer
