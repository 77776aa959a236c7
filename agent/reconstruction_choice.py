"""How patterns become an object, as campaign and settings files say it: the engine's own settings, and what surrounds them.

Type, bounds, default and meaning of each field are those of `ReconstructionSettings`; a field that is added there is legal here.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from itertools import pairwise
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from pydantic import Field, create_model, model_validator

from agent.encoding import WholePath
from agent.reconstruction import PARTS, Bounds, ReconstructionSettings, members
from instrument.errors import BadInputError
from instrument.models import Record

_NAMED_HERE = "max_passes"
"""Of the engine's; it is called `passes` here and has another default, but its own name is understood as well."""
_OTHER_DEFAULTS = {"stop_early": False, "coherence": 0.95}
"""The same number of passes for every exploration: scores are compared. And states of a source that carry less, in nearly half
of the time: pictures of up to 1e4 e/Å² lose less than a hundredth of their information (reconstruction/model/README.md)."""


Part = Literal["amplitude", "slices", "background", "intensity", "positions", "spread", "modes", "variations"]
"""The keys of `agent.reconstruction.PARTS`."""


class _Surroundings(Record):
    model: Literal["auto", "given"] | tuple[Part, ...] = Field(
        default="auto",
        description="auto: held-out counts choose amplitude, slices, background, intensity, positions, spread (of the "
        "detector), modes and variations (of the probe), each where none of its keys is written here; given: all as written or "
        "by default; or a list of what to choose",
        validate_default=True,
    )
    passes: Annotated[int, Field(ge=1, le=1000)] = Field(default=10, description="passes over all patterns")
    final_passes: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=60,
        description="of a campaign's final, expert and reference picture: passes end where held-out counts gain no more, after "
        "so many at the latest; 0: those pictures get the passes of every trial",
    )
    calibrate: bool = Field(default=True, description="measure rotation, handedness and defocus from the data")
    probe: WholePath | None = Field(
        default=None,
        description="file with the probe to start from: a reconstruction file of this column, whose probe is taken to the "
        "acquisition's optics, or waves (modes, y, x) over a pattern's window (.npy), taken as they are; None: from the optics",
    )
    function: str | None = Field(
        default=None,
        description="module:attribute called as f(DiffractionData, ReconstructionSettings); None: built in",
    )

    def settings(self) -> ReconstructionSettings:
        """What the engine takes.

        Raises:
            BadInputError: values that are not possible together.
        """
        given = {name: getattr(self, name) for name in _generated()}
        return ReconstructionSettings(max_passes=self.passes, **given)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Parts of the model that held-out counts choose."""
        return () if isinstance(self.model, str) else self.model

    def to_the_end(self) -> Self:
        """The choice for a picture that is compared in the end; a function of the user's own is called as for every trial."""
        if not self.final_passes or self.function is not None:
            return self
        return self.model_copy(update={"passes": max(self.passes, self.final_passes), "stop_early": True})

    @model_validator(mode="before")
    @classmethod
    def _left_free(cls, raw: Any) -> Any:
        """The parts by name, so that they are known where a record is written with all its fields and read again."""
        raw = {} if raw == "auto" else raw
        if not isinstance(raw, dict) or raw.get("model", "auto") != "auto":
            return raw
        free = tuple(part for part, names in PARTS.items() if not raw.keys() & set(names))
        # where everything that can be written is written, as in a campaign of before, nothing is left to choose
        return {**raw, "model": tuple(part for part in free if any(PARTS[part] for part in free))}

    @model_validator(mode="before")
    @classmethod
    def _by_either_name(cls, raw: Any) -> Any:
        if not isinstance(raw, dict) or _NAMED_HERE not in raw:
            return raw
        if "passes" in raw:
            msg = f"{_NAMED_HERE} and passes are the same; leave one out"
            raise ValueError(msg)
        return {"passes" if name == _NAMED_HERE else name: value for name, value in raw.items()}

    @model_validator(mode="after")
    def _possible_together(self) -> _Surroundings:
        try:
            members(self.settings().refine_optics)
        except BadInputError as error:
            raise ValueError(str(error)) from error
        return self


def _generated() -> list[str]:
    """Names of the engine's settings that are legal under the same name."""
    return [field.name for field in fields(ReconstructionSettings) if field.name != _NAMED_HERE]


def _for_pydantic(hint: Any) -> Any:
    """The type with its bounds in pydantic's words."""
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_for_pydantic(part) for part in get_args(hint))]  # noqa: UP007
    if get_origin(hint) is not Annotated:
        return hint
    kind, bounds = get_args(hint)
    assert isinstance(bounds, Bounds)
    low: dict[str, Any] = {"gt" if bounds.above else "ge": bounds.low}
    return Annotated[kind, Field(le=bounds.high, **low)]


def _meanings() -> dict[str, str]:
    """What stands beside the default of each setting, on one line; nothing where there is no source to read."""
    try:
        body = ast.parse(inspect.getsource(ReconstructionSettings)).body[0]
    except OSError:
        return {}
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def _definitions() -> dict[str, Any]:
    hints, meanings = get_type_hints(ReconstructionSettings, include_extras=True), _meanings()
    defaults = {field.name: field.default for field in fields(ReconstructionSettings)} | _OTHER_DEFAULTS
    free = {name for names in PARTS.values() for name in names}
    return {
        name: (
            _for_pydantic(hints[name]),
            Field(
                default=defaults[name],
                description=meanings.get(name),
                json_schema_extra={"chosen": True} if name in free else None,
            ),
        )
        for name in _generated()
    }


if TYPE_CHECKING:

    class ReconstructionChoice(_Surroundings):
        """Its further fields are those of `ReconstructionSettings`; give them to `model_validate`."""

else:
    ReconstructionChoice = create_model(
        "ReconstructionChoice",
        __base__=_Surroundings,
        __module__=__name__,
        __doc__="How patterns become an object: the settings of the engine, and the passes that every trial gets.",
        **_definitions(),
    )
