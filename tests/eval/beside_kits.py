"""Run by test_kits.py in a process of its own, where lmms-eval or VLMEvalKit can be imported; prints JSON.

    python beside_kits.py lmms-eval 2000            # replies that omma reads otherwise than it does, of so many
    python beside_kits.py vlmevalkit 2000
    python beside_kits.py run --model omma ...      # VLMEvalKit's own run.py, with the VLM that comes with omma
"""

import json
import random
import sys

import torchvision_stub
from omma.eval.adapters import vlmevalkit_model
from omma.eval.protocols import anls, chart, choice, exact, mme, mmvp, pope, vqa
from omma.eval.protocols.hard_negatives import parse_naturalbench

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


def lmms_eval(rng, differs):
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
    from vlmeval.dataset.utils.vqa_eval import hit_calculate, process_line
    from vlmeval.dataset.utils.yorn import YOrN_Extraction
    from vlmeval.utils.matching_util import can_infer

    said, answers, answer = one(rng)
    options = [rng.choice([text(rng), *ANSWERS]) for _ in range(rng.choice([2, 3, 4, 5]))]
    theirs = can_infer(said, dict(zip("ABCDE", options, strict=False)))
    differs("choice", None if theirs in (False, "Z") else theirs,
            choice.parse(said, options, choice.VLMEVALKIT).value, said, options)  # fmt: skip
    theirs = YOrN_Extraction(said)
    differs("yes or no", None if theirs == "Unknown" else theirs.lower(), pope.parse(said, pope.VLMEVALKIT).value, said)

    def earned(method, name, known):
        return float(hit_calculate([process_line({"answer": repr(known), "prediction": said}, method)], name)[0])

    answers = answers[: rng.choice([1, 10])]
    ours = vqa.accuracy(said, answers, vqa.VLMEVALKIT)
    differs("textvqa", earned("vqa_score", "TextVQA", answers), ours, said, answers)
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
