# SPDX-License-Identifier: GPL-3.0-or-later
"""Potentials where nothing can be written: what abTEM compiles is kept where there is a place for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sim_instrument.potential import _keeping


@pytest.mark.parametrize("writable", [True, False])
def test_abtem_is_compiled_with_and_without_a_folder_to_keep_it_in(writable: bool) -> None:
    def jit(*signatures: str, cache: bool = False) -> Callable[..., Any]:
        def compiled(function: Callable[..., Any]) -> Any:
            if cache and not writable:
                raise RuntimeError("cannot cache function: no locator available")  # numba's words
            return function.__name__, signatures, cache

        return compiled

    def exponential() -> None: ...

    assert _keeping(jit)(exponential) == ("exponential", (), writable)
    assert _keeping(jit)("f4(f4)")(exponential) == ("exponential", ("f4(f4)",), writable)
