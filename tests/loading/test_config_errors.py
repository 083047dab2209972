"""Shortened jsonargparse error messages."""

from pathlib import Path

from depth_distill.loading.config_errors import explain

UNKNOWN_OPTION = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'pytorch_lightning.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'depth_distill.tasks.DepthTask':
        Parser key "network":
          Problem with given class_path 'depth_distill.models.DepthNet':
            Parser key "head":
              Type collections.abc.Callable[[int], depth_distill.models.heads.DepthHead] expects a function or a \
callable class: Option 'encodng' is not accepted. Got value: Namespace(class_path='depth_distill.models.SingleHead', \
init_args=Namespace(encodng='log'))
    - Expected a <class 'NoneType'>
  Given value type: <class 'dict'>
  Given value: {'class_path': 'DepthTask'}"""


def test_the_key_is_spelled_as_on_the_command_line_and_the_nearest_option_is_named():
    explained = explain(UNKNOWN_OPTION)
    assert explained.startswith(
        "model.init_args.network.init_args.head.init_args: SingleHead has no option 'encodng'; "
    )
    assert explained.endswith("did you mean 'encoding'? expected one of in_channels, depth_range, encoding, output")
    assert "\n" not in explained
    assert "Namespace" not in explained


def test_each_alternative_has_its_own_key():
    explained = explain(
        'Parser key "trainer.callbacks":\n'
        "  Does not validate against any of the Union subtypes\n"
        "  Errors:\n"
        '    - Parser key "first":\n'
        "        Expected a <class 'int'>\n"
        "    - Expected a <class 'depth_distill.data.dataset.DepthDataset'>\n"
        "  Given value type: <class 'str'>\n"
        "  Given value: many"
    )
    assert explained == (
        "trainer.callbacks.first: expected int; trainer.callbacks: expected DepthDataset; trainer.callbacks: got many"
    )


def test_a_value_among_choices():
    explained = explain("Parser key \"mode\":\n  Expected a typing.Literal['min', 'max']. Got value: mni")
    assert explained == "mode: expected one of 'min', 'max', got 'mni'"


def test_an_unknown_class_is_compared_with_subclasses_of_the_same_base():
    explained = explain(
        'Parser key "loss":\n'
        "  Subtypes: [<class 'depth_distill.data.dataset.DepthDataset'>, <class 'NoneType'>]\n"
        "    - Expected a dot import path string: KitiDepth\n"
    )
    assert "did you mean 'KittiDepth'?" in explained
    assert "FileDataset" not in explained  # abstract
    assert "SILogLoss" not in explained  # of another kind


def test_options_of_the_command_line():
    options = ["trainer.max_epochs", "data.root"]
    assert explain("unrecognized arguments: --data.rot x", options) == (
        "there is no option 'data.rot'; did you mean 'data.root'? expected one of data.root, trainer.max_epochs"
    )
    assert explain("unrecognized arguments: --zzz", options) == (
        "there is no option 'zzz'; expected one of data.root, trainer.max_epochs"
    )


def test_a_file_that_is_not_yaml_is_named():
    message = "Problems parsing config: did not find ']'\n  in line 2"
    assert explain(message, files=[Path("a.yaml")]) == "a.yaml: not valid YAML: did not find ']' in line 2"


def test_an_unknown_message_is_passed_on():
    assert explain("something new") == "something new"
