"""`sparse-attn inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparse_attn.cli import options
from sparse_attn.cli.jobs import make_folder
from sparse_attn.cli.output import write_bytes
from sparse_attn.errors import ConfigError
from sparse_attn.imaging import read_image
from sparse_attn.viewer import inspect
from sparse_attn.viewer.view import kind_of
from sparse_attn.weights.imported import plain


def command(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    at: Annotated[str, typer.Option("--at", metavar="X,Y", help="A pixel of the picture, from the top left.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="An .html or .png file.")],
    model: options.Model = None,
    scale: options.Scale = None,
    layer: Annotated[
        str | None,
        typer.Option("--layer", "-l", help="An attention: its dotted name, or its number from 0; by default the last."),
    ] = None,
    crop: Annotated[
        int,
        typer.Option(min=0, help="Look at a part of at most this side around the pixel; 0 is the whole picture."),
    ] = 128,
    device: options.Device = None,
    checkpoint: options.Checkpoint = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier output (the input never).")
    ] = False,
) -> None:
    """Show what an attention attends to.

    An .html file is a page to explore: choose any pixel, see its buckets, the pixels it attends to, and what dense
    attention would have looked at. It needs no network. A .png file is a figure of one pixel, for a paper.
    """
    kind = kind_of(output)
    place = _pixel(at)
    photo = read_image(image)
    if output.exists():
        if output.samefile(image):
            raise ConfigError(f"cannot write {output}: it is the input", remedy="choose another output")
        if not overwrite:
            raise ConfigError(f"cannot write {output}: it exists", remedy="pass --overwrite")
    name, network = options.choose_model(model, scale, checkpoint=checkpoint, device=device)
    wanted = int(layer) if layer is not None and layer.removeprefix("-").isdecimal() else layer
    view = inspect(network, photo, at=place, layer=wanted, crop=crop or None, title=f"{name} on {image.name}")
    content = view.render(kind)
    make_folder(output.parent)
    write_bytes(output, content)
    rows, columns = view.picture.shape[:2]
    others = [other for other in view.layers if other != view.layer]
    typer.echo(f"layer  {view.layer}, {view.attention}" + (f" (others: {', '.join(others)})" if others else ""))
    if (columns, rows) != view.whole:
        typer.echo(f"part   {columns}x{rows} pixels at {view.corner[0]},{view.corner[1]}: all that the model was given")
    typer.echo(f"pixel  {place[0]},{place[1]}: {100 * view.kept:.3g} % of dense attention's mass is kept")
    typer.echo(f"written to {plain(str(output))}")


def _pixel(text: str) -> tuple[int, int]:
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise ConfigError("bad --at", expected="two whole numbers, X,Y", got=repr(text))
    return int(parts[0]), int(parts[1])
