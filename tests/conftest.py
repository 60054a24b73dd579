"""How the suite runs: on all cores, one thread a process; tests marked slow or gpu only where asked for.

`python -m pytest -n 0` (or -p no:xdist) runs everything in this process, for a debugger; so does a test that is named
by itself. Every test that did not run is counted and named at the end.
"""

from __future__ import annotations

import os

import pytest

_FLAGS = {"slow": "--slow", "gpu": "--gpu"}

# Here, before numpy or torch is imported by any other conftest, and for every process that is started from this one:
# one thread each, for two workers of two threads would wait for each other. Where a test asks for two, none spins.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENMM_CPU_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# torch.compile takes the processor's word on its vector instructions: trying each out is six runs of the compiler.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption(
        "--gpu", action="store_true", help="run the tests marked gpu as well, where there is a CUDA device"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before xdist reads its options: a worker a core, eight at most, unless told otherwise."""
    if not config.pluginmanager.hasplugin("xdist") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    option = config.option
    by_itself = len(config.args) == 1 and "::" in config.args[0]
    if option.numprocesses is None and option.dist == "no" and not (option.usepdb or option.collectonly or by_itself):
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        option.numprocesses = min(cores, 8)  # more would wait for the longest test
        option.dist = "worksteal"  # neighbours, which share fixtures, stay together


@pytest.fixture(scope="session", autouse=True)
def own_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder of the session for what torch.compile leaves: no test passes on kernels of an earlier day."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))


@pytest.fixture(scope="session")
def peptide():
    """Alanine dipeptide whose phi and psi can be set; see tests/dipeptide.py."""
    from tests.dipeptide import make_peptide

    return make_peptide()


@pytest.fixture(scope="session")
def mixture():
    from tests.dipeptide import Mixture

    return Mixture()


def _reason(item: pytest.Item, config: pytest.Config) -> str | None:
    for mark, flag in _FLAGS.items():
        if item.get_closest_marker(mark) and not config.getoption(flag):
            return f"marked {mark}: runs with {flag}"
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            return "marked gpu: no CUDA device here"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        reason = _reason(item, config)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    by_reason: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        by_reason.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    if by_reason:
        terminalreporter.section("tests that did not run")
    for reason, names in sorted(by_reason.items()):
        terminalreporter.write_line(f"{len(names)} skipped ({reason}):")
        for name in sorted(names):
            terminalreporter.write_line(f"  {name}")
