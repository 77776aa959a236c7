"""Sixteen floats as one numba value: loading, storing, arithmetic, transposition.

LLVM vectorises what is written with these whatever the machine has: one AVX-512 register, two of AVX2, four of SSE or
NEON. Steps that work on many vectors at once take as many lanes at a time as a register has. No compiler, no extension
and no particular instruction set is needed.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import models, register_model

from agent.reconstruction.kernels.jit import instruction
from agent.reconstruction.kernels.transform import LANES, registers

FAST = ("fast",)
_FLOAT, _INT = ir.FloatType(), ir.IntType(32)
_VECTOR, _INTS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_INT, LANES)
REGISTER = registers()[0]
"""Lanes that butterflies and transpositions work on at a time: with more, not all numbers of a step find a register."""


class VectorType(types.Type):
    """The numba type of sixteen float32."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


vector = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def constant(value: float, lanes: int = LANES) -> Any:
    """A number in all lanes."""
    return ir.Constant(ir.VectorType(_FLOAT, lanes), [value] * lanes)


def _define_operator(symbol: Any, emitted: str) -> None:
    @infer_global(symbol)
    class _Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            return signature(vector, vector, vector) if args == (vector, vector) else None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, emitted)(*args, flags=FAST)

    lower_builtin(symbol, vector, vector)(lower)


for _symbol, _emitted in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_symbol, _emitted)


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Address of the first number of a numba array of type `kind`."""
    return cgutils.create_struct_proxy(kind)(context, builder, array).data


def read(builder: Any, base: Any, index: Any, lanes: int = LANES) -> Any:
    """As many floats as lanes, from `index` on."""
    value = builder.load(builder.bitcast(builder.gep(base, [index]), ir.VectorType(_FLOAT, lanes).as_pointer()))
    value.align = 4
    return value


def write(builder: Any, base: Any, index: Any, value: Any) -> None:
    """Write the lanes of `value` from `index` on."""
    builder.store(value, builder.bitcast(builder.gep(base, [index]), value.type.as_pointer())).align = 4


def broadcast(builder: Any, scalar: Any, lanes: int = LANES) -> Any:
    """A value in all lanes."""
    undefined = ir.Constant(ir.VectorType(_FLOAT, lanes), ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes))


@instruction
def load(typingctx: Any, array: Any, index: Any) -> Any:
    """Sixteen floats of a flat float32 array from `index` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return read(builder, data_of(context, builder, sig.args[0], args[0]), args[1])

    return vector(array, types.intp), codegen


@instruction
def store(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write sixteen floats into a flat float32 array from `index` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        write(builder, data_of(context, builder, sig.args[0], args[0]), args[1], args[2])
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@instruction
def splat(typingctx: Any, scalar: Any) -> Any:
    """A float32 sixteen times."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, args[0])

    return vector(types.float32), codegen


@instruction
def total(typingctx: Any, value: Any) -> Any:
    """Sum of the sixteen lanes, float32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        width, rest = LANES, args[0]
        while width > 1:
            width //= 2
            lanes = ir.VectorType(_INT, LANES)
            mask = ir.Constant(lanes, [(i + width) % LANES for i in range(LANES)])
            rest = builder.fadd(rest, builder.shuffle_vector(rest, rest, mask), flags=FAST)
        return builder.extract_element(rest, ir.Constant(_INT, 0))

    return types.float32(vector), codegen


def _read_counts(builder: Any, base: Any, kind: Any, index: Any, n: int) -> Any:
    """n counts as floats."""
    if kind == types.float32:
        item, floats = ir.VectorType(_FLOAT, n), None
    else:
        item, floats = ir.VectorType(ir.IntType(kind.bitwidth), n), ir.VectorType(_FLOAT, n)
    value = builder.load(builder.bitcast(builder.gep(base, [index]), item.as_pointer()))
    value.align = 1
    if floats is None:
        return value
    if kind.bitwidth < 32:  # by way of signed integers, for which there is one instruction
        return builder.sitofp(builder.zext(value, ir.VectorType(_INT, n)), floats)
    return builder.uitofp(value, floats)


@instruction
def load_counts(typingctx: Any, array: Any, index: Any) -> Any:
    """Sixteen counts of a flat array of unsigned integers or float32, as floats."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, kind = data_of(context, builder, sig.args[0], args[0]), sig.args[0].dtype
        return _read_counts(builder, base, kind, args[1], LANES)

    return vector(array, types.intp), codegen


@instruction
def load_runs(typingctx: Any, array: Any, first: Any, second: Any) -> Any:
    """As `load_counts`: eight counts from `first` on, then eight from `second` on."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, kind = data_of(context, builder, sig.args[0], args[0]), sig.args[0].dtype
        halves = [_read_counts(builder, base, kind, place, LANES // 2) for place in args[1:]]
        return builder.shuffle_vector(*halves, ir.Constant(_INTS, list(range(LANES))))

    return vector(array, types.intp, types.intp), codegen


@instruction
def store_counts(typingctx: Any, array: Any, index: Any, value: Any) -> Any:
    """Write sixteen whole numbers, as floats, into a flat array of unsigned integers or float32 that holds them."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, kind = data_of(context, builder, sig.args[0], args[0]), sig.args[0].dtype
        if kind == types.float32:
            write(builder, base, args[1], args[2])
        else:
            item = ir.VectorType(ir.IntType(kind.bitwidth), LANES)
            whole = builder.trunc(builder.fptosi(args[2], _INTS), item)
            builder.store(whole, builder.bitcast(builder.gep(base, [args[1]]), item.as_pointer())).align = 1
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), codegen


@instruction
def log(typingctx: Any, value: Any) -> Any:
    """Natural logarithm of positive floats, to 1e-6."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        def of(number: int) -> Any:
            return ir.Constant(_INTS, [number] * LANES)

        b = builder
        bits = b.bitcast(args[0], _INTS)
        exponent = b.sitofp(b.sub(b.ashr(bits, of(23)), of(127)), _VECTOR)
        mantissa = b.bitcast(b.or_(b.and_(bits, of(0x7FFFFF)), of(0x3F800000)), _VECTOR)
        large = b.fcmp_ordered(">", mantissa, constant(math.sqrt(2)))
        mantissa = b.select(large, b.fmul(mantissa, constant(0.5)), mantissa)
        exponent = b.select(large, b.fadd(exponent, constant(1.0)), exponent)
        s = b.fdiv(b.fsub(mantissa, constant(1.0)), b.fadd(mantissa, constant(1.0)), flags=FAST)
        q = b.fmul(s, s, flags=FAST)
        series = constant(1 / 9)
        for term in (1 / 7, 1 / 5, 1 / 3, 1.0):
            series = b.fadd(b.fmul(series, q, flags=FAST), constant(term), flags=FAST)
        twice = b.fmul(b.fmul(constant(2.0), s, flags=FAST), series, flags=FAST)
        return b.fadd(twice, b.fmul(exponent, constant(math.log(2)), flags=FAST), flags=FAST)

    return vector(vector), codegen


@instruction
def pairs(typingctx: Any, one: Any, other: Any) -> Any:
    """Sums of neighbouring lanes: eight of the one, then eight of the other."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        even, odd = (
            builder.shuffle_vector(*args, ir.Constant(_INTS, list(range(first, 2 * LANES, 2)))) for first in (0, 1)
        )
        return builder.fadd(even, odd, flags=FAST)

    return vector(vector, vector), codegen


@instruction
def larger(typingctx: Any, one: Any, other: Any) -> Any:
    """The larger number of each lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return vector(vector, vector), codegen


@instruction
def sqrt(typingctx: Any, value: Any) -> Any:
    """Square root."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f32")
        return builder.call(function, [args[0]], fastmath=FAST)

    return vector(vector), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of as many vectors as each has lanes."""
    n = len(rows)
    rows, half = list(rows), n // 2
    while half:
        masks = (
            [j + n - half if j & half else j for j in range(n)],
            [j + n if j & half else j + half for j in range(n)],
        )
        for i in (i for i in range(n) if not i & half):
            pair = rows[i], rows[i + half]
            rows[i], rows[i + half] = (
                builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_INT, n), mask)) for mask in masks
            )
        half //= 2
    return rows


@instruction
def transpose(
    typingctx: Any, source: Any, start: Any, step: Any, target: Any, target_start: Any, target_step: Any
) -> Any:
    """Transpose a 16 × 16 block: row i from start + i·step, written as column i of the rows at target_start + j·target_step.

    The two may not overlap.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sides = [data_of(context, builder, sig.args[i], args[i]) for i in (0, 3)]

        def place(start: Any, step: Any, i: int) -> Any:
            return builder.add(start, builder.mul(step, ir.Constant(step.type, i)))

        for i in range(0, LANES, REGISTER):
            for j in range(0, LANES, REGISTER):
                part = builder.add(args[1], ir.Constant(args[1].type, j))
                rows = [read(builder, sides[0], place(part, args[2], i + q), REGISTER) for q in range(REGISTER)]
                part = builder.add(args[4], ir.Constant(args[4].type, i))
                for q, row in enumerate(_transposed(builder, rows)):
                    write(builder, sides[1], place(part, args[5], j + q), row)
        return context.get_dummy_value()

    places = (types.intp, types.intp)
    return types.void(source, *places, target, *places), codegen
