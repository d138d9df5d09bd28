"""The command line: a verb parses, calls and prints; a failure has its exit code; --json is one object on stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import omma
from omma import cli

DOCS = Path(__file__).parents[1] / "docs"
VERBS = ("demo", "scenes", "ingest", "embed", "search", "train", "eval", "show")


def omma_says(capsys, *args) -> tuple[int, str, str]:
    """Run one command in this process: exit code, stdout, stderr."""
    code = cli.run([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


def test_help_is_quick_because_it_loads_no_torch_and_no_arrow():
    code = "import sys; from omma import cli; cli.run(['--help']); print({'torch', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_help_names_every_verb_and_the_exit_codes(capsys):
    code, out, _ = omma_says(capsys, "--help")
    assert code == 0
    assert [line.split()[0] for line in out.split("Commands:")[1].splitlines()[1:9]] == list(VERBS)
    assert "2 bad usage or input" in " ".join(out.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_json_an_example_and_a_short_line(capsys, verb):
    code, out, _ = omma_says(capsys, verb, "--help")
    assert code == 0
    assert "--json" in out
    assert f"\n  omma {verb}" in out
    listed = omma_says(capsys, "--help")[1].split("Commands:")[1]
    assert f"  {verb} " in listed
    assert "..." not in listed, "a verb's first line is too long for the list"


@pytest.mark.parametrize("verb", ["demo", "embed", "search", "train", "eval"])
def test_every_verb_that_runs_a_model_lets_one_choose_the_device(capsys, verb):
    assert "auto|cpu|cuda|mps" in omma_says(capsys, verb, "--help")[1]


def test_version_is_the_packages(capsys):
    assert omma_says(capsys, "--version") == (0, f"omma {omma.__version__}\n", "")


@pytest.mark.parametrize(
    "args",
    [
        ["paint"],
        ["show"],
        ["embed", "table"],
        ["search", "table", "--encoder", "x"],
        ["search", "table", "words", "--image", "file.png", "--encoder", "x"],
        ["eval", "model", "patterns", "--data", "d", "--device", "abacus"],
    ],
)
def test_bad_usage_is_exit_2_and_says_so_on_stderr(capsys, args):
    code, out, err = omma_says(capsys, *args)
    assert code == 2
    assert out == ""
    assert "Error: " in err


def test_an_error_of_the_user_is_one_message_and_no_traceback(capsys, tmp_path):
    code, out, err = omma_says(capsys, "show", tmp_path / "nowhere", "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"omma: nothing at {tmp_path / 'nowhere'}; ")
    assert len(err.splitlines()) == 1


def test_an_unknown_recipe_and_an_unknown_key_name_what_exists(capsys):
    code, _, err = omma_says(capsys, "train", "vlmo-giga")
    assert code == 2
    assert "vlmo-nano-mim" in err
    code, _, err = omma_says(capsys, "train", "vlmo-nano-mim", "model.hiden_size=3")
    assert code == 2
    assert "model.hidden_size" in err


def test_train_without_a_recipe_lists_them_with_a_line_each(capsys):
    code, out, _ = omma_says(capsys, "train", "--json")
    assert code == 0
    from omma.training.recipes import RECIPES

    listed = json.loads(out)["recipes"]
    assert list(listed) == list(RECIPES)
    assert all(len(line) > 20 for line in listed.values())


def failing_verb(monkeypatch, error: BaseException) -> None:
    """`omma show` that fails with `error`, raised from inside omma."""

    def fail(_thing):
        raise error

    fail = type(fail)(fail.__code__, {"__name__": "omma.pretend"}, closure=fail.__closure__)
    monkeypatch.setattr("omma.show.describe", fail)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("no column 'x'"), 2, "omma: no column 'x'\n"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 2, "omma: No such file or directory: a.png\n"),
        (FileNotFoundError("a has no tokenizer.json"), 2, "omma: a has no tokenizer.json\n"),
        (KeyboardInterrupt(), 130, "omma: interrupted\n"),
    ],
)
def test_a_known_failure_is_one_line_with_its_exit_code(capsys, monkeypatch, tmp_path, error, code, words):
    failing_verb(monkeypatch, error)
    assert omma_says(capsys, "show", tmp_path, "--json") == (code, "", words)


def test_a_loss_that_is_not_finite_is_exit_3(capsys, monkeypatch, tmp_path):
    from omma.training.loop import NonFiniteLoss

    failing_verb(monkeypatch, NonFiniteLoss("step 7: the loss is nan"))
    assert omma_says(capsys, "show", tmp_path) == (3, "", "omma: step 7: the loss is nan\n")


@pytest.mark.parametrize("error", [ZeroDivisionError("oh"), KeyError("x")])
def test_an_unexpected_failure_is_exit_1_with_its_traceback(capsys, monkeypatch, tmp_path, error):
    failing_verb(monkeypatch, error)
    code, out, err = omma_says(capsys, "show", tmp_path)
    assert (code, out) == (1, "")
    assert "Traceback" in err


def test_a_value_error_out_of_a_library_is_not_blamed_on_the_user(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("omma.show.describe", lambda thing: json.loads("{"))
    code, _, err = omma_says(capsys, "show", tmp_path)
    assert code == 1
    assert "Traceback" in err


def test_what_the_work_prints_goes_to_stderr_under_json(capsys, monkeypatch, tmp_path):
    def chatty(thing):
        print("half way")
        return {"kind": "run", "loss": float("nan"), "path": Path("a"), "scores": (1, 2.5)}

    monkeypatch.setattr("omma.show.describe", chatty)
    code, out, err = omma_says(capsys, "show", tmp_path, "--json")
    assert (code, err) == (0, "half way\n")
    assert json.loads(out) == {"kind": "run", "loss": None, "path": "a", "scores": [1, 2.5]}


def test_the_installed_command_ends_with_the_same_exit_code(tmp_path):
    command = [sys.executable, "-m", "omma.cli", "show", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 2
    assert done.stderr.startswith("omma: nothing at")


def test_the_page_of_the_command_line_prints_the_help_of_every_verb():
    page = (DOCS / "cli.md").read_text()
    for verb in VERBS:
        assert f"```bash\nomma {verb} --help\n```\n\n```text\n" in page, "tests/test_docs.py compares the block below it"
