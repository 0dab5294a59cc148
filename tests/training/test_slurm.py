"""`examples/slurm/train.sbatch` with stand-ins for SLURM's commands."""

import os
import subprocess
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"


@pytest.fixture
def submit(tmp_path):
    """Runs the file as a job whose srun exits with a code; returns its exit code, output, and calls of scontrol."""

    def run(code, times="2026-01-01T00:00:00 2026-01-02T00:00:00", **environment):
        for name, body in {
            "srun": f'shift; export SLURM_PROCID=0 SLURM_LOCALID=0; "$@"; exit {code}',
            "python": 'echo "python $* RANK=$RANK WORLD_SIZE=$WORLD_SIZE $MASTER_ADDR:$MASTER_PORT"',
            "squeue": f'echo "{times}"',
            "scontrol": f'[ "$1" = show ] && echo "first" && echo "second" || echo "$*" >> {tmp_path}/calls',
        }.items():
            command = tmp_path / name
            command.write_text(f"#!/usr/bin/env bash\n{body}\n")
            command.chmod(0o755)
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "first,second", "SLURM_NTASKS": "2"}
        ended = subprocess.run(
            ["bash", FILE, "--data", "a set", "--output_dir", "out"],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **job, **environment},
            capture_output=True,
            text=True,
        )
        calls = tmp_path / "calls"
        return ended.returncode, ended.stdout, calls.read_text() if calls.exists() else ""

    return run


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (75, True), (143, True)])
def test_a_job_that_was_stopped_is_requeued(submit, code, requeued):
    ended, output, calls = submit(code)
    assert ended == code and calls == ("requeue 7\n" if requeued else "")
    assert "scripts/train.py --resume auto --data a set --output_dir out RANK=0 WORLD_SIZE=2 first:20007" in output


def test_restarts_have_a_bound(submit):
    assert submit(143, SLURM_RESTART_COUNT="49")[2] == "requeue 7\n"
    ended, output, calls = submit(75, SLURM_RESTART_COUNT="50")
    assert ended == 75 and calls == "requeue 7\n" and "restart 50 of at most 50" in output


def test_a_time_limit_within_the_signal_is_refused(submit):
    ended, output, calls = submit(75, times="2026-01-01T23:59:00 2026-01-02T00:13:59")
    assert ended == 2 and not calls and "time limit of 899 s must be 900 s" in output and "train.py" not in output
    for times in ("2026-01-01T00:00:00 2026-01-01T00:15:00", "2026-01-01T00:00:00 NONE", "N/A N/A", ""):
        assert submit(0, times=times)[0] == 0, times
