"""README and docs are true to the command line: every command parses, every key is one of the config, Python runs."""

import ast
import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from depth_distill.cli import command_parser
from depth_distill.commands import COMMANDS
from depth_distill.errors import ConfigError
from depth_distill.lightning_cli import DataCLI, DepthCLI, build_cli
from depth_distill.roadmap.plan import load_plan
from depth_distill.runs import run_name
from depth_distill.shipped_configs import shipped_folder

ROOT = Path(__file__).parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TRAINING = ("fit", "validate", "test", "predict")
OWN_FILES = {
    "my.yaml": "configs/teacher/resnet18.yaml",
    "my-recipe.yaml": "configs/recipe/equalize.yaml",
    "my-chip.yaml": "configs/target/per-tensor-minmax.yaml",
}
"""Files that a reader is told to write, and a shipped one of the kind."""
ANY_CONFIG = ROOT / "configs" / "teacher" / "resnet18.yaml"
RUN_CONFIGS = {run_name([path]): path for path in shipped_folder().rglob("*.yaml")}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def command_lines(text):
    """The commands of a bash block as lists of words: continued lines joined, comments dropped, variables filled in."""
    variables = {}
    found = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        line = re.sub(r"<(\w+)>", r"\1", line)  # <time> is for the reader to fill in
        line = re.sub(r'"\$\{(\w+)\[@\]\}"', r"$\1", line)  # every word of an array
        line = re.sub(r"\$([A-Za-z_]\w*)", lambda match: variables.get(match[1], f"{match[1].lower()}.ckpt"), line)
        words = shlex.split(line, comments=True)
        if array := re.match(r"(\w+)=\((.*)\)", line):
            variables[array[1]] = array[2]
        elif words and (assigned := re.fullmatch(r"(\w+)=(.*)", words[0])):
            variables[assigned[1]] = assigned[2]
        elif words:
            found.append(words)
    return found


class ParsedOnly(DepthCLI):
    """Stops where the run would begin: every key was checked against the classes that the config names."""

    def before_instantiate_classes(self):
        raise StopIteration


class DataParsedOnly(DataCLI):
    """The same without a subcommand."""

    def instantiate_classes(self):
        pass


def check(words):
    """Refuse a command line that this version would refuse before it reads data or a checkpoint."""
    match words:
        case ["make", *rest]:
            check_make(rest)
        case ["depth-distill", name, *rest] | ["python", "-m", "depth_distill", name, *rest]:
            check_command(name, rest)
        case ["python", script, *_] if script != "-m":
            assert (ROOT / script).is_file()


def check_make(words):
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        variable = word.partition("=")[0] if "=" in word else ""
        pattern = rf"\$\({variable}\)" if variable else rf"^{re.escape(word)}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"the Makefile knows no {word}"
    recipe = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in recipe.replace("\\\n", " ").splitlines():
        program, *rest = shlex.split(line) or [""]
        if Path(program).name == "python" and rest[:2] == ["-m", "depth_distill"]:
            check(["python", *rest])


def check_command(name, words):
    if name in ("--help", "--version"):
        return
    assert name in COMMANDS
    words = [each for word in words for each in _shipped(word)]
    options, overrides = command_parser(name).parse(words)
    if name in TRAINING:
        with pytest.raises(StopIteration):
            build_cli(ParsedOnly, [name, *words], run=True)
    elif overrides:
        config = getattr(options, "config", None)
        if name == "roadmap":
            config = load_plan(config).distill_config
        configs = config if isinstance(config, list) else [config or ANY_CONFIG]
        given = [word for each in configs for word in ("--config", str(each))]
        build_cli(DataParsedOnly, [*given, *overrides], run=False)


def _shipped(word):
    """In place of the config of a run, the shipped config that the run is called after, with data as it was given."""
    run = re.fullmatch(r"runs/([\w-]+)/(?:time|latest)/config\.yaml", word)
    return [str(RUN_CONFIGS[run[1]]), "--data.root", "my_data"] if run else [OWN_FILES.get(word, word)]


DOCUMENTED = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)[:90]}")
    for page in PAGES
    for block in blocks(page, "bash")
    for words in command_lines(block)
]


@pytest.mark.parametrize("words", DOCUMENTED)
def test_a_documented_command_parses(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(words)


@pytest.mark.parametrize(
    "line",
    [
        "make demmo",
        "make export-npu CHECKPOINT=last.ckpt",
        'make export-npu CKPT=last.ckpt ARGS="--uint9-input"',
        "depth-distill ptq-tables --checkpoint last.ckpt --out ptq",
        "depth-distill ptq-table --checkpoint last.ckpt --outt ptq",
        "depth-distill export --checkpoint last.ckpt --target per-tensor-minmacs --out bundle",
        "python -m depth_distill fit --config configs/teacher/resnet18.yaml --trainer.max_epoch 5",
        "python -m depth_distill fit --config configs/teacher/resnet18.yaml --model.init_args.networks DepthNet",
        "depth-distill sensitivity --checkpoint last.ckpt --out sensitivity --data.roots my_data",
        "python tools/benchmarks/heads_tables.py --out heads",
    ],
)
def test_a_command_of_another_version_does_not(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((AssertionError, ConfigError)):
        check(shlex.split(line))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_sentence_or_a_table_names_is_there(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    makefile = (ROOT / "Makefile").read_text()
    for span in re.findall(r"`([^`\n]+)`", text):
        match span.split():
            case ["make", target, *_]:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), span
            case ["depth-distill", name, *words] | ["python", "-m", "depth_distill", name, *words] if name in COMMANDS:
                options = re.findall(r"--[\w-]+(?![\w.-])", " ".join(words))
                assert set(options) <= command_parser(name)._option_string_actions.keys(), span
            case ["depth-distill", name, *_] | ["python", "-m", "depth_distill", name, *_]:
                assert name.startswith(("-", "COMMAND", "{")), f"there is no command {name}: {span}"
        for path in re.findall(r"\b(?:tools|tests)/[\w/]+\.py", span):
            assert (ROOT / path).is_file(), f"there is no {path}: {span}"


def run_python(sources, checkpoint):
    """Run blocks one after the other in one namespace, with the checkpoint in place of every string ending in .ckpt."""
    namespace = {"__name__": "__main__"}
    for source in sources:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".ckpt"):
                node.value = str(checkpoint)
        exec(compile(tree, "README.md", "exec"), namespace)
    return namespace


def test_the_python_of_the_readme_runs(trained_checkpoint, tmp_path, monkeypatch):
    sources = blocks(ROOT / "README.md", "python")
    if not sources:
        pytest.skip("there is no Python in the README")
    monkeypatch.chdir(tmp_path)
    run_python(sources, trained_checkpoint)


def test_blocks_share_names_and_are_given_the_checkpoint(tmp_path):
    first, second = 'path = "runs/teacher-resnet18/latest/checkpoints/best.ckpt"\nout = "bundle"', "found = path, out"
    assert run_python([first, second], tmp_path / "last.ckpt")["found"] == (str(tmp_path / "last.ckpt"), "bundle")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_the_docs_imports_what_there_is(page):
    for source in blocks(page, "python"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("depth_distill"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_release_notes_are_one_section_of_the_changelog():
    ((command, *rest),) = [
        words
        for block in blocks(ROOT / "CONTRIBUTING.md", "bash")
        for words in command_lines(block)
        if words[0] == "awk"
    ]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+).*\n([\s\S]*?)(?=^## |\Z)", changelog, re.MULTILINE)
    words = [word.replace("X.Y.Z", newest[1]) for word in rest]
    notes = subprocess.run([command, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert notes == newest[2] != ""
