"""What the verbs of the control socket take, and how their arguments are refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from instrument import wire
from instrument.errors import MalformedRequestError, OutOfLimitsError
from instrument.models import AcquisitionPlan, Identifier, Record, Rectangle
from instrument.text import refuse_unprintable

MAX_WAIT = 30.0
_BOUND_ERRORS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "value_error"}


class Nothing(Record):
    """No arguments."""


class LeaseRequest(Record):
    """Of `lease.acquire`: who asks, and the s without renewal after which the lease lapses."""

    holder: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(refuse_unprintable)]
    ttl: float


class CampaignRequest(Record):
    """Of `campaign`: its name and budget, electrons."""

    campaign: Identifier
    electrons: Annotated[float, Field(gt=0)]


class PlanRequest(Record):
    """Of `check` and `prepare`."""

    plan: AcquisitionPlan


class AcquisitionRequest(Record):
    """Of the verbs that name one acquisition."""

    id: Identifier


class OutcomeRequest(AcquisitionRequest):
    """Of `outcome`."""

    wait: Annotated[float, Field(ge=0, le=MAX_WAIT, description="s to wait for the end")] = 0.0


class ExposuresRequest(Record):
    """Of `exposures`: lines of one campaign, or of one acquisition, or all; a page of those after a number."""

    campaign: Identifier | None = None
    id: Identifier | None = None
    after: Annotated[int, Field(ge=0)] = 0


class IlluminatedRequest(Record):
    """Of `illuminated`: what overlaps an area; a page of those after a number."""

    area: Rectangle
    after: Annotated[int, Field(ge=0)] = 0


class ResumeRequest(Record):
    """Of `resume`: who releases the instrument, and why."""

    operator: Annotated[str, Field(min_length=1, max_length=128), AfterValidator(refuse_unprintable)]
    reason: Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(refuse_unprintable)]


def parse(kind: type[Record], request: wire.Request) -> Record:
    """The arguments of a request.

    Args:
        kind: what its verb takes.
        request: with its arguments as JSON values.

    Raises:
        OutOfLimitsError: a value is not legal.
        MalformedRequestError: the arguments are not those of the verb.
    """
    try:
        return kind.model_validate(request.args)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "arguments"
        msg = f"{request.op}: {where}: {first['msg'].removeprefix('Value error, ')}"
        if all(mistake["type"] in _BOUND_ERRORS for mistake in error.errors()):
            raise OutOfLimitsError(msg, parameter=where) from error
        raise MalformedRequestError(msg) from error
