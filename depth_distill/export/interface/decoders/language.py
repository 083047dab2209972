"""Write the expression of a codec in a programming language."""

import inspect
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from depth_distill.codecs import HostCodec, arithmetic, formula
from depth_distill.codecs.expression import (
    Array,
    Expression,
    Notation,
    Operation,
    Symbolic,
    Variable,
    assignments,
    traced,
    walk,
)

_FUNCTIONS = {
    each.__name__: each for each in (arithmetic.split_power_of_two, arithmetic.sigmoid, arithmetic.saturating_sigmoid)
}

STEPS = Symbolic({*_FUNCTIONS, arithmetic.whole_power_of_two.__name__, arithmetic.element.__name__})
"""Traces codecs: these operations become functions in the text, the others are written inline."""


def formula_lines(codec: HostCodec, indent: str) -> str:
    """The formula with one step per line, where each line after the first starts with ``indent``."""
    steps = [textwrap.wrap(step, 100, subsequent_indent="    ") for step in formula(codec).split("; ")]
    return f"\n{indent}".join(line for step in steps for line in step)


def sigmoid_of_logits(logits: Expression) -> Expression:
    """Expression of the codes, given that of their logits."""
    return Operation(arithmetic.saturating_sigmoid.__name__, (logits,))


class Language(ABC):
    """How a language writes functions and assignments.

    Attributes:
        notation: how the language writes expressions.
        primitives: text, by name, of functions that the language lacks or that work on the bits of floats.
    """

    notation: Notation
    primitives: Mapping[str, str]

    @abstractmethod
    def assignment(self, variable: Variable, value: str, first: bool, last: bool) -> str:
        """Text of an assignment; ``first`` and ``last`` tell whether it is the first or last one to this name."""

    @abstractmethod
    def definition(self, name: str, parameters: Sequence[str], note: str, lines: Sequence[str], result: str) -> str:
        """Text of a function."""

    @abstractmethod
    def array(self, array: Array) -> str:
        """Text of an array of constants."""

    def lines(self, expression: Expression) -> list[str]:
        """The assignments that an expression needs."""
        variables = assignments(expression)
        names = [each.name for each in variables]
        return [
            self.assignment(
                each, self.notation.write(each.parts[0]), each.name not in names[:k], each.name not in names[k + 1 :]
            )
            for k, each in enumerate(variables)
        ]

    def functions(self, *expressions: Expression) -> str:
        """The arrays that expressions read, and the functions that they call, each preceded by those that it calls."""
        texts: dict[str, str] = {}

        def visit(expression: Expression) -> None:
            for each in walk(expression):
                if isinstance(each, Array):
                    texts[each.name] = self.array(each)
            for name in [each.name for each in walk(expression) if isinstance(each, Operation)]:
                if name in texts:
                    continue
                if name in self.primitives:
                    texts[name] = self.primitives[name]
                elif name in _FUNCTIONS:
                    parameters, result = traced(_FUNCTIONS[name], STEPS)
                    visit(result)
                    note = inspect.getdoc(_FUNCTIONS[name]) or ""
                    names = [each.name for each in parameters]
                    texts[name] = self.definition(name, names, note, self.lines(result), self.notation.write(result))

        for each in expressions:
            visit(each)
        return "".join(texts.values())
