"""`sparse-attn upscale`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from sparse_attn.cli import options
from sparse_attn.cli.jobs import Job, check_inputs, check_target, list_jobs, make_folder, split_output, targets
from sparse_attn.cli.output import FAILED, explain, print_error
from sparse_attn.errors import SparseAttnError
from sparse_attn.imaging import read_image, write_image
from sparse_attn.inference import Upscaler
from sparse_attn.inference.upscaler import Progress


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="IN [OUT]", help="A picture, several, or a folder; of two, a second that is a folder or new is OUT."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file for one picture, else a folder; by default <name>_x<scale>.png."),
    ] = None,
    model: options.Model = None,
    scale: options.Scale = None,
    tile: options.Tile = None,
    ensemble: options.Ensemble = False,
    device: options.Device = None,
    checkpoint: options.Checkpoint = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier outputs (inputs never).")] = False,
) -> None:
    """Enlarge pictures.

    A file, several, or whole folders; originals are never overwritten. A file goes to <name>_x<scale>.png beside it,
    a folder to <folder>_x<scale>/. Several folders, or folders among several pictures, need -o, and so does an output
    file that exists. What cannot be read is reported, the rest goes on, and the exit code is 1.
    """
    inputs, output = split_output(paths, output)
    if not any(path.exists() for path in inputs):
        for path in inputs:
            print_error(f"cannot read {str(path)!r}: no such file")
        raise typer.Exit(FAILED)
    _, network = options.choose_model(model, scale, checkpoint=checkpoint, device=device)
    upscaler = Upscaler(network, tile=tile, ensemble=ensemble)
    check_inputs(inputs, output, upscaler.scale)
    if _run(list_jobs(inputs, output, upscaler.scale), upscaler, overwrite=overwrite):
        raise typer.Exit(FAILED)


def _run(jobs: list[Job], upscaler: Upscaler, *, overwrite: bool) -> int:
    """How many of the jobs failed; each of those is reported in a line."""
    failed = 0
    outputs = targets(jobs, upscaler.scale)
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=len(jobs), disable=None, leave=False, bar_format=layout) as bar:
        for index, (job, target) in enumerate(zip(jobs, outputs, strict=True)):
            bar.set_description_str(job.source.name)

            def progress(done: int, total: int, index: int = index) -> None:
                bar.update(index + done / total - bar.n)

            try:
                check_target(target, jobs, outputs, overwrite=overwrite)
                line = _enlarge(job.source, target, upscaler, progress)
            except (SparseAttnError, MemoryError, RuntimeError) as error:
                text = explain(error)
                if text is None:
                    raise
                print_error(text if str(job.source) in text or str(target) in text else f"{job.source}: {text}")
                failed += 1
            else:
                with bar.external_write_mode():
                    typer.echo(line)
            bar.update(index + 1 - bar.n)
    return failed


def _enlarge(source: Path, target: Path, upscaler: Upscaler, progress: Progress) -> str:
    start = time.monotonic()
    photo = read_image(source)
    result = upscaler(photo, progress=progress)
    make_folder(target.parent)
    write_image(target, result)
    (h, w), (high, wide) = photo.size, result.size
    return f"{source} -> {target} ({w}x{h} -> {wide}x{high}, {time.monotonic() - start:.1f} s)"
