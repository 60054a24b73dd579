from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from molsampler.basis import compilation
from molsampler.basis.compilation import keep_kernels, kernel_folder

PROGRAM = """
import os
import torch
torch.func.grad(torch.sin)(torch.ones(()))  # as the energy is checked first: imports the compiler
import torch._dynamo
assert "TORCHINDUCTOR_CACHE_DIR" in os.environ  # torch's own default
from molsampler.basis.compilation import CompiledOrEager
function = CompiledOrEager(lambda x: torch.sin(x) + 2.0 * x)
x = torch.linspace(0.0, 1.0, 64)
assert torch.allclose(function(x), torch.sin(x) + 2.0 * x) and not function.failed
counted = torch._dynamo.utils.counters["inductor"]
print(os.environ["TORCHINDUCTOR_CACHE_DIR"], counted["fxgraph_cache_hit"], counted["fxgraph_cache_miss"])
"""


@pytest.fixture()
def cache(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that whatever the code sets is undone
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    return tmp_path


def test_kernels_are_kept_in_the_users_cache(cache):
    keep_kernels()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(kernel_folder())
    assert kernel_folder().is_dir() and kernel_folder().parent == cache / "molsampler"


def test_the_compilers_own_default_is_nobodys_choice(cache, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    keep_kernels()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(kernel_folder())


def test_another_place_that_is_named_is_left(cache, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    keep_kernels()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere" and not kernel_folder().exists()


def test_another_processor_or_torch_has_a_folder_of_its_own(cache, monkeypatch):
    folders = {kernel_folder()}
    monkeypatch.setattr(compilation, "_processor", lambda: "model name : another")
    folders.add(kernel_folder())
    monkeypatch.setattr(compilation.torch, "__version__", "0.0")
    folders.add(kernel_folder())
    assert len(folders) == 3


def test_a_cache_that_cannot_be_made_costs_nothing_but_time(cache, monkeypatch):
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    keep_kernels()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@pytest.mark.slow
def test_a_second_process_compiles_nothing(cache):
    told = [subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True) for _ in range(2)]
    here = str(kernel_folder())
    assert [run.stdout.split() for run in told] == [[here, "0", "1"], [here, "1", "0"]], told[0].stderr + told[1].stderr
