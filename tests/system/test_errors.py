"""Errors of the machine, as one line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from segkit.system.errors import of_machine


def on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.00 GiB.")


def without_workspace() -> None:
    raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")


@pytest.mark.parametrize(
    "allocate", [lambda: np.empty(10**16), lambda: torch.empty(10**16), lambda: bytearray(10**18), on_a_gpu, without_workspace]
)
def test_memory_that_does_not_suffice_names_what_to_make_smaller(allocate: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        allocate()
    line = of_machine(raised.value)
    assert line.startswith("out of memory")
    assert "data.batch_size" in line
    assert "inference.window" in line


def test_other_errors_are_not_explained() -> None:
    assert of_machine(RuntimeError("shapes differ")) == ""
