"""Attention into any network, after chosen modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sparse_attn.attention import Attention2d, create_attention
from sparse_attn.errors import ConfigError
from sparse_attn.surgery.channels import Seen, certain, trace
from sparse_attn.surgery.names import Where, choose, names_of, outside_attention
from sparse_attn.surgery.record import CHILD, Edit, arguments_of, edit_of, jsonable, place, refuse_wrapped
from sparse_attn.surgery.watching import DoesNotRunError, Sample


@dataclass(frozen=True)
class Insertion:
    """One attention that was inserted.

    Args:
        after: dotted name of the module it follows.
        name: dotted name of the attention.
        attention: its registered name.
        channels: C.
        parameters: how many numbers to train it adds.
        calls: how often one pass through the model runs it; None if the model was not run.
    """

    after: str
    name: str
    attention: str
    channels: int
    parameters: int
    calls: int | None


def insert_attention(
    model: nn.Module,
    where: Where,
    attention: str = "nlsa",
    *,
    zero_init: bool = True,
    sample: Sample = None,
    **settings: Any,
) -> list[Insertion]:
    """Inserts an attention after each chosen module of any network, in place.

    The attention becomes the child `attention_after` of the module it follows, so the names of all other weights stay
    what they were. It is on the device, in the dtype and in the mode of its surroundings, and trainable whether they
    are or not. Its first weights come from PyTorch's global generator. Attentions that hash get different seeds, unless
    `seed=` is among the settings: then all of them have that one.

    Args:
        model: the network. Insert before compiling it or wrapping it for several devices, and before handing its
            parameters to an optimizer.
        where: a glob over dotted names, in which `*` stays between two dots and `**` crosses them (`"layer3.*"`: each
            block of `layer3`, `"layer3"`: the stage); a list of globs; a type of module or a tuple of types; or a
            function of (name, module) that says which. The network itself, and what lies in an attention of this
            package, is never meant.
        attention: one of `list_attention()`.
        zero_init: start as the identity: outputs stay what they were, bit for bit, until the attention is trained.
        sample: the model's input, or the tuple of its inputs. The model is run on it, in eval mode and without
            gradients, to see what the chosen modules give; modes, buffers and random state stay as they are. Default:
            noise, (1, C, 64, 64) with the C of the first convolution. Where the model does not run on that,
            convolutions and batch norms are taken at their word.
        settings: passed to the attention.

    Returns:
        What was inserted, in the order of the network's modules.

    Raises:
        ConfigError: nothing matches; patterns overlap, or choose a module and one within it; there is an attention
            already; a module does not run, gives no (B, C, H, W), or has its children run in another way than one
            after the other; a bad setting. Then nothing has changed.
        UnknownNameError: no such attention, or no such setting of it.

    Examples:
        >>> from torchvision.models import resnet18
        >>> model = resnet18()
        >>> [done.name for done in insert_attention(model, "layer3.*", "nlsa", rounds=2)]
        ['layer3.0.attention_after', 'layer3.1.attention_after']
    """
    refuse_wrapped(model)
    known = arguments_of(attention)
    names = names_of(model)
    hosts = {module: own[0] for module, own in choose(outside_attention(names), where).items()}
    check_hosts(hosts)
    _refuse_nested(hosts)
    seen = _look(model, hosts, sample)
    offset = sum(isinstance(module, Attention2d) for module in names)
    planned = []
    random = torch.get_rng_state()
    try:
        for index, (host, name) in enumerate(hosts.items()):
            own = {"seed": offset + index} if "seed" in known else {}
            built = {**known, **own, "zero_init": zero_init, **settings}
            module = build_like(model, host, attention, seen[host], built)
            planned.append((host, name, module, Edit("insert", jsonable(built), by=seen[host].by)))
    except BaseException:
        torch.set_rng_state(random)
        raise
    for host, _, module, edit in planned:
        place(host, module, edit)
    return [
        Insertion(
            name,
            f"{name}.{CHILD}",
            attention,
            module.channels,
            sum(p.numel() for p in module.parameters()),
            seen[host].calls,
        )
        for host, name, module, _ in planned
    ]


def build_like(
    model: nn.Module, host: nn.Module, attention: str, seen: Seen, settings: Mapping[str, Any]
) -> Attention2d:
    """An attention on the device, in the dtype and in the mode of the module it will follow."""
    like = like_around(model, host)
    # Initial weights are drawn on the CPU, so that a seed gives the same ones for every device.
    with torch.device("cpu"):
        module = create_attention(attention, seen.channels, **settings)
    # A dtype that none of the model's weights has is autocast's, which wants weights of full precision.
    dtype = seen.dtype if seen.dtype in _dtypes(model) else like.dtype
    return module.to(seen.device or like.device, dtype).train(host.training)


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    return {p.dtype for p in model.parameters() if p.is_floating_point()}


def like_around(model: nn.Module, host: nn.Module) -> torch.Tensor:
    """A weight whose device and dtype are those around `host`: one of its own, else the model's first."""
    near = _floating(host)
    near = _floating(model) if near is None else near
    return torch.empty(0) if near is None else near


def _floating(module: nn.Module) -> torch.Tensor | None:
    """The first weight that an inserted attention does not have."""
    inserted: set[nn.Module] = set()
    for part in module.modules():
        edit = edit_of(part)
        if edit is not None and edit.kind == "insert":
            inserted.update(part.modules())
    own = [part for part in module.modules() if part not in inserted]
    tensors: list[torch.Tensor] = [p for part in own for p in part.parameters(recurse=False)]
    tensors += [b for part in own for b in part.buffers(recurse=False)]
    return next((tensor for tensor in tensors if tensor.is_floating_point()), None)


def _look(model: nn.Module, hosts: Mapping[nn.Module, str], sample: Sample) -> dict[nn.Module, Seen]:
    known = {module: seen for module in hosts if (seen := certain(module)) is not None}
    sure = sample is None and len(known) == len(hosts)
    if sure and any(is_lazy(p) for p in model.parameters()):
        # Running it would give it its shapes.
        return known
    try:
        return trace(model, hosts, sample)
    except DoesNotRunError:
        # Of a network in several dtypes it takes a run to know which one a module gives.
        if sure and len(_dtypes(model)) < 2:
            return known
        raise


def check_hosts(hosts: Mapping[nn.Module, str]) -> None:
    """Refuses modules that cannot be followed by an attention.

    Raises:
        ConfigError: they are already, or have another child of the same name.
    """
    for host, name in hosts.items():
        taken = host._modules.get(CHILD)
        if isinstance(taken, Attention2d):
            raise ConfigError(
                f"{name} is followed by an attention already",
                got=f"{name}.{CHILD}",
                remedy="swap_attention exchanges it, remove_attention takes it out",
            )
        if taken is not None or CHILD in vars(host):
            raise ConfigError(f"{name} has something else called {CHILD}", remedy="choose a module around it")


def _refuse_nested(hosts: Mapping[nn.Module, str]) -> None:
    for host, name in hosts.items():
        below = set(host.modules()) - {host}
        inner = next((hosts[module] for module in hosts if module in below), None)
        if inner is not None:
            raise ConfigError(
                "patterns overlap",
                expected="modules of which none contains another",
                got=f"{name} and {inner}",
                remedy="insert at one level at a time",
            )
