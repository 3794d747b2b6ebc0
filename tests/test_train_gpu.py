"""`zoo/train_gpu.sh`: with a stand-in for Python, what it does when; with the real one, a whole run on toys."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from sparse_attn.imaging import Photo, read_image, resize, write_image
from sparse_attn.weights import read_weights
from tests.cli.conftest import picture

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "zoo" / "train_gpu.sh"
# Notes each call, then does what the part of that name would leave behind; FAIL names parts that fail.
STAND_IN = r"""#!/usr/bin/env bash
case "$*" in
  benchmarks/preflight.py*) part=machine ;;
  *energy*) exit 0 ;;
  "-m pytest"*) part=tests ;;
  *" throughput "*) part=steps ;;
  *" train "*) part=train ;;
  *" plot "*) part=plot ;;
  benchmarks/zoo.py*) part=measure ;;
esac
printf '%s: %s\n' "$part" "$*" >>"$CALLS"
option() { local name=$1; shift; while (($#)); do [[ $1 == "$name" ]] && { echo "$2"; return; }; shift; done; }
if [[ $part == machine ]]; then
  echo "toy machine"
  [[ " $* " != *" --settings "* ]] || printf -- '--init\n/some/where else\n' >"$(option --settings "$@")"
fi
[[ $part != steps ]] || printf -- '--set\ncompile=true\n' >"$(option --settings "$@")"
if [[ $part == train ]]; then
  mkdir -p "$(option --out "$@")"
  printf '{"seconds": 1.5}\n{"seconds": %s, "val": 2}\n' "${TRAINED:-9.5}" >"$(option --out "$@")/log.jsonl"
fi
trap 'echo "told to end" >>"$CALLS"; exit 130' TERM
[[ " ${HANG:-} " != *" $part "* ]] || { echo "hanging" >>"$CALLS"; for _ in {1..200}; do sleep 0.05; done; }
[[ " ${FAIL:-} " != *" $part "* ]] || { echo "error: no $part today" >&2; exit 1; }
echo "$part is done"
"""

Start = Callable[..., subprocess.Popen[str]]


class Place:
    """A data folder, an OUT, and the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.calls_file = folder, folder / "out", folder / "calls"
        (folder / "data").mkdir()
        self.python = folder / "python"
        self.python.write_text(STAND_IN)
        self.python.chmod(self.python.stat().st_mode | stat.S_IXUSR)
        self.running: list[subprocess.Popen[str]] = []

    def start(self, *words: str, **settings: str) -> subprocess.Popen[str]:
        """The script, in a session of its own."""
        names = ("RECIPE", "INIT", "TRAIN_ARGS", "TESTS", "SKIP_TESTS", "COMPILE", "BATCHES", "DEVICE")
        clean = {name: value for name, value in os.environ.items() if name not in names}
        arguments = words or ("10", str(self.folder / "data"), str(self.out))
        process = subprocess.Popen(
            [str(SCRIPT), *arguments],
            cwd=self.folder,
            env={**clean, "PYTHON": str(self.python), "CALLS": str(self.calls_file), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def run(self, *words: str, **settings: str) -> tuple[int, str, str]:
        """Its code, and what it said."""
        process = self.start(*words, **settings)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    @property
    def calls(self) -> list[str]:
        """What Python was called for so far."""
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    @property
    def parts(self) -> list[str]:
        """The parts of these calls."""
        return [call.partition(":")[0] for call in self.calls]

    def wait_for(self, found: Callable[[], bool], *, seconds: float = 120.0) -> None:
        until = time.monotonic() + seconds
        while not found():
            assert time.monotonic() < until, self.calls
            time.sleep(0.02)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for process in made.running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def minutes(call: str) -> float:
    found = re.search(r"--max-minutes (\S+)", call)
    assert found is not None
    return float(found[1])


ALL = ["machine", "tests", "steps", "train", "plot", "measure"]


def test_the_parts_come_in_order_and_training_gets_what_the_others_leave(place: Place) -> None:
    code, out, err = place.run(INIT="weights", TRAIN_ARGS="--set seed=3")
    assert (code, err) == (0, "")
    assert place.parts == ALL
    machine, tests, steps, train, _, measure = place.calls
    recipe = "zoo/nlsn_x4/recipe.yaml"
    data, out_folder = place.folder / "data", place.out
    assert f"preflight.py {recipe} --data {data} --out {out_folder} --init {place.folder}/weights" in machine
    assert tests.endswith("-m pytest -p no:cacheprovider -m gpu tests")
    assert f"throughput {recipe} --seconds 30.000 --each 3.000 --compile false,true" in steps
    assert f"train {recipe} --data {data} --out {out_folder}/run --max-minutes" in train
    assert train.endswith("--init /some/where else --set compile=true --set seed=3")
    # Of ten minutes one is kept for the end, and the stand-in took next to nothing.
    assert 8.5 < minutes(train) <= 9.0
    assert f"zoo.py nlsn_x4 --run {out_folder}/run --zoo {out_folder}/zoo" in measure
    assert out.splitlines()[-1].endswith("all went well")
    assert "toy machine" in out and "tests: tests is done" in out and "training: train is done" in out
    assert (place.out / "log.txt").read_text() == out


def test_what_is_finished_is_not_done_again(place: Place) -> None:
    assert place.run()[0] == 0
    place.calls_file.unlink()
    assert place.run()[0] == 0
    assert place.parts == ["machine"]
    assert "--settings" not in place.calls[0]


def test_what_fails_beside_the_training_does_not_cost_it_and_is_said_again(place: Place) -> None:
    code, out, err = place.run(FAIL="tests steps plot measure")
    assert (code, err) == (3, "")
    assert place.parts == ALL
    assert "compile=true" in place.calls[3]
    summary = out[out.index("4 problem(s)") :]
    for part in ("tests: failed (error: no tests today)", "steps: not all", "curves: not drawn", "measuring: failed"):
        assert part in summary
    place.calls_file.unlink()
    code, out, _ = place.run()
    assert (code, place.parts) == (3, ["machine", "plot", "measure"])
    assert "2 problem(s)" in out


def test_tests_that_take_too_long_are_ended(place: Place) -> None:
    code, out, _ = place.run(HANG="tests", TEST_MINUTES="0.005", FAIL="")
    assert code == 3
    assert "tests: not done within 0.300 s" in out
    assert place.parts[-1] == "measure"


def test_tests_may_be_left_out(place: Place) -> None:
    code, out, _ = place.run(SKIP_TESTS="1")
    assert (code, place.parts) == (0, [part for part in ALL if part != "tests"])
    assert "tests: left out, as asked" in out


def test_a_training_that_fails_ends_it_and_the_same_command_goes_on(place: Place) -> None:
    code, out, _ = place.run(FAIL="train", TRAINED="120.0")
    assert (code, place.parts) == (1, ALL[:4])
    assert "training: failed with 1: error: no train today" in out
    first = place.calls[-1]
    place.calls_file.unlink()
    assert place.run()[0] == 0
    assert place.parts == ["machine", "train", "plot", "measure"]
    assert minutes(place.calls[1]) == pytest.approx(minutes(first) - 2.0, abs=0.002)
    assert place.calls[1].partition("--init")[2] == first.partition("--init")[2]


def test_killed_while_it_trains_it_goes_on(place: Place) -> None:
    killed = place.start(HANG="train")
    place.wait_for(lambda: "hanging" in place.calls)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    place.calls_file.unlink()
    code, out, _ = place.run()
    assert (code, place.parts) == (0, ["machine", "train", "plot", "measure"])
    assert "all went well" in out


def test_told_to_end_it_tells_the_training(place: Place) -> None:
    stopped = place.start(HANG="train")
    place.wait_for(lambda: "hanging" in place.calls)
    stopped.terminate()
    out, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 143
    assert place.calls[-1] == "told to end"
    assert out.splitlines()[-1].endswith("stopped: the same command goes on from here")


def test_two_do_not_share_a_folder(place: Place) -> None:
    place.start(HANG="train")
    place.wait_for(lambda: "hanging" in place.calls)
    code, _, err = place.run()
    assert code == 2
    assert err.startswith("error: OUT is in use, expected no other run there, got one that goes on; ")


def test_few_minutes_leave_the_training_a_part(place: Place) -> None:
    code, out, _ = place.run("0.02", str(place.folder / "data"), str(place.out), FINISH_MINUTES="1")
    assert code == 3
    assert minutes(place.calls[3]) == 0.05
    assert re.search(r"training: only -\S+ s of 0.02 minutes are left", out)


def test_a_machine_that_will_not_do_is_refused(place: Place) -> None:
    code, _, err = place.run(FAIL="machine")
    assert (code, err) == (2, "error: no machine today\n")
    assert place.parts == ["machine"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: wrong arguments, expected MINUTES DATA OUT [MODEL], got 1; as in "),
        (["twenty", "data", "out"], "error: bad MINUTES, expected a positive number, got 'twenty'; as in "),
        (["0", "data", "out"], "error: bad MINUTES, expected a positive number, got '0'; as in "),
        (["-1", "data", "out"], "error: bad MINUTES, expected a positive number, got '-1'; as in "),
        (
            ["20", "nowhere", "out"],
            "error: no data folder, expected a folder with train, val and eval, got 'nowhere'; ",
        ),
        (["20", "data", "python/out"], "error: cannot write to OUT, expected a folder that can be written, got "),
        (["20", "data", "out", "nlsn_x9"], "error: no recipe of nlsn_x9, expected a file, got "),
    ],
)
def test_bad_input_is_one_line(place: Place, words: list[str], said: str) -> None:
    code, out, err = place.run(*(words or ["20"]))
    assert (code, out) == (2, "")
    assert err.startswith(said) and len(err.splitlines()) == 1
    assert place.calls == []


def test_other_bad_settings(place: Place) -> None:
    assert place.run(PYTHON="nothing")[2].startswith("error: no Python, expected a program, got 'nothing'; ")
    assert place.run(RECIPE="nothing")[2].startswith("error: no recipe of nlsn_x4, expected a file, got ")
    assert place.run()[0] == 0
    code, _, err = place.run("10", str(place.folder / "data"), str(place.out), "nlsn_light_x2")
    assert code == 2
    assert err.startswith("error: OUT is of another run, expected nlsn_light_x2 by zoo/nlsn_light_x2/recipe.yaml, got ")


@pytest.fixture
def toys(place: Place) -> Path:
    """Pictures of 24 pixels and more, and a recipe of two stages for a network of one block."""
    for seed in range(3):
        picture(place.folder / "data" / "train" / f"{seed}.png", 48, 60, seed=seed)
    picture(place.folder / "data" / "val" / "kodak" / "0.png", 24, 28, seed=10)
    hr = place.folder / "data" / "eval" / "Set5" / "x2" / "HR" / "0.png"
    picture(hr, 24, 28, seed=20)
    lr = hr.parent.parent / "LR" / "0.png"
    lr.parent.mkdir()
    write_image(lr, Photo(resize(read_image(hr).pixels, 1 / 2)))
    stages = [
        {"name": "trunk", "steps": 20, "lr": 1e-3, "batch": 2, "patch": 8, "attention": False},
        {"name": "full", "steps": 20, "lr": 1e-3, "batch": 2, "patch": 8},
    ]
    content = {"model": "nlsn_light_x2", "train": "train", "val": "val/kodak", "precision": "float32", "stages": stages}
    config = {"n_resblocks": 1, "n_feats": 8, "attention_at": [0]}
    recipe = place.folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**content, "model_config": config, "save_minutes": 0.01}))
    return recipe


@pytest.mark.slow
def test_a_whole_run_on_toys_killed_once(place: Place, toys: Path) -> None:
    settings = {
        "PYTHON": sys.executable,
        "RECIPE": str(toys),
        "TESTS": "tests/test_registry.py",
        "COMPILE": "false",
        "DEVICE": "cpu",
        "TEST_MINUTES": "1",
        "STEPS_MINUTES": "0.01",
        "FINISH_MINUTES": "0",
        "OMP_NUM_THREADS": "1",
        "SPARSE_ATTN_CACHE": str(place.folder / "cache"),
    }
    words = ("3", "data", "out", "nlsn_light_x2")
    killed = place.start(*words, **settings)
    checkpoints = place.out / "run" / "checkpoints"
    place.wait_for(lambda: any(checkpoints.glob("step-*.pt")), seconds=300)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    # What is left of its three minutes becomes a second: the rest of the schedule is run in it.
    (place.out / "state" / "seconds").write_text("1\n")
    code, out, err = place.run(*words, **settings)
    assert (code, err) == (0, ""), out
    log = [json.loads(line) for line in (place.out / "run" / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in log} == {"trunk", "full"}
    made = place.out / "zoo" / "nlsn_light_x2"
    names = {"README.md", "config.json", "curves.svg", "log.jsonl", "model.safetensors", "recipe.yaml", "results.json"}
    assert {file.name for file in made.iterdir()} == {*names, "throughput.json", "training.json"}
    assert all(tensor.dtype.itemsize == 2 for tensor in read_weights(made, recorded_only=True).values())
    results = json.loads((made / "results.json").read_text())
    assert sorted(results) == ["bicubic/Kodak", "bicubic/Set5", "nlsn_light_x2/Kodak", "nlsn_light_x2/Set5"]
    assert results["nlsn_light_x2/Set5"]["folder"] == "data/eval/Set5/x2"
    cases = json.loads((made / "throughput.json").read_text())["cases"]
    assert any(case["samples_per_second"] for case in cases)
    assert "passed" in (place.out / "log.txt").read_text()
    for file in made.iterdir():
        if file.suffix in {".md", ".json", ".jsonl"}:
            assert str(place.folder) not in file.read_text(), file
