"""What a microscope offers, in which units, and over which wire. Needs no GPU and no torch."""

from instrument.client import InstrumentClient
from instrument.errors import (
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
    StaleLeaseError,
    StreamError,
    UnreachableError,
    UnsupportedVersionError,
)
from instrument.keys import ClientKeys, ServerKeys, generate_keys
from instrument.microscope import Frame, Microscope
from instrument.models import (
    AcquisitionPlan,
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
from instrument.status import CampaignAccount, Exposure, InstrumentStatus, Lease, OperatorEvent
from instrument.stream import SeriesStart, decode_chunk

__all__ = [
    "AcquisitionPlan",
    "BlankedError",
    "BudgetError",
    "CampaignAccount",
    "ClientKeys",
    "ConflictError",
    "Description",
    "Detector",
    "ExhaustedError",
    "ExpiredError",
    "Exposure",
    "Frame",
    "FrameSink",
    "Health",
    "InstrumentClient",
    "InstrumentError",
    "InstrumentServer",
    "InstrumentStatus",
    "Lease",
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
    "StaleLeaseError",
    "StreamError",
    "UnreachableError",
    "UnsupportedVersionError",
    "decode_chunk",
    "generate_keys",
    "serve",
]
