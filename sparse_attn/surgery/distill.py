"""A short distillation: a sparse attention learns to give what the dense one it replaces gave."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sparse_attn.attention import Attention2d


@dataclass(frozen=True)
class Distillation:
    """What `imitate` did.

    Args:
        steps: of Adam.
        before: ||student - teacher|| / ||teacher|| of the attention's output over all inputs, before the residual.
        after: the same after the last step.
        kept: whether the trained weights are the better ones; else they were put back.
    """

    steps: int
    before: float
    after: float
    kept: bool


def imitate(
    student: Attention2d, teacher: Attention2d, inputs: Sequence[Tensor], *, steps: int, lr: float, seed: int
) -> Distillation:
    """Trains `student` in place so that it gives what `teacher` gives; the better of before and after is kept.

    Both are run in evaluation mode, so that the groups are the ones of use. The global random state is not used.

    Args:
        student: in float32 or float64; shares no parameter with the teacher.
        teacher: is not changed.
        inputs: (B, C, H, W) maps, one a step.
        steps: of Adam, on the mean squared error of the output, with a learning rate that falls to zero by a cosine.
        lr: the first learning rate.
        seed: of the order of the inputs.
    """
    student.eval()
    with torch.no_grad():
        targets = [teacher(x) - x for x in inputs]
    # The error is measured in units of the target, so that Adam's epsilon is as small next to weak attention.
    power = sum(float(target.double().square().mean()) for target in targets) / len(targets)
    before = _error(student, inputs, targets)
    start = copy.deepcopy(student.state_dict())
    parameters = [parameter.requires_grad_() for parameter in student.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order: list[int] = []
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        order = order or torch.randperm(len(inputs), generator=generator).tolist()
        turn = order.pop()
        with torch.enable_grad():
            loss = F.mse_loss(student(inputs[turn]) - inputs[turn], targets[turn]) / (power or 1.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        optimizer.step()
        schedule.step()
    after = _error(student, inputs, targets)
    kept = after < before
    if not kept:
        student.load_state_dict(start)
    return Distillation(steps, before, after, kept)


@torch.no_grad()
def _error(student: Attention2d, inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> float:
    off = sum(
        float((student(x) - x - target).double().square().sum()) for x, target in zip(inputs, targets, strict=True)
    )
    whole = sum(float(target.double().square().sum()) for target in targets)
    return 0.0 if off == 0 else math.sqrt(off / whole) if whole else math.inf
