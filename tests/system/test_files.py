"""A file is the old one or the new one, also when the disk is full."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segkit.system.errors import SegkitError
from segkit.system.files import atomic_path, remove_leftovers, write_bytes_atomic, write_text_atomic


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def break_while_writing(path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half of")
        raise KeyError("writer broke")


def test_new_text_replaces_the_old_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_text_atomic(path, "old")
    write_text_atomic(path, "new é")
    assert path.read_text(encoding="utf-8") == "new é"
    assert names(path.parent) == ["b.txt"]


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    path.write_text("old")
    with pytest.raises(KeyError):
        break_while_writing(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["best.ckpt"]


def test_half_written_files_are_not_mistaken_for_results(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "best.ckpt") as temporary:
        temporary.write_text("half of")
        assert list(tmp_path.glob("*.ckpt")) == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    script = (
        "import os, signal, pathlib; from segkit.system.files import atomic_path\n"
        f"with atomic_path(pathlib.Path({str(tmp_path / 'last.ckpt')!r})) as t:\n"
        "    t.write_text('half of'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    (tmp_path / "last.ckpt").write_text("old")
    subprocess.run([sys.executable, "-c", script], check=False)
    assert len(names(tmp_path)) == 2
    assert remove_leftovers(tmp_path) == 1
    assert (tmp_path / "last.ckpt").read_text() == "old"
    assert names(tmp_path) == ["last.ckpt"]


def test_a_file_size_limit_is_reported_as_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "big.bin"
    path.write_bytes(b"old")
    script = (
        "import resource, pathlib; from segkit.system.files import write_bytes_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"write_bytes_atomic(pathlib.Path({str(path)!r}), bytes(100_000))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"DiskFull: disk full while writing {path}; the previous file is intact" in done.stderr
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["big.bin"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk_keeps_the_old_file(tiny_disk: Path) -> None:
    path = tiny_disk / "masks.bin"
    write_bytes_atomic(path, b"old")
    with pytest.raises(SegkitError, match=r"disk full while writing .*masks\.bin; the previous file is intact"):
        write_bytes_atomic(path, bytes(1_000_000))
    assert path.read_bytes() == b"old"
    assert names(tiny_disk) == ["masks.bin"]


def test_full_disk_is_recognised_behind_an_error_of_the_writers_own(tiny_disk: Path) -> None:
    """torch.save says 'PytorchStreamWriter failed', a RuntimeError."""

    def stubborn_writer(path: Path) -> None:
        try:
            path.write_bytes(bytes(1_000_000))
        except OSError:
            raise RuntimeError("writer failed") from None

    with pytest.raises(SegkitError, match="nothing was kept"), atomic_path(tiny_disk / "new.bin") as temporary:
        stubborn_writer(temporary)
    assert names(tiny_disk) == []
