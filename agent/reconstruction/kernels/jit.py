"""How the kernels are compiled: numba's decorators, with types that mypy can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])


def jitted(function: Function) -> Function:
    """Compile a function: without the interpreter's lock, with fast arithmetic, division by zero as NumPy has it."""
    compiled: Function = njit(nogil=True, fastmath=True, error_model="numpy")(function)
    return compiled


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that emits instructions where a kernel calls it; its first parameter is numba's."""
    emitting: Callable[..., Any] = intrinsic(function)
    return emitting
