"""Kernels that run without their compiler: machine code kept from the process that compiled it.

Numba takes longer to import than a small field takes to reconstruct, so it is asked once. The optimised code of a kernel is
kept as an object file beside the modules, or in the user's cache where these cannot be written, and llvmlite alone links it
into a process. The file's name is a digest of the kernels' sources, the argument types, llvmlite's version (each numba has
one of its own) and the processor, so it is never out of date.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import inspect
import os
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

_FOLDER = Path(__file__).parent
_RELEASE = "NRT_MemInfo_call_dtor"
"""Numba's release of memory it has allocated. Our arrays belong to NumPy: it is linked in but never called."""

Kind = tuple[str, int]
"""Type of an argument: character of the dtype and number of dimensions of an array, or ("int", 0), ("float", 0)."""
_Native = Callable[..., int]


class Group(Protocol):
    """A NamedTuple of arguments."""

    @property
    def _fields(self) -> tuple[str, ...]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Form(NamedTuple):
    """Which group of arguments, and the types of its fields."""

    group: type[Group]
    kinds: tuple[Kind, ...]


class Packed(NamedTuple):
    """Arguments of a kernel as its machine code takes them, eight bytes a number; `owner` keeps the arrays alive."""

    form: Form
    values: bytes
    owner: Group


def pack(arguments: Group) -> Packed:
    """Make the block of bytes that a kernel reads its arguments from.

    Args:
        arguments: a group of `table`; C-contiguous arrays, int and float. Arrays may be changed in place afterwards, but
            not moved.

    Returns:
        The block and what it was made of; a kernel may be called with it any number of times.

    Raises:
        TypeError: any other argument.
    """
    kinds: list[Kind] = []
    values: list[bytes] = []
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            if not argument.flags.c_contiguous or not argument.dtype.isnative:
                msg = f"kernels take C-contiguous arrays of native byte order, not {argument.dtype}, strides {argument.strides}"
                raise TypeError(msg)
            kinds.append((argument.dtype.char, argument.ndim))
            # numba's array: owner, parent, items, bytes per item, address, shape, strides
            sizes = 0, 0, argument.size, argument.itemsize, argument.ctypes.data, *argument.shape, *argument.strides
            values.append(struct.pack(f"{len(sizes)}q", *sizes))
        elif isinstance(argument, (int, np.integer)):
            kinds.append(("int", 0))
            values.append(struct.pack("q", argument))
        elif isinstance(argument, float):
            kinds.append(("float", 0))
            values.append(struct.pack("d", argument))
        else:
            msg = f"kernels take arrays, int and float, not {type(argument)}"
            raise TypeError(msg)
    return Packed(Form(type(arguments), tuple(kinds)), b"".join(values), arguments)


class Kernel:
    """One compiled function, in as many forms as types it is called with. It runs without the interpreter's lock.

    Args:
        module: of this package, which holds the function and is imported only to compile it.
        name: of the function, jitted by numba; it returns a float or nothing, neither allocates nor
            raises (no slice assignment, no reshape).
        groups: NamedTuples whose fields, one after another, are the parameters of the function.
    """

    def __init__(self, module: str, name: str, *groups: type[Group]) -> None:
        self.module, self.name, self.groups = module, name, groups
        self._native: dict[tuple[Form, ...], _Native] = {}
        self._lock = threading.Lock()

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the function's parameters, as the groups have them."""
        return tuple(name for group in self.groups for name in _fields(group))

    def __call__(self, *parts: Packed) -> float:
        """Run the function.

        Args:
            parts: one block of arguments for each group, in their order.

        Returns:
            What the function returns; 0.0 where that is nothing.

        Raises:
            TypeError: the blocks are not those of this kernel's groups.
        """
        forms = tuple([part.form for part in parts])
        native = self._native.get(forms)
        if native is None:
            with self._lock:
                native = self._native.setdefault(forms, self._native.get(forms) or self._load(forms))
        result, error = ctypes.c_double(0.0), ctypes.c_void_p()
        if native(ctypes.byref(result), ctypes.byref(error), b"".join(part.values for part in parts)):
            msg = f"the kernel {self.name} failed on arguments of types {_kinds(forms)}"
            raise RuntimeError(msg)
        return result.value

    def function(self) -> Any:
        """The jitted function; imports numba.

        Raises:
            TypeError: its parameters are not the fields of the groups.
        """
        function = getattr(importlib.import_module(f"{__package__}.{self.module}"), self.name)
        taken = tuple(inspect.signature(function.py_func).parameters)
        if taken != self.parameters:
            msg = f"the kernel {self.name} takes {', '.join(taken)}; the table names {', '.join(self.parameters)}"
            raise TypeError(msg)
        return function

    def _load(self, forms: tuple[Form, ...]) -> _Native:
        given = tuple(form.group for form in forms)
        if given != self.groups:
            expected, found = (", ".join(group.__name__ for group in groups) for groups in (self.groups, given))
            msg = f"the kernel {self.name} takes {expected}, not {found}"
            raise TypeError(msg)
        kinds = _kinds(forms)
        symbol = f"{self.name}_{_digest(kinds)}"
        code = _kept(symbol)
        if code is None:
            code = self._compile(kinds, symbol)
            _keep(symbol, code)
        return ctypes.CFUNCTYPE(ctypes.c_int)(_link(symbol, code))

    def _compile(self, kinds: tuple[Kind, ...], symbol: str) -> bytes:
        """Object code that defines `symbol` and needs nothing of numba."""
        import llvmlite.binding as llvm
        from numba import float64, from_dtype, int64, types

        def kind(name: str, ndim: int) -> Any:
            scalars = {"int": int64, "float": float64}
            return scalars[name] if name in scalars else types.Array(from_dtype(np.dtype(name)), ndim, "C")

        function = self.function()
        signature = tuple(kind(*each) for each in kinds)
        function.compile(signature)
        module = llvm.parse_assembly(function.inspect_llvm(signature))
        wanted = function.overloads[signature].fndesc.llvm_func_name
        module.link_in(llvm.parse_assembly(_unpacking(module.get_function(wanted), symbol)))
        for defined in module.functions:
            if not defined.is_declaration:
                defined.linkage = "external" if defined.name == symbol else "internal"
        machine = _machine()
        passes = llvm.create_new_module_pass_manager()
        passes.add_global_dead_code_eliminate_pass()
        passes.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options()))
        for used in module.functions:
            if used.is_declaration and used.name.startswith(("NRT_", "numba_", "Py")) and used.name != _RELEASE:
                msg = f"the kernel {self.name} needs {used.name}, which only numba has: it may not raise or allocate"
                raise RuntimeError(msg)
        return bytes(machine.emit_object(module))


def _fields(group: type[Group]) -> tuple[str, ...]:
    fields: Any = group._fields  # of the class: Python's types know it of instances only
    return tuple(fields)


def _kinds(forms: tuple[Form, ...]) -> tuple[Kind, ...]:
    """The types of all arguments, one after another."""
    return tuple(chain.from_iterable(form.kinds for form in forms))


def _unpacking(function: Any, symbol: str) -> str:
    """LLVM's assembly of `symbol`, which calls `function` with its result, its error and what a block of bytes holds.

    One argument instead of hundreds: Python takes longer to hand over each of these than a kernel to read it.
    """
    result, error, *taken = (str(argument.type) for argument in function.arguments)
    lines = [
        line
        for i, kind in enumerate(taken)
        for line in (f"%p{i} = getelementptr i64, ptr %block, i64 {i}", f"%v{i} = load {kind}, ptr %p{i}")
    ]
    values = ", ".join([f"{result} %result", f"{error} %error", *(f"{kind} %v{i}" for i, kind in enumerate(taken))])
    name = f'@"{function.name}"'
    return "\n".join(
        (
            f"declare i32 {name}({', '.join((result, error, *taken))})",
            f"define i32 @{symbol}({result} %result, {error} %error, ptr %block) {{",
            *lines,
            f"%failed = call i32 {name}({values})",
            "ret i32 %failed",
            "}",
        )
    )


def _digest(kinds: tuple[Kind, ...]) -> str:
    return hashlib.sha256(f"{_origin()} {kinds}".encode()).hexdigest()[:20]


@lru_cache(maxsize=1)
def _origin() -> str:
    """What machine code depends on besides the types of the arguments."""
    import llvmlite
    import llvmlite.binding as llvm

    sources = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_FOLDER.glob("*.py")))).hexdigest()
    return " ".join((sources, llvmlite.__version__, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()))


def _machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # as numba does: MCJIT links ELF objects only
    triple = llvm.get_process_triple() + ("-elf" if os.name == "nt" else "")
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        codemodel="jitdefault",
        jit=True,
    )


@lru_cache(maxsize=1)
def _engine() -> Any:
    import llvmlite.binding as llvm

    if not llvm.address_of_symbol(_RELEASE):  # numba, where it is there too, has the real one
        llvm.add_symbol(_RELEASE, ctypes.cast(_release, ctypes.c_void_p).value)
    machine = _machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


_release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
"""Stands for _RELEASE."""


_linking = threading.Lock()


def _link(symbol: str, code: bytes) -> int:
    """Address of `symbol` after `code` was linked into this process."""
    import llvmlite.binding as llvm

    with _linking:
        engine = _engine()
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return int(engine.get_function_address(symbol))


def _folders() -> tuple[Path, ...]:
    """Where object files are looked for and kept, the first that can be written."""
    return (_FOLDER / "__pycache__", Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptychopilot")


def _kept(symbol: str) -> bytes | None:
    for folder in _folders():
        try:
            return (folder / f"{symbol}.o").read_bytes()
        except OSError:
            continue
    return None


def _keep(symbol: str, code: bytes) -> None:
    """Write the object file, whole or not at all; where no folder can be written every process compiles for itself."""
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:
                part.write(code)
            os.chmod(part.name, 0o644)
            os.replace(part.name, folder / f"{symbol}.o")
        except OSError:
            continue
        return
