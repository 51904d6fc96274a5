"""`segkit doctor` answers whatever is broken, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement

from segkit.cli import doctor
from segkit.system.errors import SegkitError


@pytest.mark.slow
def test_a_working_installation_is_found_healthy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = doctor.main([str(tmp_path)])
    told = capsys.readouterr().out
    assert code == 0, told
    for word in ("torch + torchvision", "import lightning", "processor", "GPU", "C++ compiler", "disk at"):
        assert word in told
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_fails() -> None:
    assert doctor.writable(Path("/proc/nowhere")).state == "failed"


def test_a_key_is_no_folder() -> None:
    with pytest.raises(SegkitError, match="foo=1: segkit doctor takes no keys"):
        doctor.main(["foo=1"])


def test_a_crashing_or_broken_import_is_an_answer() -> None:
    assert doctor.probe("import os; os.abort()")[0] is None
    facts, error = doctor.probe("raise RuntimeError('operator torchvision::nms does not exist')")
    assert facts is None
    assert "torchvision::nms" in error


def test_a_broken_torch_pair_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TORCH", "raise RuntimeError('operator torchvision::nms does not exist')")
    pair, processor = doctor.torch_and_machine()
    assert (pair.state, processor.state) == ("failed", "warning")
    assert "pip install --force-reinstall torch torchvision" in pair.remedy


def test_versions_are_held_against_the_pins() -> None:
    assert doctor.pin(Requirement("numpy>=2")).state == "ok"
    old = doctor.pin(Requirement("numpy>=99"))
    assert old.state == "failed"
    assert old.remedy == 'pip install "numpy>=99"'
    assert doctor.pin(Requirement("no-such-package")).found == "is not installed"


def test_a_gpu_that_torch_cannot_use_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "driver" in doctor.gpu([], "13.2").remedy
    assert "built without CUDA" in doctor.gpu([], None).found
    assert doctor.gpu(["H200, 150 GB"], "13.2").state == "ok"
