import numpy as np

from depth_distill.display.diagnosis_picture import CurveOf, diagnosis_picture


def test_panels_show_what_they_are_given():
    codes = np.linspace(0.2, 0.8, 20)
    curve = CurveOf("code", codes, codes**2, np.full(20, 0.01), (0.0, 1.0), codes**2 + 0.01)
    parts = [("systematic", 0.9, 90.0), ("random rest", 0.1, 10.0)]
    suspects = [("sigmoid by hard sigmoid", 0.95), ("flipped", -7.0)]
    figure = diagnosis_picture("what happened", curve, parts, np.eye(8), suspects, named=0)
    drawn, shares, place, tried = figure.axes[:4]
    assert [line.get_label() for line in drawn.lines] == ["nothing wrong", "mean", "the suspect"]
    assert np.array_equal(drawn.lines[1].get_ydata(), codes**2)
    assert [bar.get_width() for bar in shares.patches] == [90, 10]
    assert place.images[0].get_array().shape == (8, 8)
    assert [bar.get_width() for bar in tried.patches] == [95, 0]
    assert tried.patches[0].get_facecolor() != tried.patches[1].get_facecolor()
    assert [text.get_text() for text in tried.texts] == [" 95.0 %", " makes it worse"]
