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


def test_of_many_names_the_nearest_one_is_named_or_the_nearest_twelve():
    names = [f"layer{i}" for i in range(300)]
    assert did_you_mean("layer2500", names) == "did you mean 'layer250'?"
    hint = did_you_mean("conv", names)
    assert hint.startswith("expected one of layer")
    assert hint.endswith(" and 288 more")
    assert hint.count("layer") == 12
