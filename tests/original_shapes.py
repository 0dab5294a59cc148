"""Names and shapes of the tensors in the authors' checkpoints, written down from the specification."""

import argparse

import torch

VARIANTS = [
    f"{model}{smca}_e{epochs}"
    for model in ("r50", "r50_dc5", "r50_ms")
    for smca in ("", "_smca")
    for epochs in (12, 50)
]
"""The 12 released files."""


def original_shapes(
    multi_scale: bool = False,
    smca: bool = False,
    norm: bool = True,
    d: int = 256,
    queries: int = 300,
    classes: int = 91,
    layers: int = 6,
    encoder_ffn: int = 2048,
    decoder_ffn: int = 2048,
    heads: int = 8,
) -> dict[str, tuple[int, ...]]:
    shapes = dict(_resnet50())

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm_layer(name: str) -> None:
        shapes.update({f"{name}.weight": (d,), f"{name}.bias": (d,)})

    for level, channels in enumerate((512, 1024, 2048) if multi_scale else (2048,)):
        shapes |= {f"input_proj.{level}.0.weight": (d, channels, 1, 1), f"input_proj.{level}.0.bias": (d,)}
        if norm:
            norm_layer(f"input_proj.{level}.1")
    if multi_scale:
        shapes["transformer.level_embed"] = (3, d)
    shapes["query_embed.weight"] = (queries, 4)
    for layer in range(layers):
        name = f"transformer.encoder.layers.{layer}"
        if multi_scale:
            linear(f"{name}.self_attn.sampling_offsets", heads * 3 * 4 * 2, d)
            linear(f"{name}.self_attn.attention_weights", heads * 3 * 4, d)
            linear(f"{name}.self_attn.value_proj", d, d)
            linear(f"{name}.self_attn.output_proj", d, d)
        else:
            shapes |= {f"{name}.self_attn.in_proj_weight": (3 * d, d), f"{name}.self_attn.in_proj_bias": (3 * d,)}
            linear(f"{name}.self_attn.out_proj", d, d)
        linear(f"{name}.linear1", encoder_ffn, d)
        linear(f"{name}.linear2", d, encoder_ffn)
        norm_layer(f"{name}.norm1")
        norm_layer(f"{name}.norm2")
    for layer in range(layers):
        name = f"transformer.decoder.layers.{layer}"
        for part in "sa_qcontent sa_qpos sa_kcontent sa_kpos sa_v ca_qcontent ca_kcontent ca_v".split():
            linear(f"{name}.{part}_proj", d, d)
        for part in ("ca_qpos_sine_proj.layers.0", "ca_qpos_sine_proj.layers.1"):
            linear(f"{name}.{part}", d, d)
            linear(f"{name}.{part.replace('qpos', 'kpos')}", d, d)
        linear(f"{name}.self_attn.out_proj", d, d)
        linear(f"{name}.cross_attn.out_proj", d, d)
        shapes |= {f"{name}.point1.0.weight": (d // 4, d, 1, 1), f"{name}.point1.0.bias": (d // 4,)}
        linear(f"{name}.point2.0", d, 49 * d // 4)
        linear(f"{name}.point2.2", 2 * d, d)
        linear(f"{name}.point2.4", 2 * d, 2 * d)
        linear(f"{name}.point2.6", heads * (4 if smca else 2), 2 * d)
        linear(f"{name}.attn1", heads * d, d)
        linear(f"{name}.attn2", heads * d, d)
        linear(f"{name}.linear1", decoder_ffn, d)
        linear(f"{name}.linear2", d, decoder_ffn)
        for number in (1, 2, 3):
            norm_layer(f"{name}.norm{number}")
        linear(f"class_embed.{layer}", classes, d)
        for prefix in ("transformer.decoder.bbox_embed", "bbox_embed"):
            linear(f"{prefix}.{layer}.layers.0", d, d)
            linear(f"{prefix}.{layer}.layers.1", d, d)
            linear(f"{prefix}.{layer}.layers.2", 4, d)
    return shapes


def variant_shapes(variant: str, **sizes: int) -> dict[str, tuple[int, ...]]:
    """Of one of `VARIANTS`, with some sizes other than the authors'."""
    multi_scale = "_ms" in variant
    return original_shapes(
        multi_scale=multi_scale,
        smca="_smca" in variant,
        norm=multi_scale or variant.endswith("e12"),
        **{"encoder_ffn": 1024 if multi_scale else 2048, **sizes},
    )


def variant_args(variant: str) -> argparse.Namespace:
    return argparse.Namespace(
        dilation="_dc5" in variant,
        multiscale="_ms" in variant,
        smca="_smca" in variant,
        epochs=int(variant.rsplit("_e")[-1]),
        dropout=0.0 if "_ms" in variant else 0.1,
        nheads=8,
        num_queries=300,
        dataset_file="coco",
        masks=False,
        coco_path=None,
        lr_drop=[40],
    )


def without_memory(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors on the meta device: shapes alone."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def with_numbers(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Small random numbers, the same tensors for the box heads' two names."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    for name in tensors:
        if name.endswith("running_var"):
            tensors[name] = tensors[name].abs() + 1
        if name.startswith("transformer.decoder.bbox_embed"):
            tensors[name] = tensors[name.removeprefix("transformer.decoder.")]
    return tensors


def _resnet50():
    def norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            yield f"backbone.0.body.{name}.{leaf}", (channels,)

    yield "backbone.0.body.conv1.weight", (64, 3, 7, 7)
    yield from norm("bn1", 64)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3), start=1):
        width = 32 * 2**stage
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for number, shape in enumerate(((width, inputs, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)), 1):
                yield f"backbone.0.body.{name}.conv{number}.weight", shape
                yield from norm(f"{name}.bn{number}", shape[0])
            if block == 0:
                yield f"backbone.0.body.{name}.downsample.0.weight", (4 * width, inputs, 1, 1)
                yield from norm(f"{name}.downsample.1", 4 * width)
            inputs = 4 * width
