"""`sparse-attn export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_attn.backbones import SlottedNetwork
from sparse_attn.cli import options
from sparse_attn.errors import ConfigError
from sparse_attn.exporting import check_target, export
from sparse_attn.factory import create_model


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="The file: .onnx, or .pt2 for the other formats.")],
    model: options.Model = None,
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option("--format", "-f", help="onnx, torch-export or aoti.")
    ] = "onnx",
    scale: options.Scale = None,
    checkpoint: options.Checkpoint = None,
    pretrained: Annotated[bool, typer.Option(help="With the trained weights; else with random ones.")] = True,
    half: Annotated[bool, typer.Option("--half", help="Compute in float16; pictures stay float32.")] = False,
    opset: Annotated[int | None, typer.Option(help="Of ONNX; by default the exporter's own.")] = None,
    verify: Annotated[bool, typer.Option(help="Run the file at five sizes and compare.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a model as a file that runs without this package, for every image size.

    The file is run with onnxruntime or PyTorch and compared with the model before it is kept.
    """
    # Before weights are fetched and read.
    check_target(out, format=format, opset=opset, verify=verify, overwrite=overwrite)
    if pretrained or checkpoint is not None:
        name, network = options.choose_model(model, scale, checkpoint=checkpoint, device="cpu")
    elif model is None:
        raise ConfigError("no model", remedy="name one with --model, as random weights are wanted")
    else:
        name, network = model, create_model(model)
    typer.echo(f"exporting {name} as {format}, which takes minutes for a large network", err=True)
    channels = network.in_chans if isinstance(network, SlottedNetwork) else 3
    report = export(
        network,
        out,
        format=format,
        half=half,
        opset=opset,
        example=(1, channels, 48, 48),
        verify=verify,
        overwrite=overwrite,
    )
    typer.echo(str(report))
