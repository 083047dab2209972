"""The axis of an analysis is the one that can tell, and the cost of INT8 is put in words."""

from depth_distill.quantization.analysis.axis import Axis, cost_of_int8, telling_axis

FP32 = {"abs_rel": 0.0377, "drift_mm": 0.0}


def test_abs_rel_tells_where_int8_moves_it():
    assert telling_axis(FP32, {"abs_rel": 0.14, "drift_mm": 289.4}) == Axis("abs_rel")


def test_deviation_tells_where_abs_rel_stands_still():
    assert telling_axis(FP32, {"abs_rel": 0.0376, "drift_mm": 8.2}) == Axis("drift_mm")
    assert telling_axis(FP32, {"abs_rel": 0.0384, "drift_mm": 8.2}) == Axis("drift_mm")  # 1.9 %


def test_there_is_abs_rel_where_nothing_else_is_measured():
    assert telling_axis({"abs_rel": 0.0377}, {"abs_rel": 0.0376}) == Axis("abs_rel")


def test_values_have_their_unit():
    assert Axis("abs_rel").text(0.00123) == "0.0012"
    assert Axis("abs_rel").text(0.00123, sign=True) == "+0.0012"
    assert Axis("drift_mm").text(3.94, sign=True) == "+3.94 mm"


def test_the_cost_in_words():
    assert cost_of_int8(FP32, {"abs_rel": 0.0376, "drift_mm": 8.21}) == (
        "INT8 costs nothing in abs_rel (abs_rel 0.0376, FP32 0.0377, 8.2 mm from it)"
    )
    assert cost_of_int8({"abs_rel": 0.0304}, {"abs_rel": 0.1133}) == (
        "INT8 costs 272.7 % of abs_rel (abs_rel 0.1133, FP32 0.0304)"
    )
