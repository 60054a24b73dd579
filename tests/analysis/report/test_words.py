"""What the report's tables hold, and how numbers are written for people."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from molsampler.analysis.report.compared_table import above_floor, compared_rows
from molsampler.analysis.report.page import number, percent, sigmas
from molsampler.analysis.report.summary import basin_rows
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.study import slug


def test_only_clear_excesses_are_marked() -> None:
    entry = {"value": 0.30, "stderr": 0.01, "floor": 0.26, "floor_spread": 0.005}
    assert not above_floor(entry)  # four standard errors
    assert above_floor(entry | {"value": 0.31})
    assert not above_floor(entry | {"stderr": 0.001, "floor_spread": 0.001, "value": 0.28})  # less than a tenth
    assert not above_floor(entry | {"value": None}) and not above_floor({})


def test_the_table_has_each_residue_and_the_mean() -> None:
    entry = {"value": 0.3, "stderr": 0.01, "floor": 0.26, "floor_spread": 0.005}
    names = [
        "ramachandran_tv_ALA2",
        "ramachandran_tv_ALA3",
        "ramachandran_tv",
        "ramachandran_tv_64",
        "torsion_kl_phi_ALA2",
    ]
    metrics = {name: entry for name in names} | {"ess": {"value": 1.0, "stderr": None}}
    rows = compared_rows(metrics, ["ALA2", "ALA3"])
    assert [row.group.split(",")[1].strip() for row in rows[:4]] == ["ALA2", "ALA3", "mean of all", "mean of all"]
    assert len(compared_rows(metrics, ["ALA2"])) == 3 and rows[-1].label == "φ ALA2" and rows[0].raw == "–"


def test_numbers_for_people() -> None:
    assert percent(0.2731, 0.0044) == "27.31 ± 0.44\u00a0%"
    assert percent(0.00271, 0.00012) == "0.271 ± 0.012\u00a0%"
    assert percent(3e-7, 1e-7) == "0.000030 ± 0.000010\u00a0%"  # a rare basin is not one of no error
    assert percent(None) == percent(float("nan")) == "–"
    assert percent(0.5, 0.0) == "50\u00a0%"
    assert sigmas(-1.24) == "−1.2\u00a0σ" and sigmas(-0.01) == "+0.0\u00a0σ" and sigmas(None) == "–"
    assert number(-71.234, 0.012) == "-71.234 ± 0.012"
    assert number(10_000) == "10,000" and number(0.012345) == "0.01235" and number(float("nan")) == "–"
    assert slug("phi > 0") == "phi_positive" and slug("(60, -120)") == "60_-120" and slug("phi ALA2") == "phi_ALA2"


def test_a_lopsided_interval_counts_with_its_side_towards_the_reference():
    """One sample of 10,000 where the reference has 0.05 %: 2.5 standard errors, as `compare` has it; half of the
    interval would make 3.6 of it."""
    span = (0.000017, 0.00033)
    few = SimpleNamespace(
        populations={"alphaL": Estimate(0.0001, 0.5 * (span[1] - span[0]))},
        spans={"alphaL": span},
        free_energies={},
        span=lambda name: span,
    )
    known = SimpleNamespace(
        populations={"alphaL": Estimate(0.0005, 0.00002)}, free_energies={}, span=lambda name: (0.00048, 0.00052)
    )
    findings = SimpleNamespace(samples={"samples": few}, reference=known, found={"alphaL": 1}, heaviest={}, smoothed={})
    (row,) = basin_rows(findings)
    assert row.deviation == pytest.approx((0.0001 - 0.0005) / math.hypot(span[1] - 0.0001, 0.00002))
