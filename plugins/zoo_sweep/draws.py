"""Random draws of a forward pass: recorded in one model, and replayed in a stack of models.

`torch.func.vmap` draws from one generator for all models. A model of a stack must draw what it would draw alone, so its
draws are made before the pass, with its own seed, and the functions that would draw return them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

IN_PLACE = ("normal_", "uniform_", "exponential_", "random_", "cauchy_", "log_normal_", "geometric_")
FACTORIES = {"rand": "uniform_", "rand_like": "uniform_", "randn": "normal_", "randn_like": "normal_"}
"""Functions that create a tensor, and the methods that draw the same numbers in place."""


RANDOM = {"normal", "randperm", *IN_PLACE, *FACTORIES}


class CannotStack(Exception):
    """A model cannot be trained in a stack; the message is the reason."""


@dataclass(frozen=True)
class Draw:
    """A call that draws random numbers, none of whose arguments depend on the model.

    Attributes:
        function: a method of tensors that draws in place, or ``randperm``.
        arguments: of the method.
        shape, dtype: of the draws.
    """

    function: str
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    def write(self, tensor: Tensor) -> None:
        """Draw from torch's generator into a tensor of this shape."""
        if self.function == "randperm":
            torch.randperm(len(tensor), out=tensor)
        else:
            getattr(tensor, self.function)(*self.arguments)


class Recording(TorchFunctionMode):
    """Records the draws inside the block.

    Attributes:
        draws: in the order of the calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, and record it if it draws."""
        result = func(*args, **(kwargs or {}))
        if (call := _call(func, args, kwargs or {})) is not None:
            self.draws.append(Draw(*call, tuple(result.shape), result.dtype))
        return result


class Replaying(TorchFunctionMode):
    """Inside the block, calls that draw return given draws.

    Args:
        draws: the recorded calls.
        values: what they return.

    Raises:
        CannotStack: the calls differ from the recorded ones.
    """

    def __init__(self, draws: Sequence[Draw], values: Sequence[Tensor]) -> None:
        super().__init__()
        self._pairs = iter(list(zip(draws, values, strict=True)))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function, unless it draws."""
        if getattr(func, "__name__", "") not in RANDOM or (call := _call(func, args, kwargs or {})) is None:
            return func(*args, **kwargs) if kwargs else func(*args)
        draw, values = next(self._pairs, (None, None))
        if draw is None or values is None or call != (draw.function, draw.arguments):
            raise CannotStack(f"its draws differ from pass to pass, at a call of {call[0]}")
        if _name(func) == "normal":
            mean, scale = args
            return values * scale + mean
        return values


def _call(
    func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[str, tuple[Any, ...]] | None:
    """The method and the arguments of a call that draws independently of the model; None for any other call."""
    name = _name(func)
    if kwargs.get("generator") is not None:
        return None
    if name == "normal" and len(args) == 2 and isinstance(args[0], Tensor) and not kwargs:
        return "normal_", ()  # which torch scales and shifts
    if name in FACTORIES:
        return FACTORIES[name], ()
    if name == "randperm":
        return name, ()
    if name in IN_PLACE:
        arguments = (*args[1:], *(value for key, value in kwargs.items() if key != "generator"))
        return None if any(isinstance(value, Tensor) for value in arguments) else (name, arguments)
    return None


def _name(func: Callable[..., Any]) -> str:
    return str(getattr(func, "__name__", ""))
