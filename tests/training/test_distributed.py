"""Several processes compute what one does: gradients, weights, order, evaluation; a lost one stops the others."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator, PartialState
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from transformers_samdetr import SamDetrImageProcessor, loss
from transformers_samdetr.data.dataset import DetectionDataset
from transformers_samdetr.evaluation import evaluate_detector
from transformers_samdetr.training.checkpoint import list_checkpoints
from transformers_samdetr.training.interruption import EXIT_REQUEUE

from ..models import SMALL_BACKBONE, targets, tiny_model
from ..processes import Processes, free_port, run
from ..training_runs import NAMES, pictures, run_training

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "examples" / "accelerate_configs"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}

VARIANTS = {
    "single scale": {"num_denoising_groups": 2},
    "last layer loss": {"num_denoising_groups": 2, "auxiliary_loss": False},
    "multi-scale": {
        "num_denoising_groups": 2,
        "smca": True,
        "num_feature_levels": 3,
        "backbone_config": {**SMALL_BACKBONE, "out_indices": [2, 3, 4]},
    },
}
OBJECTS = {"different numbers": ((4, 1), (2, 0)), "none on one": ((3, 2), (0, 0))}
"""Objects in each picture of each of two processes."""


def noise_by_content(labels, boxes, config):
    """In place of random noise, which a batch of another shape would draw differently: a function of each object."""
    share = (boxes.sum(-1, keepdim=True) * 1000).frac()
    return (labels + 1) % config.num_labels, (boxes * (0.8 + 0.4 * share)).clamp(0, 1)


def train(variants, dtype, steps):
    """For each variant and number of objects: gradients of the first step, weights after the last."""
    loss.add_noise = noise_by_content
    accelerator = Accelerator(cpu=True)
    results = {}
    for variant in variants:
        for name, objects in OBJECTS.items():
            model = tiny_model(**{"backbone_config": SMALL_BACKBONE, **VARIANTS[variant]}).train().to(dtype)
            optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
            results[variant, name] = train_one(accelerator, model, optimizer, objects, dtype, steps)
    return results


def train_one(accelerator, model, optimizer, objects, dtype, steps):
    # DistributedDataParallel raises in the second step if a parameter was not used in the first
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    mine = slice(accelerator.process_index, None, accelerator.num_processes)
    counts = [count for pictures in zip(*objects, strict=True) for count in pictures]
    pictures = torch.randn(len(counts), 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    labels = targets(*counts)
    for step in range(steps):
        accelerator.backward(wrapped(pixel_values=pictures[mine], labels=labels[mine]).loss)
        if step == 0:
            gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.requires_grad}
        optimizer.step()
        optimizer.zero_grad()
    return gradients, {name: value.numpy() for name, value in model.state_dict().items()}


def relative_difference(ours, theirs):
    """Norm of the difference of all tensors, over the norm of `theirs`."""
    assert ours.keys() == theirs.keys()
    difference = sum(np.square(ours[name] - value, dtype=np.float64).sum() for name, value in theirs.items())
    return float(np.sqrt(difference / sum(np.square(value, dtype=np.float64).sum() for value in theirs.values())))


def compare_two_processes_with_one(variants, dtype, steps):
    (alone,) = run(train, variants, dtype, steps)
    for together in run(train, variants, dtype, steps, count=2, seconds=120):
        for case, (gradients, weights) in alone.items():
            others, other_weights = together[case]
            gap = relative_difference(others, gradients)
            moved = max(np.abs(other_weights[name] - value).max() for name, value in weights.items())
            print(f"{case}, {dtype}: gradients {gap:.1e} relative, weights {moved:.1e} after {steps} steps")
            yield gap, moved


def test_two_processes_and_one_in_double_precision():
    for gap, moved in compare_two_processes_with_one(["multi-scale"], torch.float64, 20):
        assert gap <= 1e-12 and moved <= 1e-8


def test_two_processes_and_one_in_single_precision():
    for gap, _ in compare_two_processes_with_one(["single scale"], torch.float32, 2):
        assert gap <= 1e-5


@pytest.mark.slow
def test_every_variant_on_two_processes_and_one():
    for gap, moved in compare_two_processes_with_one(list(VARIANTS), torch.float64, 20):
        assert gap <= 1e-12 and moved <= 1e-8
    for gap, _ in compare_two_processes_with_one(list(VARIANTS), torch.float32, 2):
        assert gap <= 1e-5


def trained_weights(folder):
    return load_file(folder / "model.safetensors")


def largest_difference(ours, theirs):
    differences = {name: (ours[name] - value).abs().max().item() for name, value in theirs.items()}
    print("largest difference", max((value, name) for name, value in differences.items()))
    return max(differences.values())


# random noise is drawn for a micro-batch, and two halves have two: without noise the weights can be compared
PLAIN = {
    "model": {"num_denoising_groups": 0, "dropout": 0.0, "input_projection_norm": False},
    "augmentation": "none",
    "learning_rate": 1e-4,
    "number": 25,  # 7 steps an epoch, the last of a single picture: one of two processes has none
    "every": 4,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    run(partial(run_training, folder, **PLAIN), seconds=120)
    return trained_weights(folder)


def test_training_of_21_steps_on_two_processes_is_that_on_one(alone, tmp_path):
    run(partial(run_training, tmp_path, **PLAIN), count=2, seconds=120)
    assert largest_difference(trained_weights(tmp_path), alone) <= 1e-4


def test_one_of_two_processes_is_killed(alone, tmp_path):
    train = partial(run_training, tmp_path, **PLAIN)
    with Processes(partial(train, pause=0.1), count=2) as processes:
        wait_for(lambda: list_checkpoints(tmp_path / "checkpoints"), processes)
        processes.processes[1].kill()
        killed = time.monotonic()
        good, error = processes.outcome(0, seconds=60)
        print(f"the other one stopped after {time.monotonic() - killed:.1f} s")
    assert (
        not good and error.startswith("LostProcess: Process 0 of 2 has lost another one") and "--resume auto" in error
    )
    assert run(train, count=2, seconds=120) == [True, True]
    assert largest_difference(trained_weights(tmp_path), alone) <= 1e-4


def test_another_number_of_processes_goes_on_in_the_same_order(alone, tmp_path):
    with Processes(partial(run_training, tmp_path, pause=0.1, **PLAIN), count=2) as processes:
        wait_for(lambda: list_checkpoints(tmp_path / "checkpoints"), processes)
        processes.processes[0].terminate()  # one is told to stop; both do, after the same step
        outcomes = [processes.outcome(rank) for rank in (0, 1)]
        assert [process.exitcode for process in processes.processes] == [EXIT_REQUEUE] * 2, outcomes
    # 4 pictures a step cannot be shared by 3: refused with the reason, and 1 process goes on as 2 would have
    with Processes(partial(run_training, tmp_path, **PLAIN), count=3) as processes:
        good, error = processes.outcome(0)
        assert not good and "batch_size=4 must be a multiple of processes" in error
    assert run(partial(run_training, tmp_path, **PLAIN)) == [True]
    assert largest_difference(trained_weights(tmp_path), alone) <= 1e-4


def wait_for(condition, processes, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline and all(process.is_alive() for process in processes.processes)
        time.sleep(0.05)


def evaluate():
    """All numbers of an untrained model on fifteen pictures, in batches of two."""
    processor = SamDetrImageProcessor(size={"height": 64, "width": 64})
    PartialState(cpu=True)
    model = tiny_model(backbone_config=SMALL_BACKBONE, num_queries=100)
    return evaluate_detector(
        model, processor, DetectionDataset(pictures(15, 2, sizes=(24, 56))), NAMES, batch_size=2
    ).compute()


def test_evaluation_on_two_and_three_processes_is_that_on_one():
    (alone,) = run(evaluate)
    assert alone["AR100"] > 0
    for count in (2, 3):
        assert run(evaluate, count=count) == [alone] * count


def gradients_of_shards():
    """Gradients of a model that FSDP2 shards as examples/accelerate_configs/fsdp2.yaml says, gathered again."""
    loss.add_noise = noise_by_content
    rank = PartialState(cpu=True).process_index
    model = tiny_model(**{"backbone_config": SMALL_BACKBONE, **VARIANTS["multi-scale"]}).train().double()
    mesh = init_device_mesh("cpu", (2,))
    layers = ("SamDetrEncoderLayer", "SamDetrDecoderLayer")
    for module in [module for module in model.modules() if type(module).__name__ in layers] + [model]:
        fully_shard(module, mesh=mesh)
    counts = [count for pair in zip(*OBJECTS["none on one"], strict=True) for count in pair]
    images = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    model(pixel_values=images[rank::2], labels=targets(*counts)[rank::2]).loss.backward()
    return {name: p.grad.full_tensor().numpy() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.slow
def test_gradients_of_fsdp2_are_those_of_one_process():
    """Of torch itself: Accelerate leaves FSDP aside on CPUs."""
    (alone,) = run(train, ["multi-scale"], torch.float64, 1)
    for gradients in run(gradients_of_shards, count=2, seconds=120):
        assert relative_difference(gradients, alone["multi-scale", "none on one"][0]) <= 1e-12


def launch(folder, machines, processes, resume=None):
    """A launcher for each machine of this host, with static rendezvous; returns them."""
    port, launchers = free_port(), []
    for rank in range(machines):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CONFIGS / "multi_cpu.yaml"]
        command += ["--num_machines", machines, "--num_processes", processes, "--machine_rank", rank]
        command += ["--main_process_ip", "127.0.0.1", "--main_process_port", port, "--rdzv_backend", "static"]
        command += ["-m", "tests.training_runs", folder, json.dumps({**PLAIN, "resume": resume})]
        launchers.append(
            subprocess.Popen(
                list(map(str, command)), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
            )
        )
    return launchers


@pytest.mark.slow
def test_two_launchers_with_static_rendezvous(alone, tmp_path):
    launchers = launch(tmp_path, machines=2, processes=2)
    for launcher in launchers:
        _, errors = launcher.communicate(timeout=200)
        assert launcher.returncode == 0, errors[-3000:]
    assert largest_difference(trained_weights(tmp_path), alone) <= 1e-4


@pytest.mark.slow
def test_a_machine_that_is_lost(alone, tmp_path):
    first, second = launch(tmp_path, machines=2, processes=2)
    deadline = time.monotonic() + 120
    while not list_checkpoints(tmp_path / "checkpoints"):
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    worker = next(int(pid) for pid in children(second.pid))
    os.kill(second.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    killed = time.monotonic()
    _, errors = first.communicate(timeout=60)
    print(f"the first machine stopped after {time.monotonic() - killed:.1f} s")
    assert first.returncode != 0 and "LostProcess: Process 0 of 2 has lost another one" in errors
    for launcher in launch(tmp_path, machines=2, processes=2, resume="auto"):
        assert launcher.wait(timeout=200) == 0
    assert largest_difference(trained_weights(tmp_path), alone) <= 1e-4


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path):
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "scripts/train.py"])
    config = load_config_from_file(str(path))  # refuses keys that it does not know
    assert isinstance(config, ClusterConfig)
    arguments, _, _ = _validate_launch_command(arguments)
    assert arguments.num_processes == config.num_processes
    if path.stem.startswith("fsdp2"):
        assert arguments.fsdp_version == 2
        layers = set(arguments.fsdp_transformer_layer_cls_to_wrap.split(","))
        assert layers <= {type(module).__name__ for module in tiny_model().modules()}
    if path.stem.startswith("deepspeed"):
        settings = json.loads((REPOSITORY / config.deepspeed_config["deepspeed_config_file"]).read_text())
        assert settings["zero_optimization"]["stage"] == int(path.stem[-1])


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "examples" / "slurm").glob("*.sbatch")), ids=lambda path: path.stem
)
def test_launch_files_are_shell(path):
    subprocess.run(["bash", "-n", path], check=True)
