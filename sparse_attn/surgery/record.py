"""How an attention sits in a network that was not written for it, and what is remembered of how it came there.

An attention after a module is registered as a child of that module, `attention_after`, and run in one of two ways:

- `hook`: a forward hook of the module passes its output on to the child. The hook is a plain function that holds
  nothing and takes the child from the module it is called with.
- `child`: modules that run all their children in a row (`nn.Sequential`, timm's `RegStage`) run it last by themselves.

No module is wrapped or replaced, so what a network's code does with it goes on working: attributes, indexing, type
tests, modules used twice or kept in plain lists. Names of weights stay what they were; a checkpoint of the unchanged
network loads with `strict=False`. `copy.deepcopy`, `pickle`, `torch.compile`, `torch.export`, `DataParallel` and
networks cut up with `nn.Sequential(*model.children())` take the attention along, because a hook by name of a function
is data like any other. A wrapper would change names and types; a class made on the fly cannot be pickled.

What builds a new module in place of another, such as `nn.SyncBatchNorm.convert_sync_batchnorm`, may carry the child
over and leave the hook behind, or drop both: it comes before the insertion. `runs` tells.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sparse_attn.attention import Attention2d, attentions
from sparse_attn.errors import ConfigError

CHILD = "attention_after"
HOOK, IN_ROW = "hook", "child"
_RECORD = "_edit"


@dataclass(frozen=True)
class Edit:
    """What is remembered of one attention.

    Args:
        kind: `insert` or `swap`.
        settings: the arguments it was built with, JSON-able, `channels` apart.
        by: `hook` or `child`, how an inserted one is run.
        was: of a swapped one, what was there: `{"attention", "settings"}` if it can be put back, else `{"type"}`.
    """

    kind: str
    settings: Mapping[str, Any]
    by: str | None = None
    was: Mapping[str, Any] | None = None


def run_attention(module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
    """The forward hook: what the module gives, through its attention."""
    return cast(nn.Module, getattr(module, CHILD))(output)


def place(host: nn.Module, attention: Attention2d, edit: Edit) -> None:
    """Puts an attention after `host`."""
    remember(attention, edit)
    host.add_module(CHILD, attention)
    if edit.by == HOOK:
        host.register_forward_hook(run_attention)


def runs(host: nn.Module, edit: Edit) -> bool:
    """Whether `host` still runs the attention that was placed after it."""
    return edit.by != HOOK or run_attention in host._forward_hooks.values()


def take_out(host: nn.Module) -> None:
    """Undoes `place`."""
    delattr(host, CHILD)
    for key, hook in list(host._forward_hooks.items()):
        if hook is run_attention:
            del host._forward_hooks[key]


def remember(attention: Attention2d, edit: Edit | None) -> None:
    """Files `edit` with the attention, so that it goes wherever the attention is copied, pickled or moved to."""
    vars(attention).pop(_RECORD, None)
    if edit is not None:
        vars(attention)[_RECORD] = edit


def edit_of(module: nn.Module) -> Edit | None:
    """What `remember` filed."""
    edit = vars(module).get(_RECORD)
    return edit if isinstance(edit, Edit) else None


def registered_name(attention: Attention2d) -> str | None:
    """The name its class is registered under."""
    return next((name for name in attentions if attentions.get(name) is type(attention)), None)


def arguments_of(attention: str) -> dict[str, Any]:
    """The keyword arguments of a registered attention, with their defaults."""
    parameters = inspect.signature(attentions.get(attention)).parameters
    return {name: p.default for name, p in parameters.items() if name != "channels"}


def attention_settings(attention: str) -> set[str]:
    """The names of those arguments of a registered attention that may change after construction."""
    return set(attentions.get(attention).settings)


def current_settings(attention: Attention2d) -> dict[str, Any]:
    """The arguments that would build this attention as it is now."""
    edit = edit_of(attention)
    known = {
        **(edit.settings if edit else {}),
        "reduction": attention.channels // attention.embed.out_channels,
        "embed_kernel": attention.embed.kernel_size[0],
        "shared_qk": attention.query is None,
        "normalize_keys": attention.normalize_keys,
        "res_scale": attention.res_scale,
        **{name: getattr(attention, name) for name in attention.settings},
    }
    takes = inspect.signature(type(attention)).parameters
    return {name: value for name, value in known.items() if name in takes}


def jsonable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON would give them back: tuples are lists.

    Raises:
        ConfigError: JSON cannot hold them.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "settings cannot be saved with the model", expected="what JSON can hold", got=str(error)
        ) from error
    return plain


def refuse_wrapped(model: nn.Module) -> None:
    """Edits change a network's modules, which compiled and distributed wrappers have already looked at.

    Raises:
        ConfigError: `model` or a module in it is such a wrapper, was compiled in place, or is TorchScript; or it is no
            module at all.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            "not a network", expected="a torch.nn.Module", got=repr(model), remedy="build the model first"
        )
    for name, module in model.named_modules():
        which = name or "the model"
        if bare(module) is not module:
            raise ConfigError(f"{which} is wrapped", got=type(module).__name__, remedy=_EDIT_FIRST)
        if module._compiled_call_impl is not None:
            raise ConfigError(
                f"{which} is compiled already", got=f"{type(module).__name__}.compile()", remedy=_EDIT_FIRST
            )
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ConfigError("TorchScript cannot be edited", got=type(model).__name__, remedy="edit it before scripting")


_EDIT_FIRST = "edit the network first, then compile or wrap it"


def bare(model: nn.Module) -> nn.Module:
    """The network within `torch.compile`, `DataParallel`, `AveragedModel`, timm's `ModelEmaV3` and their like."""
    while True:
        children = dict(model.named_children())
        # By name, for timm is not to be imported.
        averaged = isinstance(model, AveragedModel) or type(model).__module__ == "timm.utils.model_ema"
        if averaged or isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = children["module"]
        elif list(children) == ["_orig_mod"]:
            model = children["_orig_mod"]
        else:
            return model
