"""Run by test_kits.py in a process of its own, where lmms-eval or VLMEvalKit can be imported; prints JSON.

    python beside_kits.py lmms-eval 2000            # replies that omma reads otherwise than it does, of so many
    python beside_kits.py vlmevalkit 2000
    python beside_kits.py run --model omma ...      # VLMEvalKit's own run.py, with the VLM that comes with omma
"""

import json
import os
import random
import sys

import torchvision_stub
from omma.eval.adapters import vlmevalkit_model
from omma.eval.protocols import anls, chart, choice, exact, mme, mmvp, pope, vqa
from omma.eval.protocols.hard_negatives import parse_naturalbench
from omma.eval.replies import Reply
from omma.eval.task import Item
from omma.eval.tasks import choices
from omma.eval.tasks.naturalbench import NATURALBENCH

LINE = """a b A B C Z (a) (B) A. b) yes no Yes No YES no. Yes, not None know y n Y y. answer is **B** option left right
dog bulb the an two 2 none 3. 1,000 1,,0 50% 0.5 45 -1 1e3 nan inf dont don't 's it's U.S.A. red, ? ! ... ; / [x] ( )
ten Zero ß é İ ſ ５ 0 0% % 1990 2010 - _ 1_000 +5 5%% ٣"""
WORDS = LINE.split()
WORDS += ["", " ", "\n", "\n\n", "\t", "\u2028", "\xa0", "45 %", "The answer is", "Cannot determine the answer"]
LENGTHS = (0, 1, 1, 2, 3, 4, 9)
ANSWERS = ("45", "0", "0.5", "50%", "red", "1990", "-3", "None of these", "a cup")


def text(rng):
    return rng.choice([" ", " ", " ", "", "."]).join(rng.choice(WORDS) for _ in range(rng.choice(LENGTHS)))


def one(rng):
    """A reply, and several people's answers to the same question."""
    known = [rng.choice([text(rng), rng.choice(WORDS)]) for _ in range(rng.choice([1, 2, 3]))]
    return rng.choice([text(rng), *known]), [rng.choice(known) for _ in range(10)], rng.choice([text(rng), *ANSWERS])


# ------------------------------------------------------------------------------------------------ read by a judge
NUMBERS = ("14", " 14 ", "-3", "0", "0.0", "1.25", "1.2", "14.0", "1e3", "inf", "nan", "1_4", "[1, 2]", "[2007, 2008]",
           "The answer is 14.", 'The answer is "14".', "(B)", "B", "(b) 14", "Z", "no", "None", "3/11", "$1.45")


class View:
    """Of a model that says one thing, and a judge that says another; asked: how often the judge was."""

    kind = "generate"

    def __init__(self, said, words):
        self.said, self.words, self.asked = said, words, 0

    def replies(self, items, prompts, max_new_tokens):
        return [Reply(self.said) for _ in items]

    def graded(self, prompts, max_new_tokens):
        self.asked += len(prompts)
        return [Reply(self.words) for _ in prompts]

    def no_grade(self, said):
        return "no_grade"


def question(rng, task):
    """A row of MathVista or MMMU, and its options."""
    options = list(dict.fromkeys(rng.choice([text(rng), rng.choice(NUMBERS), *ANSWERS]) for _ in range(rng.choice(
        [2, 3, 4]))))  # fmt: skip
    options = [option for option in options if option.strip()]
    if len(options) < 2 or rng.random() < 0.5:
        options = []
    kind = rng.choice(["integer", "float", "list"])
    answer = rng.choice(options) if options else {
        "integer": rng.choice(["14", "-3", "0", "1000"]), "float": rng.choice(["1.2", "1.25", "14.0", "0.0"]),
        "list": rng.choice(["[1, 2]", "[2007, 2008]"])}[kind]  # fmt: skip
    row = {"id": "1", "task": task, "pattern": "", "pictures": ["p"], "group": "1", "options": options or None,
           "prompt": "How long is it?", "answer": answer}  # fmt: skip
    if task == "mathvista":
        row |= {"answer_type": "text" if options else kind, "precision": rng.choice([1, 2]), "query": "Hint: q",
                "unit": rng.choice([None, "cm"])}  # fmt: skip
    elif not options:
        row["answer"] = rng.choice([*ANSWERS, "B", "24/7", "a cat", "7"])
        row["answers"] = rng.choice([None, [row["answer"], "x y"]])
    return row, options


def said_in_full(rng, options):
    return rng.choice([text(rng), *options, *NUMBERS, f"I think it is {rng.choice(WORDS)} ok"])


def ours(row, mode, said, words):
    """(what it earned, its problem, whether the judge was asked) of one question."""
    (item,), view = choices.items([row]), View(said, words)
    assert not item.problem
    (answer,) = choices.score(choices.MODES[mode], [item], view)
    return answer.credits[0], answer.problem, bool(view.asked)


def mathvista_in_lmms_eval(rng, differs):
    os.environ.setdefault("OPENAI_API_KEY", "none")  # without one its module can't be imported; nobody is asked
    from lmms_eval.tasks.mathvista import utils

    row, options = question(rng, "mathvista")
    said, words = said_in_full(rng, options), said_in_full(rng, options).strip() or "x"
    if not said.strip():
        return
    doc = row | {"question_type": "multi_choice" if options else "free_form", "choices": options or [], "pid": "1",
                 "metadata": {}, "question": row["prompt"]}  # fmt: skip
    told = []
    utils.mathvista_evaluator.get_chat_response = lambda *_, **__: told.append(1) or words
    found = utils.mathvista_process_results(doc, [said])["llm_as_judge_eval"]
    earned, problem, asked = ours(row, "lmms-eval", said, words)
    differs("mathvista asked", bool(told), asked, row, said)
    differs("mathvista", bool(found["true_false"]), earned == 1, row, said, words)
    differs("mathvista unread", found["prediction"] is None, problem == "judge_no_grade", row, said, words)
    differs("published", bool(found["true_false"]), ours(row, "mathvista", said.strip(), words)[0] == 1, row, said)
    shot = {"shot": 0, "shot_type": "format-prompt", "use_caption": False, "use_ocr": False}
    differs("prompt", utils.mathvista_doc_to_text(doc, shot), choices.lmms_eval_prompt(choices.items([row])[0]), row)


def mmmu_in_lmms_eval(rng, differs):
    from lmms_eval.tasks.mmmu import utils

    row, options = question(rng, "mmmu")
    said = said_in_full(rng, options)
    answer = str(row["answers"]) if row.get("answers") else row["answer"]
    doc = {"id": "validation_Art_1", "question": row["prompt"], "options": repr(options), "question_type":
           "multiple-choice" if options else "open", "answer": chr(65 + options.index(answer)) if options else answer}
    told = {"multiple_choice_prompt": "Answer with the option's letter from the given choices directly.",
            "open_ended_prompt": "Answer the question using a single word or phrase.", "prompt_type": "format"}
    differs("mmmu prompt", utils.mmmu_doc_to_text(doc, told), choices.lmms_eval_prompt(choices.items([row])[0]), row)
    guess = []
    utils.parse_mmmu_multi_choice_response.__globals__["random"].choice = lambda some: guess.append(1) or some[0]
    results = utils.mmmu_process_results(doc, [said])["mmmu_acc"]
    (item,) = choices.items([row])
    read = choices.in_lmms_eval(said, item)
    if options:
        theirs = None if guess else options["ABCD".index(results["parsed_pred"][0])]
        return differs("mmmu letters", theirs, read.value, row, said)
    theirs = utils.evaluate_mmmu([results])[1]["acc"]
    mine = 0.0 if read.value is None else choices.earned_in_lmms_eval(read.value, item)
    differs("mmmu open", float(theirs), mine, row, said)


def judged_in_vlmevalkit(rng, differs):
    import pandas as pd
    from vlmeval.dataset.utils import mathvista, multiple_choice

    class Judge:
        asked = 0

        def generate(self, *_, **__):
            self.asked += 1
            return words

    row, options = question(rng, task := rng.choice(["mathvista", "mmmu", "mmbench"]))
    if task == "mmbench" and not options:
        return
    said, words = said_in_full(rng, options), said_in_full(rng, options).strip() or "x"
    judge = Judge()
    earned, problem, asked = ours(row, "vlmevalkit", said, words)
    if task == "mathvista":
        line = {"question": "q", "question_type": "multi_choice" if options else "free_form", "choices": repr(options),
                "answer_type": row["answer_type"], "answer": row["answer"], "prediction": said,
                "answer_option": chr(65 + options.index(row["answer"])) if options else None}  # fmt: skip
        line |= mathvista.MathVista_auxeval(judge, line)
        hit = bool(mathvista.post_check(line))
    else:
        letters = dict(zip("ABCD", options, strict=False))
        answer = str(row["answers"]) if row.get("answers") else row["answer"]
        answer = next((letter for letter, option in letters.items() if option == answer), answer)
        line = {"index": 1, "question": "q", "A": None, "B": None, "prediction": said, "answer": answer}
        data = pd.DataFrame([line | letters])
        answers = list(data["answer"])
        if task == "mmmu":
            data = multiple_choice.MMMU_preproc(data)
            answers = [one if one in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" and len(one) == 1 else "A" for one in answers]
        multiple_choice.rd.choice = lambda some: "Z"  # its guess
        line = pd.Series(dict(data.iloc[0]) | {"GT": answers[0]})
        hit = multiple_choice.eval_vanilla(judge, line)["hit"] == 1
    differs(f"{task} asked", bool(judge.asked), asked, row, said)
    differs(task, hit, earned == 1, row, said, words, problem)


def lmms_eval(rng, differs):
    mathvista_in_lmms_eval(rng, differs)
    mmmu_in_lmms_eval(rng, differs)
    from lmms_eval.api.metrics import anls as k_anls
    from lmms_eval.api.metrics import exact_match_hf_evaluate
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness
    from lmms_eval.tasks.mme.utils import parse_pred_ans
    from lmms_eval.tasks.mmvp.utils import mmvp_process_results
    from lmms_eval.tasks.naturalbench.utils import extract_answer
    from lmms_eval.tasks.pope.utils import pope_process_results
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results
    from lmms_eval.tasks.vqav2.utils import vqav2_process_results

    said, answers, answer = one(rng)
    told = said.strip()  # as its tasks get a reply
    theirs = mmvp_process_results({"Index": 1, "Correct Answer": "(a)"}, [told])["mmvp_accuracy"]["pred_letter"]
    differs("mmvp", theirs or None, mmvp.parse(said, ("x", "y"), mmvp.LMMS).value, said)
    theirs = pope_process_results({"answer": "yes", "question_id": 1}, [told])["pope_accuracy"]["prediction"]
    differs("pope", theirs if theirs in ("yes", "no") else None, pope.parse(said, pope.LMMS).value, said)
    theirs = parse_pred_ans(told)
    differs("mme", None if theirs == "other" else theirs, mme.parse(said, mme.LMMS).value, said)
    people = [{"answer": given, "answer_id": n, "answer_confidence": "yes"} for n, given in enumerate(answers)]
    theirs = vqav2_process_results({"question_id": 1, "answers": people}, [told])["exact_match"]
    differs("vqav2", float(theirs), vqa.accuracy(said, answers, vqa.LMMS_VQAV2), said, answers)
    theirs = textvqa_process_results({"question_id": 1, "answers": list(answers)}, [told])["exact_match"]
    differs("textvqa", float(theirs), vqa.accuracy(said, answers, vqa.LMMS), said, answers)
    theirs = relaxed_correctness(told, answer)
    differs("chartqa", theirs, chart.right(said, answer, mode=chart.PIX2STRUCT), said, answer)
    theirs = k_anls(references=answers[:3], predictions=[told])["anls"]
    differs("docvqa", float(theirs), anls.similarity(said, answers[:3], mode=anls.LMMS), said, answers[:3])
    answer = answer.strip()  # as GQA's are
    theirs = exact_match_hf_evaluate([told], [answer], ignore_case=True, ignore_punctuation=True)["exact_match"] == 1
    differs("gqa", bool(theirs), exact.right(said, answer, exact.LMMS), said, answer)
    for kind, options in (("yes_no", ("yes", "no")), ("multiple_choice", ("A", "B"))):
        theirs = {1: options[0], 0: options[1], -1: None}[extract_answer(told, kind)]
        differs("naturalbench", theirs, parse_naturalbench(said, options, exact.LMMS).value, said, options)


def vlmevalkit(rng, differs):
    from vlmeval.dataset.utils.naturalbench import extract_answer
    from vlmeval.dataset.utils.vqa_eval import hit_calculate, process_line
    from vlmeval.dataset.utils.yorn import YOrN_Extraction
    from vlmeval.utils.matching_util import can_infer

    judged_in_vlmevalkit(rng, differs)
    said, answers, answer = one(rng)
    options = [rng.choice([text(rng), *ANSWERS]) for _ in range(rng.choice([2, 3, 4, 5]))]
    theirs = can_infer(said, dict(zip("ABCDE", options, strict=False)))
    differs("choice", None if theirs in (False, "Z") else theirs,
            choice.parse(said, options, choice.VLMEVALKIT).value, said, options)  # fmt: skip
    for kind, words in (("yes_no", ("yes", "no")), ("multiple_choice", ("A", "B"))):
        item = Item("1", "1", "", ("p",), ("q",), words[0], options=words)
        theirs = {1: words[0], 0: words[1], -1: None}[extract_answer(said, kind)]
        differs("naturalbench", theirs, NATURALBENCH.modes["vlmevalkit"].parse(said, item).value, said)
    theirs = YOrN_Extraction(said)
    differs("yes or no", None if theirs == "Unknown" else theirs.lower(), pope.parse(said, pope.VLMEVALKIT).value, said)

    def earned(method, name, known):
        return float(hit_calculate([process_line({"answer": repr(known), "prediction": said}, method)], name)[0])

    answers = answers[: rng.choice([1, 10])]
    ours = vqa.accuracy(said, answers, vqa.VLMEVALKIT)
    differs("textvqa", earned("vqa_score", "TextVQA", answers), ours, said, answers)
    found = process_line({"answer": answer, "prediction": said}, "accuracy")
    if len(found["gt"]) == 1 and found["gt"][0] == answer:  # an answer in brackets is several there
        theirs = bool(hit_calculate([found], "GQA")[0])
        differs("gqa", theirs, exact.right(said, answer, exact.VLMEVALKIT), said, answer)
    ours = anls.similarity(said, answers, mode=anls.VLMEVALKIT)
    differs("docvqa", earned("anls", "DocVQA", answers), ours, said, answers)
    differs("chartqa", earned("relaxed_accuracy", "ChartQA", [answer]),
            float(chart.right(said, answer, mode=chart.PIX2STRUCT)), said, answer)  # fmt: skip


def compared(read, n):
    rng, found = random.Random(0), []

    def differs(what, theirs, ours, *of):
        if not (theirs == ours or (isinstance(theirs, float) and abs(theirs - ours) < 1e-12)):
            found.append([what, theirs, ours, *of])

    for _ in range(n):
        read(rng, differs)
    return found


def run():
    import vlmeval.config
    from vlmeval.dataset.image_yorn import ImageYORNDataset

    ImageYORNDataset.DATASET_URL["OmmaPOPE"] = ""  # one of its own classes for a file that it does not know
    vlmeval.config.supported_VLM["omma_vlm"] = lambda **_: vlmevalkit_model("vlm-nano")
    import run as theirs

    theirs.main()


if __name__ == "__main__":
    torchvision_stub.ensure()
    if sys.argv[1] == "run":
        del sys.argv[1]
        run()
    else:
        read = {"lmms-eval": lmms_eval, "vlmevalkit": vlmevalkit}[sys.argv[1]]
        print(json.dumps(compared(read, int(sys.argv[2]))))
