"""Code of the user's own: the one loader of `module:attribute` references."""

from __future__ import annotations

import importlib
from typing import Any

from agent.errors import BadInputError


def load_attribute(reference: str) -> Any:
    """The object that a reference names.

    Args:
        reference: `module:attribute`, as `my_module:MyPolicy`; the module must be importable.

    Raises:
        BadInputError: there is no such module or attribute.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        msg = f"{reference!r} cannot be loaded as module:attribute ({error})"
        raise BadInputError(msg) from error
