"""Checkpoints, configs, archives, addresses and names of an attacker: no code runs, nothing outside is read or written, nothing
leaves, and it ends at once in a line that names the file."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import pickle
import shutil
import socket
import struct
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.text import Text

import segkit
from segkit.inference.batch import check_below
from segkit.inference.inputs import InputItem
from segkit.models import checkpoint
from segkit.models.weights import download, files
from segkit.system.errors import SegkitError
from segkit.system.plain import read_json, read_yaml
from segkit.system.progress import SafeConsole
from segkit.training.run_folder import RunFolder
from tests.conftest import Cli

OLD = Path(__file__).parent.parent / "fixtures/v0_1"
GOOD = torch.load(OLD / "finished/checkpoints/best.ckpt", weights_only=True)
SECRET = "secret-4711"
BIG = 10**9
Canary = Callable[[], bool]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that only hostile code makes, in the current folder; and a secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGKIT_SECRET", SECRET)
    before = sorted(path.name for path in tmp_path.parent.iterdir())
    yield tmp_path / "canary"
    assert not (tmp_path / "canary").exists()
    assert sorted(path.name for path in tmp_path.parent.iterdir()) == before


def assert_refused(path: Path, opened: Callable[[], Any]) -> None:
    """In a short first line that names the file, at once."""
    began = time.monotonic()
    with pytest.raises(SegkitError) as error:
        opened()
    first = str(error.value).splitlines()[0]
    assert str(path) in first
    assert len(first) < 1500
    assert SECRET not in str(error.value)
    assert time.monotonic() - began < 60


class Call:
    """Calls a function with arguments, where its pickle is loaded by what runs code."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


# --- cards ---------------------------------------------------------------------------------------------------------------

TARGETS = (
    *("os.system", "builtins.eval", "subprocess.Popen", "torch.load", "hydra.utils.instantiate", "segkit.cli.main.main"),
    *("segkit.data.sources.base.read_card", "segkit.metrics.table.read_table", "pathlib.Path.touch", "importlib.import_module"),
)
PLACES = (
    *("model", "model.activation", "model.anything", "data.source", "data.source.root", "augment.transforms.x", "loss.parts.x"),
    *("metric.cases.x", "metric.cases.x.inner", "metric.volumes.x", "optimizer", "optimizer.lr", "callbacks.extra.x"),
    *("inference.postprocess.x", "inference.threshold", "preprocess.size", "scheduler.power", "trainer.plugins", "name", "run"),
)
RESOLVERS = ("${oc.env:SEGKIT_SECRET}", "${oc.decode:${oc.env:SEGKIT_SECRET}}", "${hydra:runtime.cwd}", "${eval:'1'}", "${now:%Y}")
RESOLVED = ("name", "data.root", "model.encoder_name", "model.activation", "output_dir", "metric.monitor", "data.source._target_")
MODEL, CONFIG = "config.model", "config"


def nested(depth: int) -> Any:
    inner: Any = 1
    for _ in range(depth):
        inner = [inner]
    return inner


def doubled(times: int) -> Any:
    """A few bytes that stand for 2 ** times values: as YAML's anchors and the memo of pickles make them."""
    inner: Any = ["x"]
    for _ in range(times):
        inner = [inner, inner]
    return inner


CARDS: dict[str, tuple[str, Any]] = {
    "mean of text": ("mean", ["a"]),
    "mean without end": ("mean", [float("inf")]),
    "mean that is none": ("mean", None),
    "another mean than the weights'": ("mean", [0.9]),
    "too many channels": ("channels", BIG),
    "negative channels": ("channels", -1),
    "channels of a number that fills memory": ("channels", 1 << 10**6),
    "sd NaN": ("sd", [float("nan")]),
    "sd zero": ("sd", [0.0]),
    "sd negative": ("sd", [-1.0]),
    "labels without overlap": ("labels", {"values": {"0": "background", "1": "a", "2": "b"}}),
    "labels without values": ("labels", {"overlap": False}),
    "overlap of text": ("labels.overlap", "text"),
    "labels of a list": ("labels", ["background", "liver"]),
    "labels of no number": ("labels.values", {"0": "background", "x": "a", "y": "b"}),
    "labels that move the cursor": ("labels.values", {"0": "background", "1": "a\x1b[2J", "2": "b"}),
    "config none": (CONFIG, None),
    "config of a list": (CONFIG, [1]),
    "config of text": (CONFIG, "text"),
    "empty config": (CONFIG, {}),
    "split of text": ("split", "text"),
    "split of lists": ("split.train", [[1], None]),
    "split that goes on and on": ("split.train", doubled(60)),
    "dims": ("dims", 4),
    "format": ("format", "x"),
    "tensor for a number": ("channels", torch.ones(1)),
    "key that nobody knows": ("unknown", 1),
    "wide": (f"{MODEL}.widths", [10**6, 10**6]),
    "wider": (f"{MODEL}.widths", [10**12, 10**12]),
    "deep": (f"{MODEL}.widths", [4] * 10**6),
    "many convolutions": (f"{MODEL}.convs", BIG),
    "large images": ("config.preprocess.size", [10**6, 10**6]),
    "large window": ("config.inference.window", [10**6, 10**6]),
    "another network": (f"{MODEL}.concat", "sideways"),
    "name outside": ("config.name", "../../outside"),
    "absolute run": ("config.run", "/outside"),
    "list within lists": ("calibration.kept", None),
    "post-processing that fills memory": (
        "config.inference.postprocess",
        {"x": {"_target_": "torch.nn.Embedding", "num_embeddings": 10**6, "embedding_dim": 10**6}},
    ),
    "part of a network that fills memory": (f"{MODEL}.odd", {"_target_": "torch.nn.Linear", "in_features": 10**6, "out_features": 10**6}),
}


CARDS |= {"nested": ("versions", nested(100)), "a billion laughs": ("versions", doubled(60))}


def put(content: dict[str, Any], place: str, value: Any) -> None:
    *way, last = place.split(".")
    for key in way:
        content = content.setdefault(key, {}) if isinstance(content.get(key), dict) or key not in content else {}
    content[last] = value


def saved(path: Path, place: str, value: Any) -> Path:
    """A sound checkpoint, but for one value of its card."""
    content = {**GOOD, "segkit": copy.deepcopy(GOOD["segkit"])}
    put(content["segkit"], place, value)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", CARDS)
def test_a_card_that_lies_is_refused_before_anything_is_built(name: str, canary: Path) -> None:
    path = saved(canary.with_name("evil.ckpt"), *CARDS[name])
    assert_refused(path, lambda: segkit.load(path))


@pytest.mark.parametrize("place", PLACES)
def test_no_target_of_a_card_is_called_wherever_it_stands(place: str, canary: Path) -> None:
    for target in TARGETS[PLACES.index(place) % 5 :: 5]:
        node = {"_target_": target, "command": f"touch {canary}", "args": ["touch", str(canary)], "path": str(canary), "_partial_": False}
        path = saved(canary.with_name("evil.ckpt"), f"config.{place}", node)
        try:
            segkit.load(path)  # what segkit has no key for is dropped
        except SegkitError as error:
            assert str(path) in str(error).splitlines()[0]  # noqa: PT017


@pytest.mark.parametrize("text", RESOLVERS)
def test_no_resolver_of_a_card_is_resolved(text: str, canary: Path) -> None:
    for place in RESOLVED[RESOLVERS.index(text) % 2 :: 2]:
        path = saved(canary.with_name("evil.ckpt"), f"config.{place}", text)
        try:
            opened = segkit.load(path)
        except SegkitError as error:
            assert SECRET not in str(error)  # noqa: PT017
        else:
            assert SECRET not in repr((opened.metadata, opened.config))


@pytest.mark.slow
def test_every_command_refuses_it(canary: Path, segkit_in: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = saved(canary.with_name("evil.ckpt"), "channels", BIG)
    shutil.copytree(OLD / "killed", "run")
    shutil.copyfile(bad, "run/checkpoints/last.ckpt")
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["data"]["root"], config["output_dir"] = str(OLD / "data"), "outputs"
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    data = ("data=folder", f"data.root={OLD / 'data'}", "data.labels={0: background, 1: liver, 2: tumor}", "model.widths=[4,8]")
    lines = (
        *(("evaluate", f"ckpt={bad}"), ("predict", f"ckpt={bad}", f"input={OLD / 'data/images'}", "output=out")),
        *(("predict", f"ckpt=[{bad},{OLD / 'finished'}]", f"input={OLD / 'data/images'}", "output=out"), ("calibrate", f"ckpt={bad}")),
        *(("share", f"ckpt={bad}", "output=shared"), ("train", f"init_from={bad}", *data), ("train", "resume=run")),
    )
    for line in lines:
        done = segkit_in(*line)
        assert done.returncode == 2, line
        assert "Traceback" not in done.stderr
        assert "has damaged metadata: channels needs at most 4096, got 1000000000" in done.stderr, line


# --- weights, pickles and archives ------------------------------------------------------------------------------------------


def with_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        state = dict(GOOD["state_dict"])
        torch.save({**GOOD, "state_dict": change(state) or state}, path)

    return write


FIRST = next(name for name, value in GOOD["state_dict"].items() if name.startswith("model.network") and value.ndim == 4)


def replaced(make: Callable[[torch.Tensor], Any]) -> Callable[[Path], None]:
    return with_weights(lambda state: state.update({FIRST: make(state[FIRST])}))


def pickled(content: Any, protocol: int = 2) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(pickle.dumps(content, protocol))


def torch_saved(make: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda path: torch.save(make(), path)


def rezipped(change: Callable[[zipfile.ZipFile, Mapping[str, bytes]], None], kind: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(OLD / "finished/checkpoints/best.ckpt") as source:
            entries = {name: source.read(name) for name in source.namelist()}
        with zipfile.ZipFile(path, "w", kind) as target:
            change(target, entries)

    return write


def bomb(target: zipfile.ZipFile, entries: Mapping[str, bytes]) -> None:
    for name, data in entries.items():
        target.writestr(name, bytes(10**8) if name.endswith("data/0") else data)


def with_link(target: zipfile.ZipFile, entries: Mapping[str, bytes]) -> None:
    for name, data in entries.items():
        if name.endswith("data.pkl"):
            info = zipfile.ZipInfo(name)
            info.external_attr = 0o120777 << 16
            target.writestr(info, "/etc/passwd")
        else:
            target.writestr(name, data)


def outside(target: zipfile.ZipFile, entries: Mapping[str, bytes]) -> None:
    for name, data in entries.items():
        target.writestr(f"../../{name}", data)


def tarred(kind: bytes, compress: str = "") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, f"w:{compress}") as archive:
            for name in ("storages", "tensors", "pickle", "../../canary"):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "/etc/passwd"
                archive.addfile(info)

    return write


def safetensors(header: Any, body: bytes = b"", length: int | None = None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)

    return write


def inside_each_other(path: Path) -> None:
    data = (OLD / "finished/checkpoints/best.ckpt").read_bytes()
    for _ in range(5):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("archive.ckpt", data)
        data = out.getvalue()
    path.write_bytes(data)


TOUCH = ("touch canary",)
WEIGHTS: dict[str, Callable[[Path], None]] = {
    "state dict of a list": with_weights(lambda state: list(state.values())),
    "state dict of numbers": with_weights(lambda state: dict.fromkeys(state, 1)),
    "no weights": with_weights(lambda state: {"other": torch.ones(3)}),
    "NaN": replaced(lambda value: value * float("nan")),
    "infinite": replaced(lambda value: value + float("inf")),
    "complex": replaced(lambda value: value.to(torch.complex64)),
    "text": replaced(lambda value: "text"),
    "other shape": replaced(lambda value: value[:, :, :1]),
    "no values": replaced(lambda value: value.to("meta")),
    "sparse": replaced(lambda value: value.to_sparse()),
    "expanded to terabytes": replaced(lambda value: torch.ones(1).expand(10**12)),
    "calls os.system": torch_saved(lambda: {"state_dict": Call(os.system, *TOUCH)}),
    "calls eval": torch_saved(lambda: Call(eval, "open('canary', 'w')")),
    "calls eval in the card": torch_saved(lambda: {**GOOD, "segkit": {**GOOD["segkit"], "versions": Call(eval, "open('canary', 'w')")}}),
    "calls open": pickled(Call(open, "canary", "w")),
    "calls through a protocol": pickled({"state_dict": Call(os.system, *TOUCH)}, 5),
    "calls torch.load": torch_saved(lambda: Call(torch.load, "other.ckpt")),
    "bytes without end": torch_saved(lambda: {"state_dict": Call(bytearray, 10**15), "segkit": {}}),
    "a billion laughs": torch_saved(lambda: {**GOOD, "segkit": {**GOOD["segkit"], "split": doubled(60)}}),
    "decompression bomb": rezipped(bomb, zipfile.ZIP_DEFLATED),
    "link in an archive": rezipped(with_link),
    "names that lead outside": rezipped(outside),
    "archives in archives": inside_each_other,
    "tar of symbolic links": tarred(tarfile.SYMTYPE),
    "tar of hard links": tarred(tarfile.LNKTYPE),
    "tar of devices, gzipped": tarred(tarfile.CHRTYPE, "gz"),
    "gzip bomb": lambda path: path.write_bytes(gzip.compress(bytes(10**7))),
    "safetensors header without end": safetensors(b"{", length=2**62),
    "safetensors outside its file": safetensors({"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}),
    "safetensors of overlapping tensors": safetensors(
        {name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for name in "ab"}, bytes(4)
    ),
    "safetensors nested": safetensors(b'{"a":' * 5000),
    "git-lfs pointer": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "no bytes": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_pickles_and_archives_that_lie(name: str, canary: Path) -> None:
    path = canary.with_name("evil.ckpt")
    WEIGHTS[name](path)
    assert_refused(path, lambda: segkit.load(path))


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_same_as_weights_to_start_from(name: str, canary: Path) -> None:
    path = canary.with_name("evil.pt")
    WEIGHTS[name](path)
    model, _, _ = checkpoint.load_model(OLD / "finished")
    before = copy.deepcopy(model.state_dict())
    try:
        fresh = checkpoint.init_weights(model, path, ("liver", "tumor"))
    except SegkitError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    else:
        assert fresh, "a part that does not fit is newly initialized, and named"


def test_archives_of_arrays_do_not_unpack_without_end(canary: Path) -> None:
    path = canary.with_name("reference.npz")
    np.savez_compressed(path, input=np.zeros(10**8, np.uint8), output=np.zeros(3))
    with pytest.raises(SegkitError, match=r"reference\.npz claims to unpack to"):
        files.check_archive(path)


# --- files of a run folder ----------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))
YAMLS = {
    "a billion laughs": LAUGHS,
    "merge keys": "a: &a {b: 1}\nc: {<<: [*a, *a]}\n",
    "a loop": "a: &a [*a]\n",
    "python objects": "name: !!python/object/apply:os.system ['touch canary']\n",
    "python names": "name: !!python/name:os.system\n",
    "deep": "a: " + "[" * 5000,
    "deep and closed": "a: " + "[" * 300 + "]" * 300,
    "a number without end": f"seed: {'9' * 5000}\n",
    "no mapping": "- a\n",
    "no text": "\0\1\2",
    "a date that is none": "a: 2026-99-99\n",
    "nothing": "",
}


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_of_a_run_folder(name: str, canary: Path) -> None:
    path = canary.with_name("config.yaml")
    path.write_text(YAMLS[name])
    assert_refused(path, lambda: read_yaml(path))
    assert_refused(path, lambda: RunFolder(path.parent).config([]))


@pytest.mark.parametrize("text", ["[1]", "{", '{"state": 3}', '{"state": "running", "pid": ' + "9" * 5000 + "}", '{"a":' * 2000, "\udcff"])
def test_json_of_a_run_folder(text: str, canary: Path) -> None:
    path = canary.with_name("status.json")
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert_refused(path, RunFolder(path.parent).is_unfinished)


def test_targets_and_resolvers_of_a_saved_config(canary: Path) -> None:
    for place, value in [(place, {"_target_": "os.system", "command": "touch canary"}) for place in PLACES] + [("name", RESOLVERS[0])]:
        config = yaml.safe_load((OLD / "finished/config.yaml").read_text())
        put(config, place, value)
        canary.with_name("config.yaml").write_text(yaml.safe_dump(config))
        try:
            restored = RunFolder(canary.parent).config([])
        except SegkitError as error:
            assert str(canary.with_name("config.yaml")) in str(error).splitlines()[0]  # noqa: PT017
        else:
            assert SECRET not in repr(restored)


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a/../../outside", ".."])
def test_the_name_of_a_case_does_not_lead_out_of_the_output_folder(name: str, tmp_path: Path) -> None:
    item = InputItem(name, tmp_path / "image.png")
    with pytest.raises(SegkitError, match="is not below output"):
        check_below([item], tmp_path / "out")


def test_a_class_name_is_no_path(canary: Path, segkit_in: Cli) -> None:
    """Masks of a class `../../canary` stay where masks are written."""
    path = saved(canary.with_name("evil.ckpt"), "labels.values", {"0": "background", "1": "../../canary", "2": "/canary"})
    options = ("probabilities=true", "overlays=true", "formats=[labelme]", "hardware.accelerator=cpu")
    done = segkit_in("predict", f"ckpt={path}", f"input={OLD / 'data/images'}", "output=out", *options)
    assert "Traceback" not in done.stderr
    assert {entry.name for entry in canary.parent.iterdir()} <= {"evil.ckpt", "out", "outputs"}


def test_control_characters_are_printed_as_text() -> None:
    out = io.StringIO()
    console = SafeConsole(file=out, soft_wrap=True)
    console.print("a\x1b[2J\x9b1A\tb", markup=False)
    console.print(Text("c\x1b]0;title\x1b\\"))
    assert "\x1b" not in out.getvalue()
    assert "\x9b" not in out.getvalue()
    assert "a\\x1b[2J" in out.getvalue()


# --- addresses ------------------------------------------------------------------------------------------------------------------


class Evil(BaseHTTPRequestHandler):
    """What a server may do to its clients, by path."""

    seen: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append(f"{self.path}\n{self.headers}")
        try:
            getattr(self, self.path.split("/")[1].split(".")[0].replace("-", "_"))()
        except OSError:  # the client has had enough
            self.close_connection = True

    def log_message(self, *args: Any) -> None: ...

    def head(self, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def to_file(self) -> None:
        self.head(302, Location="file:///etc/passwd")

    def in_circles(self) -> None:
        self.head(302, Location=f"/in-circles/{time.monotonic()}.pt")

    def to_nowhere(self) -> None:
        self.head(302, Location="http://127.0.0.1:1/weights.pt")

    def to_data(self) -> None:
        self.head(302, Location="data:text/plain,hello")

    def without_end(self) -> None:
        self.head()
        while True:
            self.wfile.write(bytes(2**16))

    def too_long(self) -> None:
        self.head(Content_Length=str(10**18))
        self.wfile.write(bytes(100))

    def cut_short(self) -> None:
        self.head(Content_Length="1000")
        self.wfile.write(bytes(10))
        self.close_connection = True

    def no_number(self) -> None:
        self.head(Content_Length="many")
        self.wfile.write(bytes(10))

    def drips(self) -> None:
        self.head(Content_Length="1000000")
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def drips_headers(self) -> None:
        while True:
            self.wfile.write(b"X")
            time.sleep(0.05)

    def says_nothing(self) -> None:
        self.rfile.read(10**6)

    def page(self) -> None:
        self.head()
        self.wfile.write(b"<html>log in</html>")

    def fails(self) -> None:
        self.head(500)

    def chunks(self) -> None:
        self.head(Transfer_Encoding="chunked")
        self.wfile.write(b"fffffffffffffff\r\nabc")
        self.close_connection = True

    def asks(self) -> None:
        self.head(401, WWW_Authenticate='Basic realm="${SEGKIT_SECRET}"')


ADDRESSES = [name.replace("_", "-") for name in vars(Evil) if name not in ("do_GET", "log_message", "head", "seen") and name[0] != "_"]


@pytest.fixture
def evil(monkeypatch: pytest.MonkeyPatch, canary: Path) -> Iterator[str]:
    for name, value in (("TIMEOUT_SECONDS", 0.3), ("LARGEST", 2**22), ("SLOWEST", 10**4)):
        monkeypatch.setattr(download, name, value)
    monkeypatch.setenv("SEGKIT_CACHE", str(canary.with_name("cache")))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Evil)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.socket.close()


@pytest.mark.parametrize("name", ADDRESSES)
def test_servers(name: str, evil: str, canary: Path) -> None:
    url = f"{evil}/{name}/weights.pt"
    with pytest.raises(SegkitError) as error:
        download.fetch(url)
    assert url in str(error.value).splitlines()[0]
    assert not any(path.suffix == ".pt" for path in canary.with_name("cache").rglob("*"))
    assert not any(SECRET in request or str(Path.home()) in request for request in Evil.seen)


@pytest.mark.parametrize(
    "address",
    [
        *("ftp://127.0.0.1/w.pt", "data:text/plain,hello", "javascript:alert(1)", "gopher://127.0.0.1/", "//127.0.0.1/w.pt"),
        *("http://", "http://[::1", "http://127.0.0.1:99999/w.pt", "http://127.0.0.1\r\nX: y/w.pt", "http://127.0.0.1:1/w.pt"),
        *("file:///nowhere/w.pt", "http://127.0.0.1:1/../../etc/passwd", "http://a\0b/w.pt"),
    ],
)
def test_addresses_of_other_kinds(address: str, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKIT_CACHE", str(canary.with_name("cache")))
    with pytest.raises(SegkitError):
        download.fetch(address)


@pytest.mark.parametrize("name", ["../../etc", "a/b/c", "a/b@../../x", "-x/y", "a b/c", "a/${oc.env:SEGKIT_SECRET}", "/etc/passwd", ""])
def test_names_on_the_hub(name: str, canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any) -> Any:
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SegkitError) as error:
        checkpoint.find(f"hf://{name}")
    assert f"hf://{name}" in str(error.value)
    assert SECRET not in str(error.value)


def test_a_card_fetches_nothing(evil: str, canary: Path) -> None:
    Evil.seen.clear()
    for place in ("model.weights", "model.encoder_weights"):
        for value in ({"url": f"{evil}/page/w.pt"}, f"{evil}/page/w.pt"):
            path = saved(canary.with_name("evil.ckpt"), f"config.{place}", value)
            try:
                segkit.load(path)
            except SegkitError as error:
                assert str(path) in str(error).splitlines()[0]  # noqa: PT017
    assert not Evil.seen


def test_a_shared_folder_whose_card_was_exchanged_is_refused(canary: Path) -> None:
    folder = segkit.save(OLD / "finished", canary.with_name("shared"))
    card = read_json(folder / "segkit.json")
    card["config"]["inference"]["tta"] = "flips"
    (folder / "segkit.json").write_text(json.dumps(card))
    assert_refused(folder / "model.safetensors", lambda: segkit.load(folder))
