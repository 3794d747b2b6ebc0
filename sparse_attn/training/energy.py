"""The energy of a run: its hours times the mean power of what computed it.

On an NVIDIA GPU `python -m sparse_attn.training.energy FILE PID` asks the board for its power every few seconds, while
the process PID lives, and appends the answers to FILE. Without such answers there is an assumption, which is said to
be one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Of a server's processor, divided by its threads; memory, fans and power supply not counted.
ASSUMED_WATTS_A_THREAD = 5.0
_ASK_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Energy:
    """What a run has taken.

    Args:
        hours: of computing.
        watts: mean power.
        source: where `watts` comes from, in words.
        measured: False for an assumption or an upper bound.
    """

    hours: float
    watts: float
    source: str
    measured: bool

    @property
    def kwh(self) -> float:
        """Hours times watts / 1000."""
        return self.hours * self.watts / 1000.0

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the energy included."""
        return {"kwh": round(self.kwh, 4), **asdict(self)}


def estimate(seconds: float, *, device: str, threads: int, readings: Path | None = None) -> Energy | None:
    """The energy of a run; None where neither a reading nor an assumption is to be had.

    Args:
        seconds: of computing.
        device: `cpu`, `cuda` ...
        threads: busy ones, for an assumption about a CPU.
        readings: the file that `watch` wrote.
    """
    hours = seconds / 3600.0
    lines = _read(readings) if readings is not None and readings.is_file() else []
    if lines:
        watts = sum(line["watts"] for line in lines) / len(lines)
        source = f"the mean of {len(lines)} readings of the board's power while it trained"
        return Energy(hours=hours, watts=watts, source=source, measured=True)
    if device.partition(":")[0] == "cpu":
        watts = ASSUMED_WATTS_A_THREAD * threads
        source = f"an assumption: {ASSUMED_WATTS_A_THREAD:g} W for each thread, the processor only"
        return Energy(hours=hours, watts=watts, source=source, measured=False)
    board = ask_board()
    if board is None or board["limit"] is None:
        return None
    source = "an upper bound: the board's power limit"
    return Energy(hours=hours, watts=board["limit"], source=source, measured=False)


def ask_board() -> dict[str, Any] | None:
    """Power and power limit, watts, of the first GPU this process may see; None where there is no answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    # CUDA may count in another order than the driver; on a machine of several kinds set CUDA_DEVICE_ORDER=PCI_BUS_ID.
    board = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] or "0"
    query = [program, "-i", board, "--query-gpu=power.draw,power.limit", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=_ASK_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    draw, _, limit = (answer.splitlines() or [""])[0].partition(",")
    watts = _number(draw)
    return None if watts is None else {"watts": watts, "limit": _number(limit)}


def watch(file: Path, pid: int, *, every: float = 5.0) -> None:
    """Appends a reading every few seconds, for as long as the process `pid` lives and the board answers."""
    while _lives(pid) and (reading := ask_board()) is not None:
        with open(file, "a", encoding="utf-8") as log:
            log.write(json.dumps({"time": round(time.time(), 1), **reading}) + "\n")
        time.sleep(every)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _number(text: str) -> float | None:
    # Boards that cannot tell answer `[N/A]`.
    try:
        return float(text)
    except ValueError:
        return None


def _read(file: Path) -> list[dict[str, Any]]:
    lines = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            # The last line of a watch that was killed.
            continue
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("pid", type=int)
    parser.add_argument("--every", type=float, default=5.0, help="seconds")
    arguments = parser.parse_args()
    watch(arguments.file, arguments.pid, every=arguments.every)
