"""What lives in a worker: one contender in one case, and what is asked of it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_attn.benchmark.cases import Case, Pass
from sparse_attn.benchmark.contenders import autocast, build, find, input_of
from sparse_attn.benchmark.gate import gate
from sparse_attn.benchmark.memory import give_back, peak_bytes


class Subject:
    """One contender in one case.

    Args:
        name: the contender.
        case: where.
        device: on what.
    """

    def __init__(self, name: str, case: Case, device: str) -> None:
        self.contender, self.case, self.device = find(name), case, torch.device(device)
        if self.device.type == "cuda":
            # Else the convolutions of float32 blocks would round to 10 bits.
            torch.backends.cudnn.allow_tf32 = False
        self.module = build(self.contender, case, self.device)
        self.x = input_of(case, self.device)
        if case.model is not None and self.contender.bf16:
            self.x = self.x.to(memory_format=torch.channels_last)
        self.cotangent = torch.randn_like(self.x)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=1e-4) if case.training else None

    def prepare(self) -> dict[str, float]:
        """Runs each pass once: seconds of each, compiling and tuning included."""
        return {run: self.seconds(run) for run in self.case.passes}

    def gate(self) -> dict[str, float]:
        """See `gate`; its memory is given back, so that the timed passes do not find it warm."""
        errors = gate(self.contender, self.case, self.module, self.device)
        give_back()
        return errors

    def seconds(self, run: Pass) -> float:
        """The time of one pass."""
        act = self._act(run)
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self.device)
            start.record()
            kept = act()
            end.record()
            end.synchronize()
            elapsed = start.elapsed_time(end) / 1e3
        else:
            began = time.perf_counter()
            kept = act()
            elapsed = time.perf_counter() - began
        del kept
        return elapsed

    def memory(self, run: Pass) -> int | None:
        """The bytes that one pass adds at its peak."""
        return peak_bytes(self._act(run), self.device)

    def _act(self, run: Pass) -> Callable[[], Tensor]:
        self.module.zero_grad(set_to_none=True)
        if run == "forward":
            return self._forward
        if run == "step":
            return self._step
        x = self.x.detach().clone().requires_grad_()
        return lambda: self._both(x)

    def _forward(self) -> Tensor:
        with torch.no_grad(), autocast(self.contender, self.device):
            return self.module(self.x)

    def _both(self, x: Tensor) -> Tensor:
        with autocast(self.contender, self.device):
            out: Tensor = self.module(x)
        out.backward(self.cotangent.to(out.dtype))
        return out

    def _step(self) -> Tensor:
        """One step towards a black picture: the time is that of any other."""
        assert self.optimizer is not None
        with autocast(self.contender, self.device):
            out = self.module(self.x)
        loss = F.l1_loss(out.float(), torch.zeros_like(out, dtype=torch.float32))
        loss.backward()
        self.optimizer.step()
        return loss
