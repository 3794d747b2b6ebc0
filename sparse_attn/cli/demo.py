"""`sparse-attn demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from sparse_attn.cli import options
from sparse_attn.cli.jobs import make_folder
from sparse_attn.cli.panels import Panel, side_by_side
from sparse_attn.errors import ImageError
from sparse_attn.evaluation import bicubic
from sparse_attn.imaging import Photo, psnr_y, read_image, resize, write_image
from sparse_attn.inference import Upscaler

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "coffee.png"
_SMALLEST = 16


def command(
    photo: Annotated[Path | None, typer.Argument(help="A picture of yours; by default a bundled one.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo-output"),
    model: options.Model = None,
    scale: options.Scale = None,
    tile: options.Tile = None,
    device: options.Device = None,
    checkpoint: options.Checkpoint = None,
) -> None:
    """Shrink a photo, enlarge it, compare.

    The original is known, so the gain over bicubic can be measured. Writes input.png, bicubic.png, ours.png and
    side_by_side.png.
    """
    source = photo or BUNDLED
    paths = {name: output / f"{name}.png" for name in ("input", "bicubic", "ours", "side_by_side")}
    original = read_image(source).pixels
    if any(path.exists() and path.samefile(source) for path in paths.values()):
        raise ImageError(f"cannot write into {str(output)!r}: {source} is there", remedy="choose another --output")
    name, network = options.choose_model(model, scale, checkpoint=checkpoint, device=device)
    upscaler = Upscaler(network, tile=tile)
    s = upscaler.scale
    height, width = (side - side % s for side in original.shape[:2])
    if min(height, width) < _SMALLEST * s:
        raise ImageError(f"{source} is too small for a demonstration", expected=f"sides of {_SMALLEST * s} pixels")
    original = original[:height, :width]
    small = resize(original, 1 / s)
    with tqdm(disable=None, leave=False, unit="tile") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        ours = upscaler(Photo(small), progress=progress).pixels
    plain = bicubic(small, s)
    gains = {"bicubic": psnr_y(plain, original, border=s), "ours": psnr_y(ours, original, border=s)}
    comparison = side_by_side(
        [
            Panel(f"input, {small.shape[1]}x{small.shape[0]}", small.repeat(s, 0).repeat(s, 1)),
            Panel(f"bicubic, {gains['bicubic']:.2f} dB", plain),
            Panel(f"{name}, {gains['ours']:.2f} dB", ours),
            Panel(f"original, {width}x{height}", original),
        ]
    )
    make_folder(output)
    pictures = {"input": small, "bicubic": plain, "ours": ours, "side_by_side": comparison}
    for key, path in paths.items():
        write_image(path, Photo(pictures[key]))
        measured = f"  {gains[key]:.2f} dB" if key in gains else ""
        typer.echo(f"{key.replace('_', ' '):13} {path}{measured}")
    typer.echo(f"gain over bicubic: {gains['ours'] - gains['bicubic']:+.2f} dB (PSNR of the luminance, {name}, x{s})")
