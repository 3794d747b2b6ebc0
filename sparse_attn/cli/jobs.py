"""From paths on a command line to pairs of an input and an output that harm nothing."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sparse_attn.errors import ConfigError, ImageError
from sparse_attn.imaging import read_image
from sparse_attn.imaging.io import SUFFIXES


@dataclass(frozen=True)
class Job:
    """One picture to enlarge.

    Args:
        source: the input.
        folder: where the output goes; None for beside the input.
        name: the output's name; None for `<stem>_x<scale>.png`.
    """

    source: Path
    folder: Path | None
    name: str | None = None


def split_output(paths: list[Path], output: Path | None) -> tuple[list[Path], Path | None]:
    """`IN OUT` is told from `IN IN`: of two paths the second is the output if it is a folder, or not there yet.

    Raises:
        ConfigError: a folder among other paths, and nothing that says which is the output.
    """
    if output is not None or len(paths) < 2:
        return paths, output
    if len(paths) == 2 and (paths[1].is_dir() or (paths[0].exists() and not os.path.lexists(paths[1]))):
        return paths[:1], paths[1]
    folder = next((path for path in paths if path.is_dir()), None)
    if folder is not None:
        raise ConfigError(
            f"folder {folder} is among other paths, and it is not clear where pictures are to go",
            remedy="name the output with -o: all other paths are inputs then",
        )
    return paths, output


def check_inputs(paths: list[Path], output: Path | None, scale: int) -> None:
    """Refuses what an earlier run has made as an input: an output folder, and the OUT of `IN OUT` given once more.

    Raises:
        ConfigError: as said.
    """
    if output is not None and any(path.is_dir() and output.exists() and path.samefile(output) for path in paths):
        raise ConfigError(
            f"folder {output} is an input and the output",
            expected="another folder",
            remedy="the next run would enlarge the results of this one",
        )
    if output is not None or len(paths) != 2 or not all(path.is_file() for path in paths):
        return
    try:
        height, width = read_image(paths[0]).size
        looks_made = read_image(paths[1]).size == (scale * height, scale * width)
    except ImageError:
        # Whichever cannot be read is reported when its turn comes.
        return
    if looks_made:
        raise ConfigError(
            f"{paths[1]} exists and is {scale} times as large as {paths[0]}: is it a second input or the output?",
            remedy="pass -o for an output, with --overwrite to replace it, or enlarge the two one by one",
        )


def list_jobs(paths: list[Path], output: Path | None, scale: int) -> list[Job]:
    """Every picture to enlarge: of a folder every file that is not hidden, whatever its name says.

    Raises:
        ConfigError: an output that is a file for several pictures, or a folder without files.
    """
    paths = list(dict.fromkeys(paths))
    single = len(paths) == 1 and not paths[0].is_dir()
    if output is not None and single and not output.is_dir() and output.suffix:
        if output.suffix.lower() not in SUFFIXES:
            raise ConfigError(f"cannot write {output}", expected=f"a name ending in {', '.join(SUFFIXES)}")
        return [Job(paths[0], output.parent, output.name)]
    if output is not None and not output.is_dir() and (output.exists() or output.suffix.lower() in SUFFIXES):
        raise ConfigError(f"cannot write several pictures to {output}", expected="a folder")
    jobs = []
    for path in paths:
        if not path.is_dir():
            jobs.append(Job(path, output))
            continue
        found = sorted(p for p in path.iterdir() if not p.name.startswith(".") and not p.is_dir())
        if not found:
            raise ConfigError(f"no files in {path}")
        beside = path.resolve()
        jobs += [Job(p, output or beside.with_name(f"{beside.name}_x{scale}")) for p in found]
    return jobs


def targets(jobs: list[Job], scale: int) -> list[Path]:
    """Each job's output; where two would share one, the input's suffix goes into the name."""

    def target(job: Job, stem: str) -> Path:
        return (job.source.parent if job.folder is None else job.folder) / (job.name or f"{stem}_x{scale}.png")

    plain = [target(job, job.source.stem) for job in jobs]
    count = Counter(plain)
    return [path if count[path] == 1 else target(job, job.source.name) for job, path in zip(jobs, plain, strict=True)]


def check_target(target: Path, jobs: list[Job], outputs: list[Path], *, overwrite: bool) -> None:
    """Refuses to overwrite an input, ever; anything else, unless told to; and a folder that cannot be written to.

    Args:
        target: where one picture is to go.
        jobs: all of the command's.
        outputs: theirs.
        overwrite: told to.

    Raises:
        ImageError: as said.
    """
    problem = f"cannot write {str(target)!r}"
    if outputs.count(target) > 1:
        raise ImageError(f"{problem}: several inputs would go there", remedy="enlarge them one by one")
    if target.exists():
        if any(job.source.exists() and target.samefile(job.source) for job in jobs):
            raise ImageError(f"{problem}: it is an input", remedy="choose another output")
        if not overwrite:
            raise ImageError(f"{problem}: it exists", remedy="pass --overwrite")
    folder = target.parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise ImageError(f"{problem}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ImageError(f"{problem}: folder {folder} is not writable")


def make_folder(folder: Path) -> None:
    """Makes an output's folder.

    Raises:
        ImageError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
