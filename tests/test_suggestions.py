import pytest

from depth_distill.suggestions import did_you_mean


@pytest.mark.parametrize(
    ("received", "choices", "hint"),
    [
        ("trian.csv", ["val.csv", "train.csv"], "did you mean 'train.csv'? expected one of val.csv, train.csv"),
        ("x", ("val.csv", "train.csv"), "expected one of val.csv, train.csv"),
        ("x", iter([]), "there are none"),
    ],
)
def test_the_nearest_name_and_all_names_in_their_order(received, choices, hint):
    assert did_you_mean(received, choices) == hint


def test_of_many_names_the_nearest_twelve_are_listed():
    hint = did_you_mean("layer250", [f"layer{i}" for i in range(300)])
    assert hint.startswith("did you mean 'layer250'? expected one of layer250, ")
    assert hint.endswith(" and 288 more")
    assert hint.count("layer") == 13
