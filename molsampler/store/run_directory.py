"""The files of one run, by name; every one is written whole or not at all.

config.toml, metrics.csv, checkpoint.pt, topology.pdb, samples.dcd, weights.npz, resampled.dcd, metrics.json, pictures
and report.html. `md.load("samples.dcd", top="topology.pdb")` opens the samples; weights.npz follows the order of the
frames.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import mdtraj as md
import numpy as np
from openmm import app

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.basis.log_weights import effective_frames, normalised
from molsampler.store.atomic import atomic_path, quiet_c_library, write_json, write_npz, write_text
from molsampler.store.lock import FolderLock
from molsampler.store.pdb import write_pdb

PICTURES = (
    "ramachandran.png",
    "conformations.png",
    "torsions.png",
    "energy.png",
    "weights.png",
    "rmsd.png",
    "training.png",
)
RESULTS = ("topology.pdb", "samples.dcd", "weights.npz", "resampled.dcd", "metrics.json", *PICTURES, "report.html")
ANNEALED = "annealed.npz"  # states that the policy did not make
TEMPERATURES, TEMPERATURES_DCD, TEMPERATURES_PNG = (f"temperatures.{kind}" for kind in ("npz", "dcd", "png"))
"""Of a policy for a range of them."""
OF_SOME = (ANNEALED, TEMPERATURES, TEMPERATURES_DCD, TEMPERATURES_PNG)  # what only some runs leave
RUN_FILES = ("config.toml", "metrics.csv", "checkpoint.pt", *OF_SOME, *RESULTS)


@dataclass(frozen=True)
class Samples:
    """Frames of samples.dcd and, in their order, (n,) float64 arrays.

    log_weights : -inf for samples out of support;  potential_energy : kJ/mol;  log_prob : log R of the target
    group : (n,) int, which independent SMC pass a sample comes from; None where all are independent
    distinct_ancestors : (passes,) int, how many particles of each pass had descendants; None where there are no passes
    temperature : () K, of a policy for a range of temperatures; None where it is the system's own
    """

    trajectory: md.Trajectory
    log_weights: np.ndarray
    potential_energy: np.ndarray
    log_prob: np.ndarray
    group: np.ndarray | None = None
    distinct_ancestors: np.ndarray | None = None
    temperature: np.ndarray | None = None

    @property
    def weights(self) -> np.ndarray | None:
        """(n,) normalised weights; None where no sample lies on the support."""
        return normalised(self.log_weights)


class RunDirectory:
    """A run's folder. Reading needs nothing but the path; a run that writes takes it by `claim` first. Of several ranks
    the first one claims it and writes; on the others what writes does nothing.

    files : names of what a run of this kind leaves in it
    """

    files: ClassVar[tuple[str, ...]] = RUN_FILES

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: FolderLock | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @classmethod
    def claim(
        cls,
        path: str | Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        say: Callable[[str], None] = print,
    ) -> Self:
        """Takes `path` for a run, making it if need be, and holds it until `release` or the end of the process.

        Raises InputError where it holds a run and neither `overwrite` nor `resume` is given, where there is no
        checkpoint to resume from, where another process holds it, or where it cannot be written. An old run's files
        stay until the new one calls `clear`. `say` is told where it cannot be held against others. Ranks call it
        together, and the first one holds the folder.
        """
        run = ranks.first_only(cls._taken)(path, overwrite, resume, say)
        ranks.from_first(None)  # nobody goes on before it is held
        return run or cls(path)

    @classmethod
    def _taken(cls, path: str | Path, overwrite: bool, resume: bool, say: Callable[[str], None]) -> Self:
        run = cls(path)
        if resume and not (run / "checkpoint.pt").is_file():  # before the lock, which makes the folder
            raise InputError(
                f"'{path}' has no checkpoint.pt to go on from: train first, without --resume, or name another run."
            )
        run._lock = FolderLock(run.path, say)
        found = [name for name in cls.files if (run / name).exists()]
        if found and not (overwrite or resume):
            run.release()
            raise InputError(
                f"'{path}' already holds a run ({found[0]} is there): choose another directory with --out, go on "
                "with --resume, or replace the run with --overwrite."
            )
        return run

    @ranks.first_only
    def clear(self) -> None:
        """Remove the files of an earlier run; whatever else lies in the folder stays."""
        for name in self.files:
            (self / name).unlink(missing_ok=True)

    def release(self) -> None:
        """Lets another process claim the directory. Safe to call twice."""
        if self._lock is not None:
            self._lock.release()

    # samples ---------------------------------------------------------------------------------------------------------

    @ranks.first_only
    def write_samples(
        self,
        positions: np.ndarray,
        topology: app.Topology | md.Topology,
        log_weights: np.ndarray,
        potential_energy: np.ndarray,
        log_prob: np.ndarray,
        *,
        group: np.ndarray | None = None,
        distinct_ancestors: np.ndarray | None = None,
        temperature: float | None = None,
        offset: float = 0.5,
    ) -> None:
        """topology.pdb, samples.dcd, weights.npz and resampled.dcd, replacing those of an earlier sampling, whose
        figures, pictures and report go.

        positions : (M, N, 3) nm, finite;  log_weights, potential_energy (kJ/mol), log_prob : (M,)
        group, distinct_ancestors, temperature : see `Samples`
        offset : in [0, 1), the uniform number of systematic resampling
        resampled.dcd is left out where no sample lies on the support.
        """
        mdtop = topology if isinstance(topology, md.Topology) else md.Topology.from_openmm(topology)
        positions = np.asarray(positions, dtype=np.float32)
        arrays = {"log_weights": log_weights, "potential_energy": potential_energy, "log_prob": log_prob}
        arrays = {name: np.asarray(array, dtype=np.float64) for name, array in arrays.items()}
        if group is not None:
            arrays["group"] = np.asarray(group, dtype=np.int64)
        if positions.shape != (len(positions), mdtop.n_atoms, 3) or not np.isfinite(positions).all():
            raise ValueError(
                f"positions must be finite and (M, {mdtop.n_atoms}, 3) nm; their shape is {positions.shape}"
            )
        for name, array in arrays.items():
            if array.shape != (len(positions),) or (name != "potential_energy" and np.isnan(array).any()):
                raise ValueError(f"{name} must be ({len(positions)},) without NaN; its shape is {array.shape}")
        trajectory = md.Trajectory(positions, mdtop)
        weights = normalised(arrays["log_weights"])
        if distinct_ancestors is not None:
            arrays["distinct_ancestors"] = np.asarray(distinct_ancestors, dtype=np.int64)
        if temperature is not None:
            arrays["temperature"] = np.array(temperature, dtype=np.float64)
        # the weights go first: frames beside weights of other frames would not be noticed after a kill
        for name in ("weights.npz", "resampled.dcd", "metrics.json", "report.html", TEMPERATURES_PNG, *PICTURES):
            (self / name).unlink(missing_ok=True)
        write_pdb(self / "topology.pdb", mdtop, positions[0])
        with atomic_path(self / "samples.dcd") as path:
            trajectory.save_dcd(str(path))
        write_npz(self / "weights.npz", **arrays)
        if weights is None:
            (self / "resampled.dcd").unlink(missing_ok=True)
            return
        with atomic_path(self / "resampled.dcd") as path:
            trajectory[resample(weights, offset)].save_dcd(str(path))

    def load_samples(self) -> Samples:
        """What `write_samples` wrote. Raises InputError where it is missing or damaged."""
        self._require_samples()
        try:
            with quiet_c_library():
                trajectory = md.load(str(self / "samples.dcd"), top=str(self / "topology.pdb"))
            with np.load(self / "weights.npz", allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            samples = Samples(trajectory, **arrays)
        except Exception as error:
            raise self._unreadable(error) from error
        for name in ("distinct_ancestors", "temperature"):
            arrays.pop(name, None)
        if any(array.shape != (trajectory.n_frames,) for array in arrays.values()):
            raise InputError(
                f"'{self.path}' has {trajectory.n_frames} frames in samples.dcd and {len(samples.log_weights)} weights "
                "in weights.npz: draw the samples again with `molsampler sample`."
            )
        return samples

    def sampled_at(self) -> float | None:
        """K, of samples of a policy for a range of temperatures; None of others. InputError as `load_samples`, of which
        this reads the weights alone."""
        self._require_samples()
        try:
            with np.load(self / "weights.npz", allow_pickle=False) as archive:
                return float(archive["temperature"]) if "temperature" in archive.files else None
        except Exception as error:
            raise self._unreadable(error) from error

    def _require_samples(self) -> None:
        for name in ("topology.pdb", "samples.dcd", "weights.npz"):
            if not (self / name).is_file():
                raise InputError(
                    f"'{self.path}' holds no samples ({name} is missing): draw some with `molsampler sample`."
                )

    def _unreadable(self, error: Exception) -> InputError:
        return InputError(
            f"The samples in '{self.path}' cannot be read ({error}): draw them again with `molsampler sample`."
        )

    # figures ---------------------------------------------------------------------------------------------------------

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        """metrics.json in strict JSON: {"ess": {"value": ..., "stderr": ...}, ...}; a pair or a bare number will do.

        What is not finite becomes null.
        """
        entries = {}
        for name, metric in metrics.items():
            if isinstance(metric, tuple | list):
                value, stderr = metric
                entries[name] = {"value": value, "stderr": stderr}
            else:
                entries[name] = metric if isinstance(metric, dict) else {"value": metric, "stderr": None}
        write_json(self / "metrics.json", entries)

    def load_metrics(self) -> dict[str, Any]:
        """metrics.json as it stands, {} where there is none. Raises InputError where it is no JSON."""
        path = self / "metrics.json"
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"'{path}' is not JSON ({error}): make it again with `molsampler analyse`.") from error

    @ranks.first_only
    def append_metrics_row(self, row: dict[str, Any]) -> None:
        """One row more for metrics.csv; `row` has "update" and may bring columns that earlier rows had not."""
        rows = self.read_metrics_rows()
        rows.append({name: _cell(value) for name, value in row.items()})
        self._write_rows(rows)

    @ranks.first_only
    def truncate_metrics(self, update: int) -> None:
        """Drops the rows after `update`: those that a killed run wrote after its last checkpoint."""
        rows = self.read_metrics_rows()
        kept = [row for row in rows if row.get("update") and float(row["update"]) <= update]
        if len(kept) != len(rows):
            self._write_rows(kept)

    def read_metrics_rows(self) -> list[dict[str, str]]:
        """The rows of metrics.csv as text by column; a torn line is left out; [] where there is no file."""
        path = self / "metrics.csv"
        if not path.is_file():
            return []
        with open(path, newline="", encoding="utf-8") as handle:
            lines = list(csv.reader(handle))
        return [dict(zip(lines[0], line, strict=True)) for line in lines[1:] if len(line) == len(lines[0])]

    def metrics_columns(self) -> dict[str, np.ndarray]:
        """metrics.csv by column, (rows,) float64 each; NaN where a cell is empty or no number."""
        rows = self.read_metrics_rows()
        names = list(rows[0]) if rows else []
        return {name: np.array([_number(row[name]) for row in rows]) for name in names}

    def _write_rows(self, rows: list[dict[str, str]]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self / "metrics.csv", text.getvalue())


def resample(weights: np.ndarray, offset: float = 0.5, n: int | None = None) -> np.ndarray:
    """Indices of n equally weighted frames, by default as many as the ESS allows: systematic resampling of normalised
    weights (m,).

    At least one; a frame of zero weight is never picked. `offset` in [0, 1).
    """
    n = n or max(1, int(effective_frames(weights)))
    cumulative = np.cumsum(weights, dtype=np.float64)
    return np.searchsorted(cumulative / cumulative[-1], (np.arange(n) + offset) / n, side="right")


def _cell(value: Any) -> str:
    """A number as shortest text that reads back the same; empty for None, NaN and infinities."""
    if isinstance(value, bool | str):
        return str(value)
    if value is None or not math.isfinite(value):
        return ""
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
