"""The arithmetic of a codec as an expression tree, from which a formula, Python and C are written."""

import inspect
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from depth_distill.codecs.arithmetic import Constants, StandIn
from depth_distill.codecs.base import HostCodec

_FOLD = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def _both(symbol: str) -> tuple[Callable[[Any, Any], "Expression"], Callable[[Any, Any], "Expression"]]:
    """An operator, and the same operator with swapped operands."""
    return (lambda a, b: _combined(symbol, a, b)), (lambda b, a: _combined(symbol, a, b))


class Expression:
    """A :class:`Number`, a :class:`Variable` or an :class:`Operation`; arithmetic on it returns an expression."""

    __add__, __radd__ = _both("+")
    __sub__, __rsub__ = _both("-")
    __mul__, __rmul__ = _both("*")
    __truediv__, __rtruediv__ = _both("/")
    __lt__, _ = _both("<")
    __le__, _ = _both("<=")

    parts: tuple["Expression", ...] = ()
    """Subexpressions."""

    def __abs__(self) -> "Expression":
        return Operation("abs", (self,))


@dataclass(frozen=True, eq=False)
class Number(Expression):
    """A constant; if it is computed from others, ``formula`` shows how: ``(15 - 0.5)``."""

    value: float
    formula: str

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True, eq=False)
class Operation(Expression):
    """An operator or function by name, and its operands."""

    name: str
    parts: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Variable(Expression):
    """A name for a value, which is its only part; an input has no parts.

    A name may be assigned again if its previous value is not used afterwards.
    """

    name: str
    parts: tuple[Expression, ...] = ()
    note: str = ""


@dataclass(frozen=True, eq=False)
class Array(Expression):
    """An array of constants, by name."""

    name: str
    values: tuple[float, ...]


class Symbolic(StandIn):
    """Takes the place of ``numpy`` or ``torch`` and returns expressions.

    Args:
        kept: names of operations of :mod:`~depth_distill.codecs.arithmetic` that stay single calls; others are traced.
    """

    def __init__(self, kept: Collection[str]) -> None:
        super().__init__({name: _call(name) for name in kept})
        self.round, self.where = _call("round"), _call("where")

    def named(self, name: str, value: Any, note: str) -> Variable:
        """A variable."""
        return Variable(name, (_lifted(value),), note)

    def number(self, value: float) -> Expression:
        """A constant."""
        return _lifted(value)

    def clip(self, values: Any, low: Any, high: Any) -> Expression:
        """A call of ``clip``."""
        return _call("clip")(values, low, high)

    def full_like(self, values: Any, value: Any) -> Expression:
        """A constant, because expressions have no shapes."""
        return _lifted(value)


_ATOM = 9  # precedence of expressions that need no parentheses
_OPERATORS = {
    **{symbol: (f"{{}} {symbol} {{}}", 1) for symbol in ("<", "<=")},
    **{symbol: (f"{{}} {symbol} {{}}", 2) for symbol in ("+", "-")},
    **{symbol: (f"{{}} {symbol} {{}}", 3) for symbol in ("*", "/")},
}


@dataclass(frozen=True)
class Notation:
    """How a language writes an expression.

    Attributes:
        number: writes a constant.
        operators: template and precedence of operations that are not written as calls, besides ``+ - * / < <=``.
        functions: name of a function in the language.
    """

    number: Callable[[Number], str]
    operators: Mapping[str, tuple[str, int]]
    functions: Callable[[str], str] = str

    def write(self, expression: Expression, inline: Collection[Variable] = ()) -> str:
        """Text of an expression; a variable is written by name, or as its value if it is in ``inline``."""
        return self._write(expression, inline)[0]

    def _write(self, expression: Expression, inline: Collection[Variable]) -> tuple[str, int]:
        if isinstance(expression, Number):
            return self.number(expression), _ATOM
        if isinstance(expression, Variable):
            return self._write(expression.parts[0], inline) if expression in inline else (expression.name, _ATOM)
        if isinstance(expression, Array):
            return self.functions(expression.name), _ATOM
        assert isinstance(expression, Operation)
        written = [self._write(each, inline) for each in expression.parts]
        known = {**_OPERATORS, **self.operators}.get(expression.name)
        if known is None:
            return f"{self.functions(expression.name)}({', '.join(text for text, _ in written)})", _ATOM
        template, precedence = known
        # Sums of floats depend on their order, so a right operand of the same kind keeps its parentheses.
        texts = [
            f"({text})" if own < precedence + (position > 0) else text for position, (text, own) in enumerate(written)
        ]
        return template.format(*texts), precedence


def depth_expression(codec: HostCodec, xp: Symbolic) -> Variable:
    """The decoded depth of a codec, before it is clipped to the range, as the variable ``depth_m``.

    The codes, in [0, 1], are the variables ``codes[0]``, ``codes[1]``, ..., or are named by ``codec.code_names``.
    """
    codes = []
    for k, name in enumerate(codec.code_names):
        given = Variable(f"codes[{k}]")
        codes.append(given if name == given.name else Variable(name, (given,)))
    return xp.named("depth_m", codec.depth_of(xp, codes), "")


def traced(function: Callable[..., Any], xp: Symbolic) -> tuple[list[Variable], Expression]:
    """Parameters and result of an operation of :mod:`~depth_distill.codecs.arithmetic`."""
    parameters = [Variable(name) for name in list(inspect.signature(function).parameters)[1:]]
    return parameters, inspect.unwrap(function)(xp, *parameters)


def walk(expression: Expression) -> dict[Expression, None]:
    """All subexpressions, each once and after its own parts; the expression itself is last."""
    found: dict[Expression, None] = {}

    def visit(each: Expression) -> None:
        if each not in found:
            for part in each.parts:
                visit(part)
            found[each] = None

    visit(expression)
    return found


def assignments(expression: Expression) -> list[Variable]:
    """The variables with a value, in the order in which they are computed.

    Raises:
        ValueError: a variable is used after its name was assigned to another value.
    """
    variables = [each for each in walk(expression) if isinstance(each, Variable) and each.parts]
    holders: dict[str, Variable] = {}
    for variable in variables:
        for used in _direct(variable.parts):
            if holders.get(used.name, used) is not used:
                raise ValueError(
                    f"{variable.name} uses {used.name}, which has another value by then: use different names"
                )
        holders[variable.name] = variable
    return variables


def _direct(parts: tuple[Expression, ...]) -> Iterator[Variable]:
    """The variables that occur directly in expressions, outside the values of other variables."""
    for each in parts:
        if isinstance(each, Variable):
            yield each
        else:
            yield from _direct(each.parts)


def _call(name: str) -> Callable[..., Expression]:
    return lambda *arguments: Operation(name, tuple(map(_lifted, arguments)))


def _lifted(value: Any) -> Expression:
    if isinstance(value, Constants):
        return Array(value.name, value.values)
    return value if isinstance(value, Expression) else Number(float(value), f"{value:.7g}")


def _combined(symbol: str, left: Any, right: Any) -> Expression:
    left, right = _lifted(left), _lifted(right)
    if not (isinstance(left, Number) and isinstance(right, Number)):
        return Operation(symbol, (left, right))
    between = symbol if symbol == "/" else f" {symbol} "
    return Number(_FOLD[symbol](left.value, right.value), f"({left.formula}{between}{right.formula})")
