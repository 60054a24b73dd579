"""Words out: notes, verdicts, refusals, and the exit status that goes with them."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from molsampler.basis import ranks
from molsampler.basis.errors import InputError
from molsampler.cli.launch import LOST, STOPPED, Several, launch
from molsampler.runs.molecule import Job

NOT_READ = 141
"""128 + 13: what a shell says of a program whose output nobody reads any more."""


class Stopped(Exception):
    """Training was interrupted and saved."""


def guarded(program: str, act: Callable[[], object]) -> int:
    """Run; an InputError becomes its sentence on standard error and status 2, an interrupted training status 130. What
    all ranks have to say one of them says. A rank ends here: its status is the process's."""
    status = _status(program, act)
    if ranks.size() > 1:
        ranks.end(status)
    return status


def _status(program: str, act: Callable[[], object]) -> int:
    try:
        ranks.join()
        try:
            act()
        finally:
            sys.stdout.flush()  # what is still to be written fails here, if at all, and not as Python ends
    except Several as wanted:
        return launch(guarded, program, wanted)
    except InputError as error:
        if ranks.claim("refusal"):
            print(f"{program}: {error}", file=sys.stderr, flush=True)
        return 2
    except Stopped:
        return STOPPED
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return NOT_READ
    except ranks.Lost as error:
        if ranks.SUPERVISED not in os.environ and ranks.claim("loss"):  # else the launcher says it, and knows more
            print(f"{program}: {error}", file=sys.stderr, flush=True)
        return LOST
    return 0


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has closed it, as `| head` does; what is left goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except OSError:  # it is no file: somebody has put something else in its place
        return False
    asked = select.poll()
    asked.register(output, 0)
    gone = any(event & select.POLLERR for _, event in asked.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return gone


def printer(quiet: bool) -> Callable[[str], None]:
    """Where notes go: standard output, line by line, or nowhere."""
    return (lambda text: None) if quiet else ranks.first_only(lambda text: print(text, flush=True))


@ranks.first_only
def print_verdict(job: Job, metrics: dict) -> None:
    """The few figures that a user wants to see at once, and where the rest is."""

    def figure(name: str, scale: float = 1.0) -> str:
        entry = metrics.get(name) or {}
        if entry.get("value") is None:
            return "unknown"
        error = f" +- {scale * entry['stderr']:.2g}" if entry.get("stderr") is not None else ""
        return f"{scale * entry['value']:.4g}{error}"

    print(f"ESS {figure('ess', 100.0)} % of {figure('samples')} samples")
    print(f"log Z {figure('log_z_estimate')} by importance weights, {figure('log_z_running')} by those of training")
    guide = f"; scores of the guide {figure('guide_scores')}" if job.trainer.config.policy.guide else ""
    print(f"energy evaluations {figure('evaluations')}, of MD {figure('evaluations_md')}{guide}")
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in job.timings.items())
    print(f"training {job.trainer.seconds:.0f} s; {stages}")
    print(f"results: {job.run.path}/report.html, samples.dcd with topology.pdb, weights.npz, metrics.json")
