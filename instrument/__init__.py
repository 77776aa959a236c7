"""What a microscope offers, in which units, and over which wire. Needs no GPU and no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instrument.chunks import decode_chunk
    from instrument.client import InstrumentClient
    from instrument.errors import (
        AccessError,
        BlankedError,
        BudgetError,
        ConflictError,
        ExhaustedError,
        ExpiredError,
        InstrumentError,
        MalformedRequestError,
        NotReservedError,
        OutOfLimitsError,
        SafeStateError,
        SettingsError,
        StaleLeaseError,
        StreamError,
        SuspendedError,
        UnreachableError,
        UnsupportedVersionError,
    )
    from instrument.keys import ClientKeys, ServerKeys, generate_keys
    from instrument.microscope import Frame, Microscope
    from instrument.models import (
        AcquisitionPlan,
        Aperture,
        Condition,
        Description,
        Detector,
        Health,
        Outcome,
        Parameter,
        PlanCheck,
        Rectangle,
        Reservation,
    )
    from instrument.receiver import FrameSink
    from instrument.serve import serve
    from instrument.server import InstrumentServer
    from instrument.status import CampaignAccount, InstrumentStatus, Lease, LedgerEntry, OperatorEvent
    from instrument.stream import SeriesStart

__all__ = [
    "AccessError",
    "AcquisitionPlan",
    "Aperture",
    "BlankedError",
    "BudgetError",
    "CampaignAccount",
    "ClientKeys",
    "Condition",
    "ConflictError",
    "Description",
    "Detector",
    "ExhaustedError",
    "ExpiredError",
    "Frame",
    "FrameSink",
    "Health",
    "InstrumentClient",
    "InstrumentError",
    "InstrumentServer",
    "InstrumentStatus",
    "Lease",
    "LedgerEntry",
    "MalformedRequestError",
    "Microscope",
    "NotReservedError",
    "OperatorEvent",
    "OutOfLimitsError",
    "Outcome",
    "Parameter",
    "PlanCheck",
    "Rectangle",
    "Reservation",
    "SafeStateError",
    "SeriesStart",
    "ServerKeys",
    "SettingsError",
    "StaleLeaseError",
    "StreamError",
    "SuspendedError",
    "UnreachableError",
    "UnsupportedVersionError",
    "decode_chunk",
    "generate_keys",
    "serve",
]

_HOMES = {
    "client": ("InstrumentClient",),
    "errors": (
        "AccessError",
        "BlankedError",
        "BudgetError",
        "ConflictError",
        "ExhaustedError",
        "ExpiredError",
        "InstrumentError",
        "MalformedRequestError",
        "NotReservedError",
        "OutOfLimitsError",
        "SafeStateError",
        "SettingsError",
        "StaleLeaseError",
        "StreamError",
        "SuspendedError",
        "UnreachableError",
        "UnsupportedVersionError",
    ),
    "keys": (
        "ClientKeys",
        "ServerKeys",
        "generate_keys",
    ),
    "microscope": (
        "Frame",
        "Microscope",
    ),
    "models": (
        "AcquisitionPlan",
        "Aperture",
        "Condition",
        "Description",
        "Detector",
        "Health",
        "Outcome",
        "Parameter",
        "PlanCheck",
        "Rectangle",
        "Reservation",
    ),
    "receiver": ("FrameSink",),
    "serve": ("serve",),
    "server": ("InstrumentServer",),
    "status": (
        "CampaignAccount",
        "LedgerEntry",
        "InstrumentStatus",
        "Lease",
        "OperatorEvent",
    ),
    "stream": ("SeriesStart",),
    "chunks": ("decode_chunk",),
}
"""Modules and what they hold of `__all__`; imported when first asked for: optics alone needs neither sockets nor schemas."""


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names), None)
    if home is None:
        msg = f"module 'instrument' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"instrument.{home}"), name)
