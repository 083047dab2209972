"""Follow a stranger's pickle without running any of it: containers are built, all else stays inert.

Python's unpickler calls what a file names. This one is an interpreter of its own in which a name is never looked up: it
is a :class:`Name`, and calling it gives one of the few values of a table of builders, or else an :class:`Inert`. No
module is imported, and no function, class or method that a file names is ever on the stack.
"""

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Builders = Mapping[str, Callable[..., Any]]
"""By full name, what a call gives; a builder returns None for arguments that it does not take."""

_KEYS = (str, int, float, bytes, type(None))
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
}  # fmt: skip
_PUSHED = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
_WITHOUT_MEANING = {"PROTO", "FRAME"}


class UnreadableError(Exception):
    """The file is damaged, or is in another format."""


@dataclass(frozen=True)
class Name:
    """A class or function that a file names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """An object of an unknown class: what a file gives it, kept as data.

    Attributes:
        kind: its class, or the function that would have made it.
        state: what ``__setstate__`` would have been given; None without.
        items: what would have been set by key.
    """

    kind: str
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


class Stateful:
    """A value that a builder made and that its state completes."""

    def set_state(self, state: Any) -> None:
        """Take the state that the file gives."""
        raise NotImplementedError


def plain_key(key: Any) -> Any:
    """A key of a dict or set; only flat ones, because the hash of a deeply nested one overflows the stack.

    Raises:
        UnreadableError: any other.
    """
    if isinstance(key, (*_KEYS, Inert)) or (type(key) is tuple and all(isinstance(each, _KEYS) for each in key)):
        return key
    if isinstance(key, Name):
        return str(key)
    raise UnreadableError(f"a {type(key).__name__} is the key of a dictionary")


class InertReader:
    """The interpreter of one pickle.

    Args:
        stream: bytes with ``read``, ``readline`` and ``tell``; it is left behind the pickle. Its ``read`` must not
            allocate more than there is, as that of a file does.
        build: what calls give.
        values: what names mean that stand for values, as ``torch.float32`` does.
        persistent: what a persistent id means, as torch writes storages.
    """

    def __init__(
        self, stream: Any, build: Builders, values: Mapping[str, Any], persistent: Callable[[Any], Any]
    ) -> None:
        self._stream, self._build_by_name, self._values, self._persistent = stream, build, values, persistent
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark, "POP": self._pop, "POP_MARK": lambda _: self._drop(self._marked()), "DUP": self._dup,
            "PUT": self._put, "BINPUT": self._put, "LONG_BINPUT": self._put, "MEMOIZE": self._memoize,
            "GET": self._get, "BINGET": self._get, "LONG_BINGET": self._get,
            "LIST": lambda _: self._push(self._marked()), "TUPLE": lambda _: self._push(tuple(self._marked())),
            "TUPLE1": lambda _: self._tuple(1), "TUPLE2": lambda _: self._tuple(2), "TUPLE3": lambda _: self._tuple(3),
            "DICT": self._dict, "FROZENSET": lambda _: self._push(frozenset(map(plain_key, self._marked()))),
            "APPEND": lambda _: self._extend([self._stack.pop()]), "APPENDS": lambda _: self._extend(self._marked()),
            "ADDITEMS": self._additems, "SETITEM": self._setitem, "SETITEMS": lambda _: self._set(self._marked()),
            "GLOBAL": lambda names: self._push(self._named(*names.split(" ", 1))), "STACK_GLOBAL": self._stack_global,
            "REDUCE": self._reduce, "NEWOBJ": self._reduce, "NEWOBJ_EX": self._newobj_ex, "INST": self._inst,
            "OBJ": self._obj, "BUILD": self._set_state,
            "BINPERSID": lambda _: self._push(self._persistent(self._stack.pop())),
            "PERSID": lambda name: self._push(self._persistent(name)),
        }  # fmt: skip

    def run(self) -> Any:
        """The pickled value.

        Raises:
            UnreadableError: an opcode that no checkpoint has, or no end.
            Exception: whatever a damaged pickle makes a decoder or a container raise.
        """
        for opcode, argument, _ in pickletools.genops(self._stream):
            name = opcode.name
            if name == "STOP":
                return self._stack.pop()
            if name in _PUSHED:
                self._stack.append(argument)
            elif name in self._steps:
                self._steps[name](argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name]())
            elif name not in _WITHOUT_MEANING:
                raise UnreadableError(f"opcode {name} has no place in a checkpoint")
        raise UnreadableError("the pickle does not end")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _drop(self, value: Any) -> None:
        pass

    def _mark(self, _: object) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _pop(self, _: object) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    def _tuple(self, count: int) -> None:
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _dict(self, _: object) -> None:
        items = self._marked()
        self._stack.append({})
        self._set(items)

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is list:  # an inert list forgets
            self._stack[-1].extend(items)

    def _additems(self, _: object) -> None:
        items = self._marked()
        if type(self._stack[-1]) is set:
            self._stack[-1].update(map(plain_key, items))

    def _setitem(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        entries = target.items if isinstance(target, Inert) else target
        if type(entries) is dict:
            entries.update(zip(map(plain_key, items[::2]), items[1::2], strict=True))

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._named(module, name))

    def _reduce(self, _: object) -> None:
        arguments = self._stack.pop()
        self._stack[-1] = self._made(self._stack[-1], arguments)

    def _newobj_ex(self, _: object) -> None:
        self._stack.pop()  # keyword arguments
        self._reduce(_)

    def _inst(self, names: str) -> None:
        arguments = tuple(self._marked())
        self._stack.append(self._made(self._named(*names.split(" ", 1)), arguments))

    def _obj(self, _: object) -> None:
        kind, *arguments = self._marked()
        self._stack.append(self._made(kind, tuple(arguments)))

    def _set_state(self, _: object) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif isinstance(target, Stateful):
            target.set_state(state)

    def _named(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise UnreadableError("the name of a class is no text")
        return self._values.get(f"{module}.{name}", Name(module, name))

    def _made(self, kind: Any, arguments: Any) -> Any:
        """What a call would give: something known, made of plain values, or an inert object."""
        if not isinstance(kind, Name) or type(arguments) is not tuple:
            return Inert("an object")
        if kind.name in ("_rebuild_from_type_v2",) and kind.module == "torch._tensor" and len(arguments) == 4:
            return self._made(arguments[0], arguments[2])  # a subclass of Tensor: its tensor
        build = self._build_by_name.get(str(kind))
        made = None if build is None else build(*arguments)
        return Inert(_class_of(kind, arguments)) if made is None else made


def _class_of(kind: Name, arguments: tuple[Any, ...]) -> str:
    rebuilt = str(kind) in ("copyreg._reconstructor", "copy_reg._reconstructor")
    return str(arguments[0]) if rebuilt and arguments and isinstance(arguments[0], Name) else str(kind)
