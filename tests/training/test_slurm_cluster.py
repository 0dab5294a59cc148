"""`examples/slurm/train.sbatch` on a SLURM of two nodes, which is started here and keeps to loopback."""

import getpass
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from transformers_samdetr.data.digit_scenes import build_digit_scenes
from transformers_samdetr.training.checkpoint import list_checkpoints

from ..processes import free_port

REPOSITORY = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
MISSING = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install slurm-wlm munge"),
]
SETTINGS = """
ClusterName=loopback
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=127.0.0.1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=other NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP
"""
WITHOUT_GPUS = ("--gpus-per-node=0", "--ntasks-per-node=1", "--cpus-per-task=1")
"""As the file's comment says, on two nodes of a core each."""
STAND_IN = """#!/usr/bin/env bash
# in place of Python: the first start waits to be told to stop, and the second finishes
[ -e "$FOLDER/started-$RANK" ] && exit "$SECOND"
touch "$FOLDER/started-$RANK"
eval "$FIRST"
for _ in $(seq 600); do sleep 0.1; done
"""


class Cluster:
    """munged, slurmctld and two slurmd, as processes of this one."""

    def __init__(self, folder: Path):
        self.folder, self.processes = folder, []
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        ports = [free_port() for _ in range(3)]
        settings = folder / "slurm.conf"
        settings.write_text(SETTINGS.format(folder=folder, ports=ports, user=getpass.getuser()))
        paths = {"PATH": f"{Path(sys.executable).parent}:{PATH}", "PYTHONPATH": str(REPOSITORY / "src")}
        self.environment = {**os.environ, **paths, "SLURM_CONF": str(settings), "GLOO_SOCKET_IFNAME": "lo"}

    def start(self) -> None:
        folder = self.folder
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._start("munged", "--foreground", "--force", *(f"--{o}={folder}/munge.{f}" for o, f in files.items()))
        self._wait(lambda: (folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "-D")
        for node in ("127.0.0.1", "other"):
            self._start("slurmd", "-D", "-N", node)
        self._wait(lambda: self.run("sinfo", "-h", "-o%D %t", check=False) == "2 idle\n", "two idle nodes")

    def _start(self, *command: str) -> None:
        with open(self.folder / "daemons.log", "ab") as log:
            self.processes.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def _wait(self, condition, what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [process.args for process in self.processes if process.poll() is not None]
            text = (self.folder / "daemons.log").read_text()[-2000:]
            assert time.monotonic() < deadline and not dead, f"no {what} in {seconds} s; ended: {dead}\n{text}"
            time.sleep(0.2)

    def run(self, *command: object, check: bool = True, **environment: str) -> str:
        ended = subprocess.run(
            list(map(str, command)),
            env=self.environment | environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or ended.returncode == 0, f"{command}: {ended.stderr}"
        return ended.stdout

    def submit(self, output: Path, *options: str, arguments=(), **environment: str) -> str:
        """The number of a job of the shipped file."""
        command = ("sbatch", "--parsable", f"--output={output}", *WITHOUT_GPUS, *options)
        return self.run(*command, "examples/slurm/train.sbatch", *arguments, **environment).strip()

    def facts(self, job: str) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "--oneliner", "show", "job", job)))

    def wait_for_end(self, job: str, seconds: float = 1200) -> dict[str, str]:
        """What is known of a job that has ended, and is not in the queue again."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        facts = {}

        def has_ended() -> bool:
            facts.update(self.facts(job))
            return facts["JobState"] in ended

        self._wait(has_ended, f"end of job {job}", seconds)
        return facts

    def close(self) -> None:
        self.run("scancel", f"--user={getpass.getuser()}", check=False)
        deadline = time.monotonic() + 60
        while self.run("squeue", "--noheader", check=False).strip() and time.monotonic() < deadline:
            time.sleep(0.2)
        for process in reversed(self.processes):
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own has a name too long for munged's socket
        running = Cluster(Path(folder))
        try:
            running.start()
            yield running
        finally:
            running.close()


@pytest.fixture
def submit_stand_in(cluster, tmp_path):
    """Submits a job whose Python is `STAND_IN`; returns its number and output once both tasks have started."""
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    output = tmp_path / "output"

    def submit(*options, first, second="0", tasks=2, **environment):
        environment |= {"FOLDER": str(tmp_path), "FIRST": first, "SECOND": second}
        environment["PATH"] = f"{tmp_path}:{cluster.environment['PATH']}"
        job = cluster.submit(output, *options, **environment)
        cluster._wait(lambda: len(list(tmp_path.glob("started-*"))) == tasks, "start")
        return job, output

    return submit


RACE = """
end() { while [ ! -e "$FOLDER/left" ]; do sleep 0.1; done; exit 75; }
trap '[ $RANK = 0 ] && end; trap - TERM; touch "$FOLDER/left"; sleep 30' TERM
"""
"""Task 1 leaves its handler of SIGTERM, task 0 ends, and srun ends task 1, which is still shutting down."""


@pytest.mark.parametrize("first", [RACE, ""], ids=["task 1 is slower", "while importing"])
def test_a_job_that_is_told_to_stop_is_requeued_once(cluster, submit_stand_in, first):
    job, output = submit_stand_in(first=first)
    cluster.run("scancel", "--signal=TERM", job)
    facts = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), output.read_text()
    assert output.read_text().count("Stopped as asked (143): requeued") == 1, output.read_text()


def test_slurm_itself_tells_a_job_to_stop_before_its_time_is_up(cluster, submit_stand_in):
    job, output = submit_stand_in("--time=15", "--signal=TERM@895", first=RACE)
    facts = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), output.read_text()


def test_restarts_have_a_bound(cluster, submit_stand_in):
    job, output = submit_stand_in(first="exit 75", second="75", MAX_RESTARTS="2")
    facts = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["Restarts"]) == ("FAILED", "2"), output.read_text()
    assert "not requeued: this was restart 2 of at most 2" in output.read_text()


def test_a_short_time_limit_is_refused_and_does_not_loop(cluster, submit_stand_in):
    job, output = submit_stand_in("--time=10", first="exit 75", tasks=0)
    facts = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["Restarts"], facts["ExitCode"]) == ("FAILED", "0", "2:0"), output.read_text()
    assert "the time limit of 600 s must be" in output.read_text()


def test_the_file_as_it_is_needs_gpus(cluster):
    ended = subprocess.run(
        ["sbatch", "examples/slurm/train.sbatch"], cwd=REPOSITORY, env=cluster.environment, capture_output=True
    )
    assert ended.returncode and b"Invalid generic resource" in ended.stderr


@pytest.fixture(scope="module")
def training(cluster, tmp_path_factory):
    """Submits a training of 3 epochs of 6 steps; returns its number, output and folder."""
    root = tmp_path_factory.mktemp("slurm")
    build_digit_scenes(24, 4).save_to_disk(root / "data")

    def submit(name):
        folder, output = root / name, root / f"{name}.txt"
        arguments = ["--data", root / "data", "--output_dir", folder, "--image_size", 64]
        arguments += ["--backbone_weights", "none", "--model_overrides", '{"num_queries": 20, "encoder_layers": 1}']
        arguments += ["--trackers", "none", "--epochs", 3, "--save_every", 1, "--keep_checkpoints", 2, "--seed", 3]
        return cluster.submit(output, arguments=arguments), output, folder

    return submit


@pytest.fixture(scope="module")
def undisturbed(cluster, training):
    """The weights after a job that nothing has happened to."""
    job, output, folder = training("plain")
    facts = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["Restarts"], facts["NumNodes"]) == ("COMPLETED", "0", "2"), output.read_text()
    assert output.read_text().count("Recipe tiny:") == 1  # one process prints
    return load_file(list_checkpoints(folder / "checkpoints")[0] / "model.safetensors")


DISTURBANCES = {
    "node down": [
        ("scontrol", "update", "NodeName=other", "State=DOWN", "Reason=test"),
        ("scontrol", "update", "NodeName=other", "State=RESUME"),
    ],
    "told to stop": [("scancel", "--signal=TERM", "JOB")],
    "requeued by hand": [("scontrol", "requeue", "JOB")],
}


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_disturbed_job_ends_with_the_weights_of_one_that_was_not(cluster, training, undisturbed, name):
    job, output, folder = training(name)
    cluster._wait(lambda: list_checkpoints(folder / "checkpoints"), "checkpoint", 300)
    for command in DISTURBANCES[name]:
        cluster.run(*(job if word == "JOB" else word for word in command))
        time.sleep(2)
    facts = cluster.wait_for_end(job)
    assert (facts["JobState"], facts["Restarts"]) == ("COMPLETED", "1"), output.read_text()
    assert "Resumes from" in output.read_text(), output.read_text()
    weights = load_file(list_checkpoints(folder / "checkpoints")[0] / "model.safetensors")
    assert weights.keys() == undisturbed.keys() and all(weights[key].equal(undisturbed[key]) for key in weights)
