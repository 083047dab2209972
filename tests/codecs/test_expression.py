"""Expressions: parentheses, reused names, and numbers that keep their terms."""

import pytest

from depth_distill.codecs.arithmetic import named
from depth_distill.codecs.expression import Notation, Symbolic, Variable, assignments

PLAIN = Notation(lambda number: number.formula, {"where": ("{} ? {} : {}", 0)})
A, B, C = map(Variable, "abc")
XP = Symbolic(())


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (A + B + C, "a + b + c"),
        (A + (B + C), "a + (b + c)"),  # floats round in another order
        (A - (B - C), "a - (b - c)"),
        ((A + 1.0) * B / (2.0 * C), "(a + 1) * b / (2 * c)"),
        (1.0 - A * B, "1 - a * b"),
        (abs(A - B) <= 0.5, "abs(a - b) <= 0.5"),
        (A + XP.where(A < B, A, 1.0 - A), "a + (a < b ? a : 1 - a)"),
        (XP.round(A + B) * C, "round(a + b) * c"),
        (XP.clip(A, 0.0, 1.0), "clip(a, 0, 1)"),
    ],
)
def test_parentheses_keep_the_order_of_operations(expression, text):
    assert PLAIN.write(expression) == text


def test_what_is_computed_from_numbers_shows_them():
    near, far = XP.number(0.5), XP.number(15.0)
    assert PLAIN.write(near + (far - near) * A) == "0.5 + (15 - 0.5) * a"
    assert float(far / near) == 30


def test_a_name_is_assigned_to_again_only_where_its_old_value_is_done_with():
    first = named(XP, "total", A + B)
    second = named(XP, "total", first + C)
    assert [each.name for each in assignments(second * 2.0)] == ["total", "total"]
    with pytest.raises(ValueError, match="again uses total, which has another value by then"):
        assignments(named(XP, "again", second + first))
