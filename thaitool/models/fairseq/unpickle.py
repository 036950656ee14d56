"""Reads the pickle inside a torch checkpoint as data: what would be a call or an object becomes an inert record.

Imports nothing that a file names and calls nothing that a file brings; has no import machinery, no `find_class` and no
call instruction, so there is no way from a pickle to code. Names beyond those that fairseq checkpoints use are refused.
Loads no tensors: a tensor becomes the place where its numbers lie. Source of the opcodes: `pickletools` of Python.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NoReturn

from thaitool.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

#: The number type of each storage class, in torch's own words.
DTYPES = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_REBUILD = {("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2")}
_PARAMETER = ("torch._utils", "_rebuild_parameter")
_MAPPINGS = {("collections", "OrderedDict"), ("collections", "defaultdict")}
#: Whole packages whose objects become records; nothing of them needs to be installed.
_PACKAGES = ("fairseq", "omegaconf")
_BUILTINS = {"int", "long", "float", "complex", "bool", "str", "unicode", "bytes", "list", "tuple", "dict", "set",
             "frozenset"}  # fmt: skip
_MULTIARRAY = {"scalar", "_reconstruct"}
#: Other names that fairseq and torch write (types in omegaconf's metadata, numpy numbers of the best loss, paths).
_NAMES: dict[str, set[str]] = {
    "__builtin__": _BUILTINS,
    "builtins": _BUILTINS,
    "argparse": {"Namespace"},
    "typing": {"Any"},
    "pathlib": {"Path", "PosixPath", "WindowsPath"},
    "_codecs": {"encode"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": _MULTIARRAY,
    "numpy._core.multiarray": _MULTIARRAY,
    "torch": {"Size", "device", *DTYPES.values()},
}


@dataclass(frozen=True)
class Name:
    """A name that the file asks for; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def pair(self) -> tuple[str, str]:
        return self.module, self.name


@dataclass(eq=False)
class Inert:
    """What would have been an object: its class and what the file says of it."""

    kind: Name
    arguments: tuple[Any, ...] = ()
    state: Any = None
    entries: list[Any] = field(default_factory=list)
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StorageRef:
    """A run of numbers in the file."""

    key: str
    dtype: str
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A tensor as a view of a storage; offset and strides count elements."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        count = 1
        for length in self.size:
            count *= length
        return count


def unpickle(stream: IO[bytes], what: str) -> Any:
    """The value of one pickle, read up to its end.

    Args:
        stream: At the first byte of the pickle; left behind its last one.
        what: The file's name, for messages.

    Returns:
        Plain Python values, `Inert`, `Name`, `StorageRef` and `TensorRef`.

    Raises:
        InputError: the pickle asks for a name that is not on the list, or is damaged.
    """
    machine = _Machine(what)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.stack.pop()
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{what} must be a checkpoint written by torch.save, but its pickle is damaged or none:"
            f" {type(error).__name__}: {str(error)[:120]}."
        ) from error


class _Mark:
    """Marks a place on the stack."""


class _Machine:
    """The stack of the pickle language. Builds data and does nothing else."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """One instruction."""
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _FRESH:
            self.stack.append(_FRESH[opcode]())
        elif opcode in _WITH_ITEMS:
            _WITH_ITEMS[opcode](self, self._items_above_mark())
        elif opcode in _PLAIN:
            _PLAIN[opcode](self, argument)
        else:
            self.refuse(f"uses the pickle instruction {opcode}")

    def refuse(self, what: str) -> NoReturn:
        """Stops before anything of the file is used."""
        raise InputError(
            f"{self.what} {what}, which no fairseq checkpoint needs and which could run code. The file was refused and"
            " nothing in it was run. If you trust whoever made it, save it again there with only its 'model' and its"
            " cfg as a plain dictionary."
        )

    def _items_above_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while not isinstance(self.stack[at], _Mark):
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def named(self, module: Any, name: Any) -> Name:
        """A name from the list.

        Raises:
            InputError: it is not there.
        """
        found = Name(str(module), str(name))
        package = found.module.partition(".")[0]
        listed = (
            found.pair in _REBUILD | _MAPPINGS | {_PARAMETER}
            or found.name in _NAMES.get(found.module, ())
            or (found.module in {"torch", "torch.cuda"} and found.name in DTYPES)
            or (package in _PACKAGES and found.name.isidentifier())
        )
        if not listed:
            self.refuse(f"asks for `{found}`")
        return found

    def call(self, function: Any, arguments: Any, keywords: Any = None) -> None:
        """Pushes what the call stands for."""
        if not isinstance(function, Name):
            self.refuse(f"calls a {type(function).__name__}")
        if not isinstance(arguments, tuple) or keywords:
            raise TypeError(f"{function} gets {type(arguments).__name__}")
        if function.pair in _REBUILD:
            self.stack.append(_tensor(arguments))
        elif function.pair == _PARAMETER:
            self.stack.append(arguments[0])
        elif function.pair in _MAPPINGS:
            pairs = arguments[0] if function.name == "OrderedDict" and arguments else ()
            self.stack.append(dict(pairs))
        elif function.module.startswith("torch") and function.name in DTYPES:
            self.refuse(f"makes a `{function}`")
        else:
            self.stack.append(Inert(function, arguments))

    def set_state(self, _: Any) -> None:
        """BUILD: a record keeps its state; attributes of dictionaries (torch's version numbers) are dropped."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):
            self.refuse(
                f"sets the state of `{target if isinstance(target, Name) else type(target).__name__}`"
            )

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.entries.extend(items)
        elif isinstance(target, list):
            target.extend(items)
        elif isinstance(target, set):
            target.update(items)
        else:
            raise TypeError(f"items are appended to a {type(target).__name__}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict | Inert):
            raise TypeError(f"items are set in a {type(target).__name__}")
        pairs = dict(zip(items[::2], items[1::2], strict=True))
        (target.items if isinstance(target, Inert) else target).update(pairs)

    def tuple_of(self, count: int) -> None:
        if count > len(self.stack):
            raise IndexError("the stack is too short")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def storage(self, reference: Any) -> None:
        """A persistent id, which in torch's files is always a storage."""
        is_storage = isinstance(reference, tuple) and len(reference) in {5, 6}
        if not is_storage or reference[0] != "storage" or not isinstance(reference[1], Name):
            self.refuse("refers to something outside the file")
        _, kind, key, _, numel = reference[:5]
        if kind.name not in DTYPES or not isinstance(numel, int) or numel < 0:
            raise ValueError(f"storage {key!r} is a {kind} of {numel!r} numbers")
        if len(reference) == 6 and reference[5] is not None:
            raise ValueError(f"storage {key!r} is a view, which torch writes no longer")
        self.stack.append(StorageRef(str(key), DTYPES[kind.name], numel))


def _tensor(arguments: tuple[Any, ...]) -> TensorRef:
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, StorageRef) or len(size) != len(stride):
        raise TypeError("a tensor has no storage, or its size and strides differ in length")
    numbers = (offset, *size, *stride)
    if not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError(f"a tensor has offset {offset!r}, size {size!r} and strides {stride!r}")
    tensor = TensorRef(storage, offset, tuple(size), tuple(stride))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # A stride of 0 would blow one number up to any size.
    if tensor.numel > 0 and (last >= storage.numel or tensor.numel > storage.numel):
        raise ValueError(
            f"a tensor of size {tensor.size} lies outside its storage of {storage.numel} numbers"
        )
    return tensor


def _two(machine: _Machine) -> tuple[Any, Any]:
    second = machine.stack.pop()
    return machine.stack.pop(), second


def _new_object(machine: _Machine, argument: Any) -> None:
    del argument
    machine.call(*_two(machine))


def _new_object_with_keywords(machine: _Machine, argument: Any) -> None:
    del argument
    keywords = machine.stack.pop()
    function, arguments = _two(machine)
    machine.call(function, arguments, keywords)


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.stack.append(machine.named(module, name))


def _instance(machine: _Machine, argument: str) -> None:
    # torch has never written it; the name says more about the file than the instruction does.
    machine.named(*argument.split(" ", 1))
    machine.refuse("uses the pickle instruction INST")


def _remember(machine: _Machine, argument: int) -> None:
    machine.memo[argument] = machine.stack[-1]


def _set_item(machine: _Machine, argument: Any) -> None:
    del argument
    machine.set_items(list(_two(machine)))


_LITERALS = frozenset([
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
])  # fmt: skip
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_WITH_ITEMS: dict[str, Callable[[_Machine, list[Any]], None]] = {
    "TUPLE": lambda m, items: m.stack.append(tuple(items)),
    "LIST": lambda m, items: m.stack.append(items),
    "DICT": lambda m, items: m.stack.append(dict(zip(items[::2], items[1::2], strict=True))),
    "FROZENSET": lambda m, items: m.stack.append(frozenset(items)),
    "APPENDS": _Machine.append,
    "ADDITEMS": _Machine.append,
    "SETITEMS": _Machine.set_items,
    "POP_MARK": lambda m, items: None,  # noqa: ARG005
}
_PLAIN: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda m, _: None,  # noqa: ARG005
    "FRAME": lambda m, _: None,  # noqa: ARG005
    "STOP": lambda m, _: None,  # noqa: ARG005
    "POP": lambda m, _: m.stack.__delitem__(-1),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "SETITEM": _set_item,
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": lambda m, _: _remember(m, len(m.memo)),
    "GET": lambda m, index: m.stack.append(m.memo[index]),
    "BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "GLOBAL": _global,
    "STACK_GLOBAL": lambda m, _: m.stack.append(m.named(*_two(m))),
    "INST": _instance,
    "REDUCE": _new_object,
    "NEWOBJ": _new_object,
    "NEWOBJ_EX": _new_object_with_keywords,
    "BUILD": _Machine.set_state,
    "PERSID": lambda m, argument: m.storage(argument),
    "BINPERSID": lambda m, _: m.storage(m.stack.pop()),
}
