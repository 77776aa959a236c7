"""Numbers as people read them: with their uncertainty, in the digits that matter, never without a unit."""

from __future__ import annotations

import math

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of(value: float) -> int:
    """The multiple of three as which 10 is pulled out of `value`; 0 for values that read well as they are.

    >>> power_of(0.0042), power_of(3.1), power_of(1.2e7)
    (-3, 0, 6)
    """
    magnitude = abs(value)
    if not math.isfinite(magnitude) or magnitude == 0 or 0.1 <= magnitude < 1e4:
        return 0
    return 3 * math.floor(math.log10(magnitude) / 3 + 1e-9)


def times_power(power: int) -> str:
    """' × 10⁶', or nothing for a power of 0."""
    return f" × 10{str(power).translate(_SUPERSCRIPT)}" if power else ""


def uncertain(value: float, sd: float | None, power: int | None = None) -> str:
    """`value` ± `sd`, the uncertainty with one digit (two where it begins with 1 or 2), the value to the same place.

    Args:
        value: in any unit.
        sd: standard deviation, in the same unit; None: not known.
        power: 10^power is pulled out, so that the rows of a table share one; None: chosen from `value`.

    >>> uncertain(4.2134, 0.0712)
    '4.21 ± 0.07'
    >>> uncertain(4.213e-4, 1.3e-6)
    '(421.3 ± 1.3) × 10⁻⁶'
    """
    if power is None:
        power = power_of(value)
    scaled = value / 10.0**power
    if sd is None or sd <= 0 or not math.isfinite(sd):
        return f"{scaled:.4g}{times_power(power)}"
    scaled_sd = sd / 10.0**power
    place = math.floor(math.log10(scaled_sd))
    digits = min(max(0, (1 if scaled_sd < 3 * 10.0**place else 0) - place), 8)
    text = f"{scaled:.{digits}f} ± {scaled_sd:.{digits}f}".replace("-", "−")
    return f"({text}){times_power(power)}" if power else text


def electrons(number: float) -> str:
    """A number of electrons (or a dose) to three digits.

    >>> electrons(1.234e7), electrons(2970.4), electrons(31.25)
    ('12.3 × 10⁶', '2970', '31.2')
    """
    if 1000 <= number < 1e4:
        return f"{number:.0f}"
    power = power_of(number)
    return f"{number / 10.0**power:.3g}{times_power(power)}"


def length(angstrom: float) -> str:
    """A length, Å.

    >>> length(0.85), length(31.25)
    ('0.85 Å', '31.25 Å')
    """
    return f"{angstrom:.4g} Å".replace("-", "−")


def signed_length(angstrom: float) -> str:
    """A defocus, Å, with its sign.

    >>> signed_length(500.0)
    '+500 Å'
    """
    return f"{angstrom:+,.0f} Å".replace("-", "−").replace(",", "\u202f")


def duration(seconds: float) -> str:
    """A time span in the units one would say it in.

    >>> duration(7.31), duration(125), duration(7300)
    ('7.3 s', '2 min 05 s', '2 h 01 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def beam(voltage: float, wavelength: float | None) -> str:
    """What illuminates the specimen.

    >>> beam(80e3, None), beam(75.8, 1.409)
    ('80 kV', '1.409 Å (X-rays or light)')

    Args:
        voltage: eV.
        wavelength: Å, of X-rays or light; None: of electrons.
    """
    return f"{voltage / 1e3:g} kV" if wavelength is None else f"{wavelength:g} Å (X-rays or light)"
