"""Steps per second on toys: what is measured, in which order, and what a failure leaves."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from sparse_attn.backbones import models
from sparse_attn.training import throughput
from sparse_attn.training.throughput import Throughput, best, measure_throughput

# A busy machine may take a minute for a case.
LONG = 1000.0
TINY = {"n_resblocks": 1, "n_feats": 8, "attention_at": (0,)}


class Network(nn.Module):
    """Enlarges twice; from batch 3 on there is no memory for it."""

    scale = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GB.\nmore")
        return nn.functional.interpolate(self.conv(x), scale_factor=2)


def case(**values: object) -> Throughput:
    return Throughput(**{"batch": 2, "patch": 7, "compile": False, "precision": "float32", **values})


def test_a_step_of_the_real_network_is_timed_and_its_weights_stay() -> None:
    model = models.get("nlsn_light_x2").build(**TINY)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    records = measure_throughput(
        model,
        batches=(1, 2),
        patches=(7,),
        compile_modes=(False,),
        precisions=("bf16", "float32"),
        seconds_each=0.02,
        seconds=LONG,
    )
    assert [(r.precision, r.batch) for r in records] == [("bf16", 1), ("bf16", 2), ("float32", 1), ("float32", 2)]
    for record in records:
        assert record.problem is None and record.steps >= 1
        assert record.seconds and record.first_seconds and record.seconds > 0
        assert record.samples_per_second == pytest.approx(record.batch * record.steps_per_second)
        assert record.peak_bytes is None or record.peak_bytes >= 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training


def test_what_does_not_fit_is_said_and_larger_batches_are_not_tried() -> None:
    kept: list[int] = []
    records = measure_throughput(
        Network(),
        batches=(1, 3, 2, 5),
        patches=(7,),
        compile_modes=(False,),
        precisions=("float32",),
        seconds_each=0.01,
        seconds=LONG,
        keep=lambda records: kept.append(len(records)),
    )
    assert [r.problem for r in records] == [None, "out of memory", None, "left out: batch 3 is out of memory"]
    assert kept == [1, 2, 3, 4]


def test_what_does_not_compile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: nn.Module, *, mode: str | None) -> None:
        raise RuntimeError(f"no compiler for {mode}\nmore")

    monkeypatch.setattr(nn.Module, "compile", broken)
    records = measure_throughput(
        Network(),
        batches=(2,),
        patches=(7,),
        compile_modes=(True, "reduce-overhead", False),
        precisions=("float32",),
        seconds_each=0.01,
        seconds=LONG,
    )
    said = ["RuntimeError: no compiler for None", "RuntimeError: no compiler for reduce-overhead", None]
    assert [r.problem for r in records] == said


def test_a_mistake_of_the_model_is_not_swallowed() -> None:
    class Wrong(Network):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        measure_throughput(Wrong(), batches=(1,), patches=(7,), compile_modes=(False,), precisions=("float32",))


def test_no_case_is_begun_when_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Network):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.02)
            return super().forward(x)

    started = time.monotonic()
    records = measure_throughput(
        Slow(),
        batches=(1, 2),
        patches=(7, 11),
        compile_modes=(False,),
        precisions=("float32",),
        seconds_each=60.0,
        seconds=0.2,
    )
    assert time.monotonic() - started < 30
    assert [r.problem for r in records] == [None, *[throughput.NO_TIME] * 3]


def test_the_best_has_the_most_samples_a_second() -> None:
    slow, fast = case(seconds=0.5), case(seconds=0.3, compile=True)
    large, failed = case(batch=8, seconds=1.0), case(batch=16, problem="out of memory")
    assert best([slow, fast, large, failed]) is large
    assert best([slow, fast, large, failed], batch=2) is fast
    assert best([slow, fast, large], batch=2, compile=False) is slow
    assert best([failed]) is None and best([]) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_time_is_the_devices_and_memory_is_known() -> None:
    model = models.get("nlsn_light_x2").build(**TINY)
    records = measure_throughput(model, batches=(4,), patches=(24,), device="cuda", seconds_each=0.5)
    assert [r.compile for r in records] == [False, True]
    for record in records:
        assert record.problem is None and record.seconds and record.peak_bytes
        assert record.seconds * record.steps < 2.0
