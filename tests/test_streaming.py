"""What is streamed is made once where there is room, and again where there is none."""

import pytest

from depth_distill import streaming
from depth_distill.streaming import Mapped, Streamed


class Squares:
    """Squares of positions, and which were made."""

    def __init__(self, length, size_bytes=1):
        self.made = []
        self.values = Streamed(length, self._make, lambda value: size_bytes)

    def _make(self, positions):
        for position in positions:
            self.made.append(position)
            yield position**2


def test_items_are_made_when_they_are_asked_for_and_kept():
    squares = Squares(5)
    assert len(squares.values) == 5
    assert squares.made == []
    assert squares.values[-2] == 9
    assert list(squares.values) == [0, 1, 4, 9, 16]
    assert list(squares.values) == [0, 1, 4, 9, 16]
    assert sorted(squares.made) == [0, 1, 2, 3, 4]


def test_what_does_not_fit_is_made_again_except_for_the_last_one(monkeypatch):
    monkeypatch.setattr(streaming, "ROOM_BYTES", 2)
    squares = Squares(4)
    for position, value in enumerate(squares.values):
        assert squares.values[position] == value  # of a metric that is measured beside the network
    assert squares.made == [0, 1, 2, 3]
    assert list(squares.values) == [0, 1, 4, 9]
    assert squares.made == [0, 1, 2, 3, 2, 3]


def test_slices_make_nothing_but_their_own():
    squares = Squares(10)
    assert list(squares.values[::4]) == [0, 16, 64]
    assert squares.made == [0, 4, 8]
    assert list(squares.values[::4][1:]) == [16, 64]


def test_a_function_of_a_sequence_is_applied_to_what_is_asked_for():
    squares = Squares(4)
    negative = Mapped(lambda value: -value, squares.values)
    assert negative[1] == -1
    assert squares.made == [1]
    assert list(negative) == [0, -1, -4, -9]
    assert list(negative[2:]) == [-4, -9]
    with pytest.raises(IndexError):
        negative[4]
