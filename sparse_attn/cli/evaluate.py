"""`sparse-attn evaluate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from sparse_attn.cli import options
from sparse_attn.cli.output import print_table, write_text
from sparse_attn.errors import DataError
from sparse_attn.evaluation import BICUBIC, evaluate


def command(
    folder: Annotated[Path, typer.Argument(help="Holds HR/ and LR/ with the same file names.")],
    model: options.Model = None,
    scale: options.Scale = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there as well.")] = None,
    make_lr: Annotated[
        bool, typer.Option("--make-lr", help="FOLDER holds HR/ or just images; make the small ones by bicubic.")
    ] = False,
    ensemble: options.Ensemble = False,
    tile: Annotated[int, typer.Option(min=0, help="Side of a tile in input pixels; 0, whole images.")] = 0,
    device: options.Device = None,
    checkpoint: options.Checkpoint = None,
) -> None:
    """Measure PSNR and SSIM.

    On luminance, in float32, without a border of `scale` pixels. `--model bicubic --scale 4` measures the baseline.
    """
    if json_file is not None and not json_file.parent.is_dir():
        raise DataError(f"cannot write {json_file}: no such folder", remedy="create it first")
    arguments = {
        "--model": model,
        "--scale": scale,
        "--make-lr": make_lr or None,
        "--ensemble": ensemble or None,
        "--tile": tile or None,
        "--device": device,
        "--checkpoint": checkpoint,
        "--json": json_file,
    }
    words = ["sparse-attn", "evaluate", str(folder)]
    for option, value in arguments.items():
        words += [] if value is None else [option] if value is True else [option, str(value)]
    name, network = (
        (BICUBIC, BICUBIC)
        if model == BICUBIC
        else options.choose_model(model, scale, checkpoint=checkpoint, device=device)
    )
    with tqdm(disable=None, leave=False, unit="image") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = evaluate(
            network,
            folder,
            scale=scale,
            make_lr=make_lr,
            ensemble=ensemble,
            tile=tile,
            name=name,
            command=shlex.join(words),
            progress=progress,
        )
    rows = [[image.name, f"{image.psnr:.4f}", f"{image.ssim:.4f}"] for image in result.images]
    rows.append(["mean", f"{result.psnr:.4f}", f"{result.ssim:.4f}"])
    print_table(["image", "psnr", "ssim"], rows, right=["psnr", "ssim"])
    if json_file is not None:
        write_text(json_file, result.to_json())
        typer.echo(f"written to {json_file}")
