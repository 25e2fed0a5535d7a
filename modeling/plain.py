"""Whether a layer is what its class says and no more, so that its parameters may be used without calling it."""

from __future__ import annotations

from typing import TypeGuard, TypeVar

from torch import nn

_Kind = TypeVar("_Kind", bound=nn.Module)


def is_plain(module: nn.Module, kind: type[_Kind]) -> TypeGuard[_Kind]:
    """Whether nothing happens in `module` but what `kind` does.

    Adapters and quantisation put another class in its place; sharding, offloading and many a user add hooks or replace
    its `forward`.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)
