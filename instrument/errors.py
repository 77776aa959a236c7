"""The errors of the instrument side: one small tree with stable codes.

A code is part of the wire protocol: it never changes its meaning. The message says what is wrong, with which
value, what is legal and what to do.
"""

from __future__ import annotations

from tokenize import TokenError
from typing import Any, ClassVar

NUMPY_REFUSES = (OSError, ValueError, EOFError, SyntaxError, TokenError, TypeError)
"""What `numpy.load` raises of damaged files: their headers are Python."""


class BadInputError(Exception):
    """A file, a value or an option is wrong: one sentence says what, with which value, what is legal and what to do.

    Raised before anything is computed or exposed. It never travels on the wire; an instrument answers `InstrumentError`.
    """


class InstrumentError(Exception):
    """Base of everything an instrument may answer instead of a result.

    Attributes:
        code: stable, upper-case identifier that travels on the wire.
        retryable: whether the same request may succeed later without being changed.
        detail: numbers and names for machines (limits, the offending value).
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail

    def to_wire(self) -> dict[str, Any]:
        """The error as the JSON object of a reply."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable, "detail": self.detail}


class MalformedRequestError(InstrumentError):
    """The message is not a request of this protocol: bad frames, JSON, verb or arguments."""

    code = "MALFORMED"


class UnsupportedVersionError(InstrumentError):
    """The two sides speak different major versions of the protocol."""

    code = "VERSION"


class OutOfLimitsError(InstrumentError):
    """A value lies outside what the instrument can do. It is refused, never clamped."""

    code = "OUT_OF_LIMITS"


class BudgetError(InstrumentError):
    """The electrons asked for are more than campaign or region have left."""

    code = "BUDGET"


class NotReservedError(InstrumentError):
    """`start` without a live reservation."""

    code = "NOT_RESERVED"


class ConflictError(InstrumentError):
    """The id is known with other contents, or the instrument is busy with another acquisition."""

    code = "CONFLICT"


class StaleLeaseError(InstrumentError):
    """The lease has lapsed, or a holder with a higher fence number has taken over."""

    code = "STALE_LEASE"


class SafeStateError(InstrumentError):
    """The instrument is in SAFE: the beam stays off until an operator releases it with `resume`."""

    code = "SAFE"


class SuspendedError(InstrumentError):
    """The column is not well (vacuum, high tension, cooling, …): nothing is exposed until it has been well for a while."""

    code = "SUSPENDED"
    retryable = True


class SettingsError(InstrumentError):
    """The column did not become what it was set to; it was read back, twice."""

    code = "SETTINGS"


class AccessError(InstrumentError):
    """The key of the sender has a role that may not do this."""

    code = "ACCESS"


class ExpiredError(InstrumentError):
    """The command arrived after its deadline and was not carried out."""

    code = "EXPIRED"
    retryable = True


class BlankedError(InstrumentError):
    """The beam was blanked while the acquisition ran; it has been stopped."""

    code = "BLANKED"


class ExhaustedError(InstrumentError):
    """A recording has no counts left at the positions asked for."""

    code = "EXHAUSTED"


class StreamError(InstrumentError):
    """The frames that arrived are not those of the acquisition: a gap, no end, or a message that is not a frame."""

    code = "STREAM"


class UnreachableError(InstrumentError):
    """The instrument does not answer."""

    code = "UNREACHABLE"
    retryable = True


class HandshakeError(UnreachableError):
    """Something listens at the endpoint, but breaks the connection off before a word is said."""


class RefusedError(HandshakeError):
    """The other side refuses the connection for good: because of the keys, or because it is no instrument."""

    retryable = False


def error_from_wire(error: dict[str, Any]) -> InstrumentError:
    """Rebuild the typed error of a reply.

    Args:
        error: the JSON object that `InstrumentError.to_wire` made.

    Returns:
        An error of the class that has this code; a plain `InstrumentError` where the code is unknown.
    """
    code = str(error.get("code", "INTERNAL"))
    detail = error.get("detail")
    known = {cls.code: cls for cls in InstrumentError.__subclasses__()}
    return known.get(code, InstrumentError)(
        str(error.get("message", code)), **(detail if isinstance(detail, dict) else {})
    )
