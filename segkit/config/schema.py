"""The schema of configs. Every command validates against one of these before anything heavy is imported.

The models are strict and frozen, and refuse unknown keys; `validate.py` turns their errors into one list. A node with a
`_target_` stays a plain dict: its keywords are checked against the signature of what it names (`targets.py`).
"""

from __future__ import annotations

import math
import os
import re
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MOST_PIXELS = 10**9
BATCH_SIZE = 8


def _names_a_target(node: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(node.get("_target_"), str):
        raise ValueError("needs a _target_: the dotted name of what to build")
    return node


def _is_typed(folds: Any) -> Any:
    if folds is not None:
        raise ValueError("stands for several trainings: type it on the command line,  segkit train split=kfold folds=all")
    return folds


def _stays_below(name: str) -> str:
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts or not name.strip():
        raise ValueError(f"must name a folder below output_dir, got {name!r}")
    return name


def _is_a_word(name: str) -> str:
    if not re.fullmatch(r"(?![.-])[\w.-]+", name):
        raise ValueError(f"is a name of letters, digits, dot, minus and underscore that starts with none of . -, got {name!r}")
    return name


def _is_a_limit(number: int) -> int:
    if number < 1 and number != -1:
        raise ValueError(f"needs at least 1, or -1 for no limit, got {number}")
    return number


def _is_a_part(part: str) -> str:
    number, _, of = part.partition("/")
    if part != "auto" and not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise ValueError(f"is auto, or a share such as 1/4 to 4/4, got {part!r}")
    return part


def _fits_in_memory(size: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(size) > MOST_PIXELS:
        raise ValueError(f"is {' x '.join(map(str, size))} pixels; at most {MOST_PIXELS:,} are possible")
    return size


PathText = Annotated[str, AfterValidator(os.path.expanduser)]
"""A file or folder. No shell expands the ~ of a value in quotes."""
PartName = Annotated[str, AfterValidator(_is_a_part)]
"""A share of a list that several jobs work on; auto: as SLURM or torchrun number their jobs."""
FolderName = Annotated[str, AfterValidator(_stays_below)]
Target = Annotated[dict[str, Any], AfterValidator(_names_a_target)]
TargetOrNothing = Annotated[dict[str, Any], AfterValidator(lambda node: node and _names_a_target(node))]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Hash = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]
Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Precision = Literal["auto", "32", "bf16", "16"]
TrainerPrecision = Literal[
    "auto", "32", "bf16", "16", "32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64", "transformer-engine"
]
"""Those of `Precision`, and all of Lightning under its own names."""
Positive = Annotated[int, Field(gt=0)]
Processes = Annotated[int, Field(ge=0, le=1024)]
"""Or threads: more would only exhaust the machine."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Limit = Annotated[int, AfterValidator(_is_a_limit)]
Batches = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)]
"""As Lightning counts them: a whole number, or a fraction of an epoch's."""
Size = Annotated[tuple[Positive, ...], Field(min_length=2, max_length=3), AfterValidator(_fits_in_memory)]
Spacing = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=2, max_length=3)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Strict):
    """The keys of `data`. A `_target_` that is not segkit's DataModule is kept as `target`, the keywords that only it has as `options`."""

    source: TargetOrNothing = {}
    target: str | None = None
    options: dict[str, Any] = {}
    root: PathText | None = None
    labels: dict[str, str] | None = None
    overlap: bool | None = None
    exclude: list[str] = []
    dims: Literal[2, 3] = 2
    channels: Literal["auto", 1, 3] = "auto"
    exif: Literal["auto", "shown", "stored"] = "auto"
    fourth_axis: Literal["auto", "channels"] = "auto"
    neighbours: Annotated[list[int], Field(min_length=1)] = [0]
    phantom_n: Annotated[int, Field(gt=0, le=100_000)] = 60
    batch_size: Literal["auto"] | Positive = BATCH_SIZE
    shuffle: bool = True
    num_workers: Literal["auto"] | Processes = "auto"
    cache_gb: Literal["auto"] | NotNegative = "auto"
    disk_cache_gb: NotNegative = 0

    @model_validator(mode="after")
    def _knows_where_from(self) -> Data:
        if not self.source and not self.target:
            raise ValueError("needs a source, which reads the layout on disk: write  data=NAME")
        return self

    @property
    def images_per_step(self) -> int:
        """`batch_size` as a number: in place of auto, that is before a training has found one, the default."""
        return BATCH_SIZE if self.batch_size == "auto" else self.batch_size


class Split(Strict):
    kind: Literal["auto", "given", "holdout", "kfold", "leave_one_out", "file"] = "auto"
    val_fraction: Fraction = 0.2
    test_fraction: Fraction = 0.0
    n_folds: Annotated[int, Field(ge=2)] = 5
    fold: Annotated[int, Field(ge=0)] = 0
    path: PathText | None = None
    stratify: bool = True
    grouped: bool = True
    seed: Annotated[int, Field(ge=0)] = 0


class Preprocess(Strict):
    crop_foreground: Fraction | None = None
    spacing_mm: Spacing | None = None
    size: Size | None = (256, 256)
    fit: Literal["stretch", "pad", "crop", "keep"] = "stretch"
    pad_to: Literal["square"] | Positive | None = None
    pad_mode: Literal["constant", "reflect", "symmetric", "edge"] = "constant"
    interpolation: Literal["area", "linear", "cubic"] = "area"
    mask_interpolation: Literal["nearest", "soft"] = "nearest"
    scale: Literal["auto", "max", "minmax", "percentiles", "window", "none"] = "auto"
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = (0.5, 99.5)
    window: tuple[float, float] | None = None
    scope: Literal["volume", "image"] = "volume"
    per_channel: bool = True
    normalize: Literal["unit", "dataset", "volume", "image", "minmax", "imagenet"] = "dataset"


class Progressive(Strict):
    initial_scale: Annotated[float, Field(gt=0, le=1)] = 0.5
    delay_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    finetune_fraction: Annotated[float, Field(ge=0, le=1)] = 0.2
    size_increment: Annotated[int, Field(gt=0, le=1024)] = 16

    @model_validator(mode="after")
    def _has_room(self) -> Progressive:
        if self.delay_fraction + self.finetune_fraction > 1:
            raise ValueError(
                f"delay_fraction + finetune_fraction = {self.delay_fraction + self.finetune_fraction:g}, more than the training"
            )
        return self


class Sampling(Strict):
    patch: Size | None = None
    patches_per_image: Annotated[int, Field(gt=0, le=10_000)] = 1
    foreground: Annotated[float, Field(ge=0, le=1)] = 0.5
    class_weights: dict[str, NotNegative] = {}
    weights: Literal["uniform", "foreground"] = "uniform"
    progressive_resizing: Progressive | None = None


def _none_at_all(nodes: Any) -> Any:
    return {} if nodes is None else nodes


Nodes = Annotated[dict[str, Target | None], BeforeValidator(_none_at_all)]
"""What is built, by name; null leaves one out, and in place of the mapping all of them."""


def _none_given(tags: Any) -> Any:
    return [] if tags is None else tags


class Augment(Strict):
    transforms: Nodes


class Loss(Strict):
    parts: dict[str, Target | None]
    weights: dict[str, float]
    deep_supervision: Annotated[list[NotNegative], Field(min_length=1)] | None


class Metric(Strict):
    monitor: str
    mode: Literal["min", "max"]
    cases: dict[str, Target | None]
    volumes: dict[str, Target | None] = {}
    torchmetrics: dict[str, Target | None] = {}


class Scheduler(Strict):
    name: Literal["constant", "one_cycle", "cosine", "poly", "plateau"] = "one_cycle"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    warmup_fraction: Fraction = 0.25
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.001
    power: Annotated[float, Field(gt=0)] = 0.9
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Annotated[int, Field(ge=0)] = 10
    target: Target | None = None
    """A scheduler by its class, in place of `name`; the next three are Lightning's, for it alone."""
    interval: Literal["step", "epoch"] = "epoch"
    frequency: Positive = 1
    monitor: str | None = None


class Benchmark(Strict):
    root: PathText | None = None
    labels: dict[str, str] | None = None


class Trainer(Strict):
    """segkit's own keys, and every keyword of `lightning.Trainer` under its own name and with its own values."""

    channels_last: bool = True
    compile: Literal["auto"] | bool = "auto"
    activation_checkpointing: bool = False
    threads: Literal["auto"] | Annotated[Processes, Field(gt=0)] = "auto"
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    on_nonfinite: Literal["stop", "skip"] = "stop"

    accelerator: Accelerator = "auto"
    devices: Literal["auto", -1] | Positive | list[Annotated[int, Field(ge=0)]] | str = 1
    num_nodes: Literal["auto"] | Positive = 1
    strategy: str | Target = "auto"
    sync_batchnorm: Literal["auto"] | bool = "auto"
    precision: TrainerPrecision = "auto"
    deterministic: bool | Literal["warn"] = True
    benchmark: bool | None = None
    max_epochs: Limit | None = 50
    min_epochs: Positive | None = None
    max_steps: Limit = -1
    min_steps: Positive | None = None
    max_time: str | dict[str, NotNegative] | None = None
    accumulate_grad_batches: Positive = 1
    gradient_clip_val: NotNegative | None = 1.0
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    limit_train_batches: Batches | None = None
    limit_val_batches: Batches | None = None
    limit_test_batches: Batches | None = None
    limit_predict_batches: Batches | None = None
    overfit_batches: Batches = 0.0
    fast_dev_run: bool | Annotated[int, Field(ge=0)] = False
    val_check_interval: Batches | str | dict[str, NotNegative] | None = None
    check_val_every_n_epoch: Positive | None = 1
    num_sanity_val_steps: Annotated[int, Field(ge=-1)] | None = None
    detect_anomaly: bool = False
    inference_mode: bool = True
    reload_dataloaders_every_n_epochs: Annotated[int, Field(ge=0)] = 0
    use_distributed_sampler: bool | None = None
    profiler: Literal["epoch", "simple", "advanced", "pytorch", "xla"] | Target | None = None
    log_every_n_steps: Positive = 10
    enable_checkpointing: bool | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    enable_autolog_hparams: bool = True
    barebones: bool = False
    logger: bool | Target | list[Target] | None = None
    callbacks: Target | list[Target] | None = None
    plugins: Target | list[Target] | None = None
    default_root_dir: PathText | None = None
    model_registry: str | None = None

    @property
    def epochs(self) -> int:
        """At most so many; Lightning's own limit where none is set."""
        return self.max_epochs if self.max_epochs and self.max_epochs > 0 else 1000

    @property
    def keeps_checkpoints(self) -> bool:
        return not (self.fast_dev_run or self.barebones or self.enable_checkpointing is False)


class Inference(Strict):
    batch_size: Literal["auto"] | Positive = 1
    window: Literal["auto"] | Size | None = "auto"
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5
    threshold: Probability | dict[str, Probability] = 0.5
    tta: Literal["none", "horizontal", "flips", "turns"] = "none"
    postprocess: dict[str, Target | None] = {}


class Weights(Strict):
    """Weights of a network that another program trained."""

    path: PathText | None = None
    url: str | None = None
    sha256: Hash | None = None
    schema_: Annotated[str, Field(alias="schema")] = "auto"
    key: str | None = None


class Sweep(Strict):
    """A search: its folder's name, and whether its first failure ends it."""

    name: Annotated[str, AfterValidator(_is_a_word)] | None = None
    fail_fast: bool = False


class Extras(Strict):
    """As in the Lightning-Hydra template."""

    ignore_warnings: bool = False
    enforce_tags: bool = False
    print_config: bool = False


class Train(Strict):
    """`segkit train`, and what a run folder keeps as config.yaml."""

    name: FolderName | None = None
    run: FolderName | None = None
    seed: Seed = 0
    output_dir: PathText = "outputs"
    resume: PathText | None = None
    init_from: PathText | None = None
    freeze: list[str] = []
    lr_scales: dict[str, NotNegative] | None = None
    lr_layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    allow_targets: list[str] = []
    task_name: str = "train"
    tags: Annotated[list[str], BeforeValidator(_none_given)] = []
    extras: Extras = Extras()
    report: bool = True
    own: dict[str, Any] = {}
    data: Data
    benchmark: Benchmark = Benchmark()
    sweep: Sweep = Sweep()
    split: Split = Split()
    folds: Annotated[None, BeforeValidator(_is_typed)] = None
    preprocess: Preprocess = Preprocess()
    sampling: Sampling = Sampling()
    augment: Augment
    model: Target
    module: Target | None = None
    loss: Loss
    metric: Metric
    test: bool = False
    optimizer: Target
    scheduler: Scheduler = Scheduler()
    trainer: Trainer = Trainer()
    callbacks: Nodes = {}
    logger: Nodes = {}
    inference: Inference = Inference()
