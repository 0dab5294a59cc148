"""A GPU that is not there, to rehearse what is to run on one: every tensor says that it is on it, and is on the CPU.

`python -m pytest -p tests.gpu_stand_ins -m accelerator tests` executes the tests for GPUs, on the ways that operations
take there; `python -m tests.gpu_stand_ins` is the process of `benchmarks.gpu_worker`, with small models.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch._dynamo  # it lists what is replaced here
import transformers
from torch import Tensor
from torch.autograd import DeviceType
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NAME = "a stand-in for a GPU"
ON_HOST = {Tensor.cuda, Tensor.pin_memory}
"""What moves a tensor, and needs no move here."""


def _here(value: Any) -> Any:
    """The CPU in place of a GPU."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    return "cpu" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


class _AllOnGpu(TorchFunctionMode):
    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in ON_HOST:
            return args[0]
        result = function(*map(_here, args), **{name: _here(value) for name, value in (kwargs or {}).items()})
        if function == Tensor.device.__get__:
            return torch.device("cuda", 0) if result.type == "cpu" else result
        return args[0].device.type == "cpu" if function == Tensor.is_cuda.__get__ else result


class _Recorder(TorchDispatchMode):
    """What PyTorch was given while it lasts, to be done again."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for function, args, kwargs, result in self.calls:
            known = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
            again = tree_leaves(function(*args, **kwargs))
            for old, new in zip(tree_leaves(result), again, strict=True):
                if isinstance(new, Tensor) and new.untyped_storage()._cdata not in known:
                    old.copy_(new)


class _Graph:
    """As `torch.cuda.CUDAGraph`: it is replayed on the tensors that it was captured with."""

    def __init__(self) -> None:
        self.recorder: _Recorder | None = None

    def replay(self) -> None:
        with torch.no_grad():
            self.recorder.replay()


@contextlib.contextmanager
def _capture(graph: _Graph, pool: Any = None, stream: Any = None) -> Iterator[None]:
    with _Recorder() as graph.recorder:
        yield


class _Profile:
    """As `torch.profiler.profile`, with an event of the device for each of the host."""

    def __init__(self, activities: list) -> None:
        assert torch.profiler.ProfilerActivity.CUDA in activities
        self.real = torch.autograd.profiler.profile(use_kineto=True)

    def __enter__(self) -> "_Profile":
        self.real.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.real.__exit__(*raised)

    def events(self) -> list:
        hosts = list(self.real.function_events)
        return hosts + [SimpleNamespace(device_type=DeviceType.CUDA, time_range=e.time_range, name="k") for e in hosts]


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(_here(device_type), *args, **kwargs)


def _not_compiled(model: Any = None, *, fullgraph: bool = False, dynamic: bool | None = None, mode: str | None = None):
    return model


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


STREAM = SimpleNamespace(wait_stream=_nothing, synchronize=_nothing, is_capturing=lambda: False)
CUDA = {
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "get_device_name": lambda *_: NAME,
    "get_device_capability": lambda *_: (9, 0),
    "get_device_properties": lambda *_: SimpleNamespace(total_memory=80 * 2**30, major=9, minor=0, name=NAME),
    "is_bf16_supported": lambda *_: True,
    "synchronize": _nothing,
    "empty_cache": _nothing,
    "set_device": _nothing,
    "memory_allocated": lambda *_: 2**20,
    "max_memory_allocated": lambda *_: 2**28,
    "reset_peak_memory_stats": _nothing,
    "set_sync_debug_mode": _nothing,
    "is_current_stream_capturing": lambda: False,
    "device": lambda *_: contextlib.nullcontext(),
    "Stream": lambda *_: STREAM,
    "stream": lambda *_: contextlib.nullcontext(),
    "current_stream": lambda *_: STREAM,
    "CUDAGraph": _Graph,
    "graph": _capture,
}


def _patches() -> list:
    enabled, dtype = torch.is_autocast_enabled, torch.get_autocast_dtype
    found = [mock.patch.object(torch.cuda, name, stand_in) for name, stand_in in CUDA.items()]
    found += [
        # weights are loaded by other threads otherwise, which know nothing of stand-ins
        mock.patch.dict(os.environ, HF_DEACTIVATE_ASYNC_LOAD="1"),
        mock.patch.object(torch, "compile", _not_compiled),
        mock.patch.object(torch, "autocast", _Autocast),
        mock.patch.object(torch, "is_autocast_enabled", lambda *names: enabled(*map(_here, names))),
        mock.patch.object(torch, "get_autocast_dtype", lambda name: dtype(_here(name))),
        mock.patch.object(torch.accelerator, "current_stream", lambda *_: STREAM),
        mock.patch.object(torch.profiler, "profile", _Profile),
    ]
    return found


@contextlib.contextmanager
def gpu_stand_ins() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for context in (*_patches(), _AllOnGpu()):
            stack.enter_context(context)
        yield


# --- small models in place of the benchmark's ------------------------------------------------------------------------

SMALL = {
    **{"num_queries": 12, "d_model": 32, "encoder_layers": 1, "encoder_ffn_dim": 32},
    **{"decoder_layers": 2, "decoder_ffn_dim": 32},
}
OUT = {"out_features": ["stage2", "stage3", "stage4"]}
SMALL_BACKBONES = {
    "rt-detr-r50": {
        **{"model_type": "rt_detr_resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 32, 32]},
        **{"depths": [1, 1, 1, 1], "layer_type": "basic", **OUT},
    },
    "d-fine-l": {
        **{"model_type": "hgnet_v2", "hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1]},
        **{"stage_in_channels": [16, 16, 32, 32], "stage_mid_channels": [16, 16, 16, 16]},
        **{"stage_out_channels": [16, 32, 32, 32], "stage_num_blocks": [1, 1, 1, 1], "stem_channels": [3, 16, 16]},
        **{"stage_light_block": [False] * 4, "stage_kernel_size": [3] * 4, "stage_numb_of_layers": [1] * 4, **OUT},
    },
}


def _small_config(work: Any) -> transformers.PreTrainedConfig:
    from benchmarks.tasks import NUM_LABELS
    from benchmarks.work import PEERS
    from transformers_samdetr import SamDetrConfig

    levels = 3 if work.model.startswith(("sam-detr-pp", "deformable")) else 1
    backbone = {"model_type": "timm_backbone", "backbone": "test_resnet", "out_indices": [2, 3, 4][-levels:]}
    if work.is_ours:
        dilated = {"dilation": False} if "dc5" in work.model else {}
        return SamDetrConfig.from_preset(work.model, **SMALL, backbone_config=backbone, **dilated)
    config_class = getattr(transformers, f"{PEERS[work.model]}Config")
    fields = {**SMALL, "num_labels": NUM_LABELS, "auxiliary_loss": True}
    if work.model in SMALL_BACKBONES:
        fields |= {"encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "encoder_in_channels": [32] * 3}
        return config_class(**fields, num_denoising=4, backbone_config=SMALL_BACKBONES[work.model])
    levels = {"num_feature_levels": 3} if levels == 3 else {}
    return config_class(**fields, **levels, backbone_config=backbone)


@contextlib.contextmanager
def small_works() -> Iterator[None]:
    """Models of the benchmark are small, and their pictures have 64 x 96 pixels."""
    from benchmarks import tasks
    from benchmarks.work import Work

    make_processor = tasks._processor

    def small_processor(work: Work) -> Any:
        processor = make_processor(work)
        processor.size = {"height": 64, "width": 96}
        return processor

    with (
        mock.patch.object(torch, "set_num_threads", _nothing),
        mock.patch.object(tasks, "model_config", _small_config),
        mock.patch.object(tasks, "_processor", small_processor),
        mock.patch.object(tasks, "JPEG_SIZES", ((64, 96),)),
        mock.patch.object(tasks, "QUERIES", 12),
        mock.patch.object(Work, "pixel_size", property(lambda work: (64, 96))),
    ):
        yield


# --- as a plugin of pytest, and as a process -------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Tests are collected as where there is a GPU."""
    there = mock.patch.object(torch.cuda, "is_available", CUDA["is_available"])
    there.start()
    config.add_cleanup(there.stop)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with gpu_stand_ins():
        return (yield)


MAY_BE_MISSING = ("datasets", "evaluate", "hotcoco")
"""What a machine with a GPU need not have for the benchmark."""

if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(MAY_BE_MISSING))
    from benchmarks import gpu_worker

    with gpu_stand_ins(), small_works():
        gpu_worker.main()
