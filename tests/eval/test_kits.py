"""lmms-eval and VLMEvalKit themselves beside omma's adapters, readers of results, and modes that count as they do.

    KITS=site-packages:VLMEvalKit:torchvision python -m pytest -n 0 tests/eval/test_kits.py

KITS holds folders of which lmms_eval (0.7.3), vlmeval (with its run.py, commit e8e78f0) and what they import can be
imported, torchvision included. Both are slow to load, and neither comes with omma's tests.
"""

import base64
import csv
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import omma
from omma import cli
from omma.eval.outcomes import outcomes

HERE = Path(__file__).parent
LMMS_EVAL = "import torchvision_stub as s; s.ensure(); from lmms_eval.__main__ import cli_evaluate as go; go()"
pytestmark = pytest.mark.skipif("KITS" not in os.environ, reason="KITS names no folders with lmms_eval and vlmeval")


def beside(*command, **more):
    """What a process with both kits on its path prints."""
    bench = HERE.parents[1] / "bench"
    path = os.pathsep.join([*sys.path, str(bench), os.environ["KITS"]])
    env = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"} | more
    done = subprocess.run([sys.executable, "-W", "ignore", *map(str, command)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder with a miniature of MMVP: Questions.csv and pictures."""
    folder = tmp_path_factory.mktemp("scenes") / "drawn"
    assert cli.run(["scenes", str(folder), "--pictures", "1", "--pairs", "1", "--size", "112", "--seed", "2", "--split",
                    "test", "--export", "mmvp"]) == 0  # fmt: skip
    with (folder / "mmvp" / "Questions.csv").open(newline="") as file:
        return folder, list(csv.DictReader(file))


def picture(asked, row):
    return (asked[0] / "mmvp" / "MMVP Images" / f"{row['Index']}.jpg").read_bytes()


@pytest.mark.parametrize("kit", ["lmms-eval", "vlmevalkit"])
def test_replies_are_read_and_earn_as_in_the_kit(kit):
    assert json.loads(beside(HERE / "beside_kits.py", kit, 4000).splitlines()[-1]) == []


def task_files(asked, tmp_path):
    """A folder with two tasks of lmms-eval over the miniature: its own, and one by likelihood."""
    _, rows = asked
    values = {"dtype": "string", "_type": "Value"}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({
        "Index": [int(row["Index"]) for row in rows],
        **{name: [row[name] for row in rows] for name in ("Question", "Options", "Correct Answer")},
        "label": ["(a)(b)".index(row["Correct Answer"]) // 3 for row in rows],
        "image": pa.array([{"bytes": picture(asked, row), "path": None} for row in rows], image),
    })  # fmt: skip
    features = dict.fromkeys(("Question", "Options", "Correct Answer"), values)
    features |= dict.fromkeys(("Index", "label"), values | {"dtype": "int64"}) | {"image": {"_type": "Image"}}
    told = json.dumps({"info": {"features": features}})
    (tmp_path / "mmvp").mkdir()
    pq.write_table(table.replace_schema_metadata({"huggingface": told}), tmp_path / "mmvp" / "train.parquet")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    place = beside("-c", "import importlib.util as u; print(*u.find_spec('lmms_eval').submodule_search_locations)")
    file = tmp_path / "mmvp" / "train.parquet"
    local = f"dataset_path: parquet\ndataset_kwargs: {{data_files: {{train: {file}}}}}\n"
    theirs = f"{place.strip()}/tasks/mmvp/_default_template_yaml"
    (tasks / "pairs.yaml").write_text(f"include: {theirs}\ntask: pairs\n{local}")
    (tasks / "likely.yaml").write_text(
        "task: likely\ntest_split: train\noutput_type: multiple_choice\ndoc_to_visual: !function shown.visual\n"
        "doc_to_text: Question\ndoc_to_choice: !function shown.options\ndoc_to_target: label\n"
        f"metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]\n{local}")  # fmt: skip
    (tasks / "shown.py").write_text(
        "def visual(doc): return [doc['image'].convert('RGB')]\n"
        "def options(doc): return [part.strip() for part in doc['Options'][4:].split('(b)')]\n")  # fmt: skip
    return tasks


def test_lmms_eval_s_command_runs_a_vlm_and_its_samples_say_what_omma_measures(asked, tmp_path):
    _, rows = asked
    tasks = task_files(asked, tmp_path)
    out = tmp_path / "out"
    beside("-c", LMMS_EVAL, "--model", "omma", "--model_args", "pretrained=vlm-nano", "--batch_size", "4", "--tasks",
           "pairs,likely", "--include_path", tasks, "--log_samples", "--output_path", out,
           HF_HOME=str(tmp_path))  # fmt: skip
    (results,) = out.glob("vlm-nano/*_results.json")
    theirs = json.loads(results.read_text())["results"]
    runs = {name: outcomes(next(out.glob(f"vlm-nano/*_samples_{name}.jsonl")))[0] for name in ("pairs", "likely")}
    earned = {name: [item.earned for item in run.items.values()] for name, run in runs.items()}
    assert [run.model for run in runs.values()] == ["vlm-nano"] * 2
    assert sum(earned["pairs"]) / len(rows) == theirs["pairs"]["mmvp_accuracy,none"]
    assert sum(earned["likely"]) / len(rows) == theirs["likely"]["acc,none"]
    assert len({item.group for item in runs["pairs"].items.values()}) == len(rows) // 2
    assert {item.said for item in runs["likely"].items.values()} == {None}
    omma.ingest_items(tmp_path / "mmvp", tmp_path / "table", format="mmvp")
    ours = omma.evaluate(omma.load_vlm("vlm-nano"), "mmvp", data=tmp_path / "table", reference="lmms-eval")
    said = {row["item"]: row["said"] for row in ours.rows.to_pylist()
            if (row["variant"], row["score_kind"]) == ("model", "generate")}  # fmt: skip
    assert [text.strip() for text in said.values()] == [item.said for item in runs["pairs"].items.values()]
    assert len(set(said.values())) > 1, "the model looks"


def test_lmms_eval_on_two_processes_says_what_it_says_on_one(asked, tmp_path):
    tasks, found = task_files(asked, tmp_path), []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for world in (1, 2):
        out = tmp_path / f"out{world}"
        told = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if world > 1 else {}
        command = ["-c", LMMS_EVAL, "--model", "omma", "--model_args", "pretrained=vlm-nano,device=cpu", "--batch_size",
                   "2", "--tasks", "pairs,likely", "--include_path", tasks, "--log_samples", "--output_path", out]
        with ThreadPoolExecutor() as pool:
            runs = [pool.submit(beside, *command, HF_HOME=str(tmp_path),
                                **(told and told | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))
                    for rank in range(world)]  # fmt: skip
            for run in runs:
                run.result()
        found.append({name: outcomes(next(out.glob(f"vlm-nano/*_samples_{name}.jsonl")))[0].items
                      for name in ("pairs", "likely")})  # fmt: skip
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["xlsx", "tsv"])
def test_vlmevalkit_s_command_runs_a_vlm_and_its_files_say_what_omma_reads(asked, tmp_path, kind):
    _, rows = asked
    letter = lambda row: row["Correct Answer"][1].upper()
    options = [[part.strip() for part in row["Options"][4:].split("(b)")] for row in rows]
    shown = [base64.b64encode(picture(asked, row)).decode() for row in rows]
    data = tmp_path / "data"
    data.mkdir()
    for name, header, lines in (
        ("OmmaMMVP", ["index", "image", "question", "A", "B", "answer"], [
            [row["Index"], image, row["Question"], *two, letter(row)]
            for row, image, two in zip(rows, shown, options, strict=True)]),
        ("OmmaPOPE", ["index", "image", "question", "answer", "category"], [
            [n, image, f"is there {thing} in the picture?", "Yes", "random"]
            for n, (image, thing) in enumerate(zip(shown, ["a dog", "a tree", "a car"] * 6, strict=True))]),
    ):  # fmt: skip
        with (data / f"{name}.tsv").open("w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([header, *lines])
    beside(HERE / "beside_kits.py", "run", "--data", "OmmaMMVP", "OmmaPOPE", "--model", "omma_vlm", "--work-dir",
           tmp_path / "out", "--judge", "exact_matching", LMUData=str(data), PRED_FORMAT=kind)  # fmt: skip
    (folder,) = (tmp_path / "out" / "omma_vlm").glob("T*")

    def first(name):
        with (folder / f"omma_vlm_{name}.csv").open(newline="") as file:
            return next(csv.DictReader(file))

    (judged,) = outcomes(folder / f"omma_vlm_OmmaMMVP_exact_matching_result.{kind}")
    assert (judged.model, judged.task, judged.judge, judged.credit) == ("omma_vlm", "OmmaMMVP", "", "hit")
    earned = [item.earned for item in judged.items.values()]
    assert sum(earned) / len(rows) == pytest.approx(float(first("OmmaMMVP_acc")["Overall"]))
    assert len({item.group for item in judged.items.values()}) == len(rows) // 2
    (raw,) = outcomes(folder / f"omma_vlm_OmmaMMVP.{kind}")
    assert (raw.model, raw.task) == ("omma_vlm", "OmmaMMVP")
    assert [item.said for item in raw.items.values()] == [item.said for item in judged.items.values()]
    (yes_or_no,) = outcomes(folder / f"omma_vlm_OmmaPOPE_auxmatch.{kind}")
    earned = [item.earned for item in yes_or_no.items.values()]
    assert 100 * sum(earned) / len(rows) == pytest.approx(float(first("OmmaPOPE_score")["acc"]))
    assert yes_or_no.items["0"].pattern == "random"


@pytest.mark.parametrize("kind", ["xlsx", "tsv"])
def test_vlmevalkit_s_evaluation_in_a_circle_is_read_as_one_and_named_so(asked, tmp_path, capsys, kind):
    _, rows = asked
    data, rolled = tmp_path / "data", []
    for n, row in enumerate(rows, 1):
        options = [part.strip() for part in row["Options"][4:].split("(b)")]
        right = options["ab".index(row["Correct Answer"][1])]
        shown = base64.b64encode(picture(asked, row)).decode()
        rolled += [[n + turn * 1_000_000, shown, row["Question"], *some, "AB"[some.index(right)]]
                   for turn, some in enumerate((options, options[::-1]))]  # fmt: skip
    data.mkdir()
    with (data / "OmmaCircular.tsv").open("w", newline="") as file:
        header = ["index", "image", "question", "A", "B", "answer"]
        csv.writer(file, delimiter="\t").writerows([header, *rolled])
    beside(HERE / "beside_kits.py", "run", "--data", "OmmaCircular", "--model", "omma_vlm", "--work-dir",
           tmp_path / "out", "--judge", "exact_matching", LMUData=str(data), PRED_FORMAT=kind)  # fmt: skip
    (folder,) = (tmp_path / "out" / "omma_vlm").glob("T*")
    evaluated = folder / f"omma_vlm_OmmaCircular_exact_matching_result.{kind}"
    with (folder / "omma_vlm_OmmaCircular_acc.csv").open(newline="") as file:
        overall = float(next(csv.DictReader(file))["Overall"])
    (judged,), (raw,) = outcomes(evaluated), outcomes(folder / f"omma_vlm_OmmaCircular.{kind}")
    assert (len(judged.items), len(raw.items), judged.credit) == (len(rows), 2 * len(rows), "right in every rotation")
    assert sum(item.earned for item in judged.items.values()) / len(rows) == pytest.approx(overall)
    turns = {}
    for name, item in raw.items.items():
        turns.setdefault(item.group, []).append(raw.items[name].earned)
    # the two parsers agree on what this model says: a letter, or the words of one option
    assert {name: min(turns[name]) for name in judged.items} == {n: i.earned for n, i in judged.items.items()}
    assert cli.run(["show", str(evaluated)]) == 0
    assert "right in every rotation" in capsys.readouterr().out
    (whole,) = omma.compare(evaluated, evaluated).benchmarks
    assert whole["credit"] == "right in every rotation"
    assert not [note for note in whole["notes"] if "easier" in note]
    (mixed,) = omma.compare(evaluated, folder / f"omma_vlm_OmmaCircular.{kind}").benchmarks
    assert [note for note in mixed["notes"] if note.startswith("in A a question counts when it is right in every")]
