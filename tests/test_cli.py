"""The command line: a verb parses, calls and prints; a failure has its exit code; --json is one object on stdout."""

import errno
import io
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import omma
from omma import cli
from pair_folders import make_pairs, said

DOCS = Path(__file__).parents[1] / "docs"
VERBS = ("demo", "scenes", "ingest", "ingest-items", "masks", "export", "embed", "index", "search", "ask", "serve",
         "explain", "train", "eval", "compare", "bench", "blind", "convert", "mix", "deploy", "show")  # fmt: skip


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
    assert [line.split()[0] for line in out.split("Commands:")[1].splitlines()[1 : len(VERBS) + 1]] == list(VERBS)
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


@pytest.mark.parametrize("verb", ["demo", "embed", "search", "explain", "train", "eval", "bench"])
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
        ["search", "--encoder", "x"],
        ["search", "two", "red", "cups"],
        ["index", "forget"],
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
    assert list(listed) == ["vlmo", *RECIPES]
    assert all(len(line) > 20 for line in listed.values())


# ---- the verbs at work


@pytest.fixture
def by_colour(monkeypatch, colour_encoder):
    """Every --encoder is the one that knows colours."""
    import omma.models.pretrained

    # the public name first: it is looked up on first use, and would otherwise keep the other module's stand-in
    for module in (omma, omma.models.pretrained):
        monkeypatch.setattr(module, "load_encoder", lambda name, device="auto": colour_encoder)


def test_scenes_writes_two_tables_and_says_where(capsys, tmp_path):
    out = tmp_path / "scenes"
    code, said, _ = omma_says(capsys, "scenes", out, "--pictures", 4, "--pairs", 1, "--size", 64, "--json")
    assert code == 0
    result = json.loads(said)
    assert result["pictures"] == {"path": str(out / "pictures"), "rows": 4 + 2 * 9}
    assert omma.Table.open(out / "items").num_rows == result["items"]["rows"]
    assert omma_says(capsys, "scenes", out)[0] == 2, "a table that is there is not written over"


def test_single_edits_are_drawn_unchecked_for_training_and_refused_for_a_test(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("omma.scenes.sources.PATTERNS", ("presence",))
    wanted = ("--pictures", 0, "--pairs", 200, "--size", 64, "--mode", "single", "--json")
    code, _, err = omma_says(capsys, "scenes", tmp_path / "test", *wanted)
    assert code == 2
    assert "a shortcut tells the partners of a pair apart" in err
    code, said, _ = omma_says(capsys, "scenes", tmp_path / "train", *wanted, "--no-check")
    assert code == 0
    items = omma.Table.open(json.loads(said)["items"]["path"]).read(["knobs"], where="task == 'pairs'")
    assert {row["mode"] for row in items["knobs"].to_pylist()} == {"single"}


def test_ingest_counts_every_picture_by_status(capsys, tmp_path, colour_pictures):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, picture in colour_pictures.items():
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"all {name}")
    (folder / "broken.png").write_bytes(b"no picture")
    code, said, _ = omma_says(capsys, "ingest", folder, tmp_path / "table", "--json")
    assert code == 0
    result = json.loads(said)
    assert result["rows"] == 5
    assert sum(result["status"].values()) == 5
    assert "not_an_image" in result["status"]


def test_embed_then_search_finds_what_was_asked_for(capsys, tmp_path, coloured_table, colour_pictures, by_colour):
    code, said, _ = omma_says(capsys, "embed", coloured_table, "--encoder", "colours", "--json")
    assert code == 0
    assert json.loads(said)["rows"] == 24
    code, said, _ = omma_says(capsys, "search", coloured_table, "blue", "--encoder", "colours", "-k", 3, "--json")
    assert code == 0
    hits = json.loads(said)["hits"]
    assert len(hits) == 3
    assert all(hit["row"]["captions"][0]["text"].startswith("a blue square") for hit in hits)
    assert hits[0]["score"] >= hits[2]["score"]
    assert "bytes" not in hits[0]["row"]

    colour_pictures["green"].save(tmp_path / "green.png")
    args = ["search", coloured_table, "--image", tmp_path / "green.png", "-e", "colours", "--where", "id != 'p001'"]
    code, said, _ = omma_says(capsys, *args, "--json")
    assert json.loads(said)["hits"][0]["id"] == "p004", "p001 is the greenest, and left out"
    assert "a green square" in omma_says(capsys, *args)[1]


def test_a_search_in_a_table_without_vectors_says_how_to_make_them(capsys, coloured_table, by_colour):
    code, _, err = omma_says(capsys, "search", coloured_table, "blue", "--encoder", "colours")
    assert code == 2
    assert f"omma embed {coloured_table} --encoder colours" in err


def test_eval_prints_the_report_and_show_prints_it_again(capsys, tmp_path, coloured_table, by_colour):
    args = ["eval", "colours", "retrieval", "--data", coloured_table, "--out", tmp_path / "report"]
    code, first, _ = omma_says(capsys, *args)
    assert code == 0
    assert "t2i.recall@1" in first
    code, again, _ = omma_says(capsys, "show", tmp_path / "report")
    assert (code, again) == (0, first)
    printed = json.loads(omma_says(capsys, *args, "--json")[1])
    shown = json.loads(omma_says(capsys, "show", tmp_path / "report", "--json")[1])
    assert shown["report"] == printed
    page = tmp_path / "page.html"
    told = json.loads(omma_says(capsys, "show", tmp_path / "report", "--html", page, "--json")[1])
    assert told == {"path": str(page), "bytes": page.stat().st_size, "pictures": None, "items": None}
    code, _, err = omma_says(capsys, "show", tmp_path / "report", tmp_path / "report")
    assert code != 0
    assert "--html PAGE.html" in err


def test_train_applies_file_and_overrides_and_show_tells_what_the_run_holds(capsys, tmp_path, coloured_table):
    (tmp_path / "tiny.toml").write_text(
        "steps = 9\nwarmup = 1\nbatch_size = 8\n"
        "model = { hidden_size = 24, num_layers = 2, num_heads = 2, image_size = 32 }\n"
    )
    run = tmp_path / "run"
    changes = [f"data={coloured_table}", f"out={run}", "steps=2"]
    args = ["train", "vlmo-nano-mim", *changes, "--config", tmp_path / "tiny.toml", "--device", "cpu", "--json"]
    code, said, _ = omma_says(capsys, *args)
    assert code == 0
    result = json.loads(said)
    assert result["step"] == result["config"]["steps"] == 2
    assert result["config"]["device"] == "cpu"
    assert result["last_metrics"]["step"] == 2

    summary = json.loads(omma_says(capsys, "show", run, "--json")[1])
    assert summary["kind"] == "run"
    assert summary["config"] == result["config"]
    assert summary["checkpoints"] == [Path(result["checkpoint"]).name]

    eye = json.loads(omma_says(capsys, "show", result["checkpoint"], "--json")[1])
    from safetensors import safe_open

    with safe_open(Path(result["checkpoint"]) / "model.safetensors", "numpy") as file:
        weights = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118
    assert (eye["kind"], eye["parameters"], eye["step"]) == ("checkpoint", weights, 2)
    assert eye["tokens"] > 5

    assert omma_says(capsys, *args)[0] == 2, "a run that is there is not written over"
    assert omma_says(capsys, *args, "--resume")[0] == 0


def test_show_of_a_table_counts_statuses_and_shows_columns(capsys, coloured_table):
    summary = json.loads(omma_says(capsys, "show", coloured_table, "--json")[1])
    assert (summary["kind"], summary["of"], summary["rows"]) == ("table", "pictures", 24)
    assert summary["counts"]["status"] == {"ok": 24}
    assert summary["sample"][0]["id"] == "p000"
    assert "a red square on the left" in omma_says(capsys, "show", coloured_table)[1]


def test_show_of_a_folder_of_tables_names_them_and_of_anything_else_says_what_it_saw(capsys, tmp_path, coloured_table):
    summary = json.loads(omma_says(capsys, "show", tmp_path, "--json")[1])
    assert summary["holds"] == {"coloured": "table"}
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("x")
    assert "it holds nothing" in omma_says(capsys, "show", tmp_path / "empty")[2]
    assert "it holds a.txt" in omma_says(capsys, "show", tmp_path / "notes")[2]
    assert "is a file" in omma_says(capsys, "show", tmp_path / "notes" / "a.txt")[2]


# ---- failures


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
        (IsADirectoryError(21, "Is a directory", "photos"), 2, "omma: Is a directory: photos\n"),
        (FileExistsError(17, "File exists", "a.txt"), 2, "omma: File exists: a.txt\n"),
        (OSError(36, "File name too long", "aa"), 2, "omma: File name too long: aa\n"),
        (FileNotFoundError("a has no tokenizer.json"), 2, "omma: a has no tokenizer.json\n"),
        (KeyboardInterrupt(), 130, "omma: interrupted\n"),
    ],
)
def test_a_known_failure_is_one_line_with_its_exit_code(capsys, monkeypatch, tmp_path, error, code, words):
    failing_verb(monkeypatch, error)
    assert omma_says(capsys, "show", tmp_path, "--json") == (code, "", words)


def test_a_failure_of_another_process_is_one_line(capsys, monkeypatch, tmp_path):
    from omma.training.loop import FailedElsewhere

    failing_verb(monkeypatch, FailedElsewhere("process 0 of 2 failed: ValueError: no data"))
    told = "omma: process 0 of 2 failed: ValueError: no data\n"
    assert omma_says(capsys, "show", tmp_path, "--json") == (1, "", told)


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
        # tests/test_docs.py compares what stands in the text block
        assert f"```bash\nomma {verb} --help\n```\n\n```text\n" in page


def test_a_full_disk_is_told_in_one_line(capsys, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device", "tables/a/base/00000.parquet")

    monkeypatch.setattr("omma.data.ingest.ingest", full)
    monkeypatch.setattr(omma, "ingest", full, raising=False)
    assert cli.run(["ingest", "pictures", "tables/a"]) == 1
    told = capsys.readouterr().err
    assert "No space left on device" in told
    assert "tables/a/base" in told
    assert "Traceback" not in told


def test_explain_tells_words_and_patches_and_draws_the_heat(capsys, tmp_path):
    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "red.png")
    given = ("explain", "vlmo-nano", tmp_path / "red.png", "two red cups", "--out", tmp_path / "heat.png")
    code, out, _ = omma_says(capsys, *given, "--json")
    told = json.loads(out)
    assert code == 0
    assert [word for word, _ in told["words"]] == ["two", "red", "cups"]
    assert [len(line) for line in told["patches"]] == [6] * 6
    row, column = told["peak"]
    assert told["patches"][row][column] == max(map(max, told["patches"]))
    with Image.open(tmp_path / "heat.png") as heat:
        assert heat.size == (40, 30)
    assert "cups" in omma_says(capsys, *given, "--kind", "itc", "--method", "rollout")[1]
    assert omma_says(capsys, "explain", "vlmo-nano", tmp_path / "none.png", "a cup")[0] == 2
    for out, words in (("heat.pgn", "ends in '.pgn'; call "), ("gone/heat.png", "there is no folder")):
        code, _, err = omma_says(capsys, *given[:4], "--out", tmp_path / out)
        assert (code, words in err) == (2, True), err


def test_a_file_of_words_that_is_no_text_is_named(capsys, tmp_path):
    (tmp_path / "words").write_bytes(b"\x89PNG")
    for command in (["scenes", tmp_path / "s", "--split-design", "fresh", "--secret-file", tmp_path / "words"],
                    ["masks", tmp_path, tmp_path, "--classes", tmp_path / "words"],
                    ["convert", "a", "b", "--vocab", "c", "--labels", tmp_path / "words"]):  # fmt: skip
        code, _, err = omma_says(capsys, *command)
        assert (code, "words is no text in UTF-8; save it as that" in err) == (2, True), err


def test_a_place_that_cannot_be_written_to_is_told_before_the_work(capsys, monkeypatch, tmp_path, coloured_table):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(omma, "load_encoder", lambda *_: pytest.fail("the work began"))
    monkeypatch.setattr("omma.models.pretrained.load_encoder", lambda *_, **__: pytest.fail("the work began"))
    for option in (["--out", tmp_path / "file"], ["--predictions", tmp_path / "file" / "said.csv"]):
        code, _, err = omma_says(capsys, "eval", "eye", "retrieval", "--data", coloured_table, *option)
        assert (code, "Traceback" in err) == (2, False), err


def test_what_a_caption_says_is_shown_as_it_stands(capsys, monkeypatch, tmp_path, colour_pictures, by_colour):
    """Brackets and colons are markup to the printer: they would vanish, turn into pictures, or end in an error."""
    said = "[/INST] a :cup: at the [exit]"
    table, picture = omma.Table.create(tmp_path / "t"), io.BytesIO()
    colour_pictures["red"].save(picture, "PNG")
    table.append([{"id": "[/a].png", "bytes": picture.getvalue(),
                   "captions": [{"text": said, "language": "en"}]}])  # fmt: skip
    assert omma_says(capsys, "embed", tmp_path / "t", "-e", "eye")[0] == 0
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = omma_says(capsys, "search", tmp_path / "t", "red [/b]", "-e", "eye")
    assert code == 0, err
    assert all(words in out for words in (said, "[/a].png", "hits for 'red [/b]'"))
    code, out, err = omma_says(capsys, "show", tmp_path / "t")
    assert code == 0, err
    assert said in out


def test_blind_prints_what_is_found_and_writes_all_of_it(tmp_path, capsys):
    table = omma.Table.create(tmp_path / "t")
    table.append([{"id": f"p{k}", "bytes": bytes([k])} for k in range(4)])
    table.add_column("embed.a", np.array([[1, 0], [1, 0.1], [0, 1], [-1, 1]], np.float32))
    table.add_column("embed.b", np.array([[1, 0], [0, 1], [-1, 1], [1, 1.5]], np.float32))
    eyes = ("--eye", "embed.a", "--reference", "embed.b")
    code, out, _ = omma_says(capsys, "blind", table.uri, *eyes, "--out", tmp_path / "o", "--json")
    told = json.loads(out)
    assert code == 0
    assert [(row["a"], row["b"]) for row in told["pairs"]] == [("p0", "p1")]
    assert told["missed"] is None
    assert told["counts"]["compared"] == 6
    assert (tmp_path / "o" / "pairs.parquet").is_file()
    assert told["other_way"] is None
    code, out, _ = omma_says(capsys, "blind", table.uri, *eyes, "--above", "quantile:0.2")
    assert code == 0
    assert "for these eyes: --above" in out
    code, out, _ = omma_says(capsys, "blind", table.uri, *eyes, "--both-ways", "--out", tmp_path / "o", "--json")
    assert code == 0
    back = json.loads(out)["other_way"]
    assert (back["counts"]["blind"], back["patterns"], back["of"]["eye"]) == (1, None, "embed.b")
    assert back["out"] == str(tmp_path / "o" / "other-way" / "pairs.parquet")
    assert pq.read_table(back["out"])["a"].to_pylist() == ["p1"]
    assert pq.read_table(tmp_path / "o" / "pairs.parquet")["a"].to_pylist() == ["p0"]
    code, out, _ = omma_says(capsys, "blind", table.uri, *eyes, "--both-ways")
    assert code == 0
    assert "both ways: 1 pairs blind to embed.a, 1 to embed.b" in " ".join(out.split())
    code, _, err = omma_says(capsys, "blind", table.uri, "--eye", "embed.c", "--reference", "embed.b")
    assert code == 2
    assert "omma embed" in err
    omma.Table.create(tmp_path / "items", "items")
    code, _, err = omma_says(capsys, "blind", tmp_path / "items", *eyes)
    assert code == 2
    assert f"give its pictures, such as {tmp_path / 'pictures'}" in err


def test_blind_annotate_serves_a_page_until_it_is_interrupted_and_exports_what_was_written(
    tmp_path, capsys, monkeypatch
):
    from omma.eval.annotate.store import open_store
    from omma.web.loopback import Loopback

    pairs = make_pairs(tmp_path)
    store = open_store(pairs.folder)
    store.save(pairs[0], "anna", said())
    store.close()

    def interrupted(server):
        with urllib.request.urlopen(server.url + "api/state") as reply:
            assert json.loads(reply.read())["annotators"] == ["anna"]
        raise KeyboardInterrupt

    monkeypatch.setattr(Loopback, "wait", interrupted)
    page = ("blind", pairs.table.uri, "--annotate", pairs.folder)
    code, out, err = omma_says(capsys, *page, "--json")
    assert code == 0
    assert json.loads(out)["url"].startswith("http://127.0.0.1:")
    assert "annotated: anna 1 pairs" in err
    code, out, _ = omma_says(capsys, *page, "--export", "mmvp", "--out", tmp_path / "mine", "--json")
    assert code == 0
    assert json.loads(out)["questions"] == 2
    assert (tmp_path / "mine" / "Questions.csv").is_file()
    for args, told in (
        ((*page, "--export", "items"), "--out is missing"),
        ((*page[:2], "--annotate", tmp_path), "no pairs.parquet"),
        (page[:2], "give two eyes"),
        ((*page[:2], "--export", "items"), "--export goes with --annotate"),
        ((*page, "--eye", "embed.a"), "pairs that were found before"),
    ):
        code, out, err = omma_says(capsys, *args)
        assert (code, out) == (2, "")
        assert told in err
