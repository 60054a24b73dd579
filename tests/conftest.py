"""Tests marked slow or gpu are skipped unless asked for, and every one of them is counted and named at the end."""

from __future__ import annotations

import pytest
import torch

_FLAGS = {"slow": "--slow", "gpu": "--gpu"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption(
        "--gpu", action="store_true", help="run the tests marked gpu as well, where there is a CUDA device"
    )


def _reason(item: pytest.Item, config: pytest.Config) -> str | None:
    for mark, flag in _FLAGS.items():
        if item.get_closest_marker(mark) and not config.getoption(flag):
            return f"marked {mark}: runs with {flag}"
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
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
        for name in names:
            terminalreporter.write_line(f"  {name}")
