"""Questions and answers as batches: what is learned, where it lies, and that chance is a function of the step."""

import dataclasses

import numpy as np
import pytest
import torch

from omma.models.chat import Chat, chat_tokenizer
from omma.models.preprocess import Processor
from omma.scenes.sources import write_scenes
from omma.table import Table
from omma.training.chat import ChatBatches, fill_lanes, laid_out, read_questions, texts_for_words
from omma.training.objectives import IGNORE
from omma.training.vlm_config import ChatDataConfig
from omma.training.vlm_eval import rows_of_all, spread_out, table_of

VISUAL = 4


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Table:
    _, items = write_scenes(tmp_path_factory.mktemp("chat"), pictures=10, pairs=1, size=64, questions=6, check=False,
                            tags=True)  # fmt: skip
    return items


@pytest.fixture(scope="module")
def chat(table) -> Chat:
    return Chat(Processor(chat_tokenizer(texts_for_words(table, None), 900), 16, 256), VISUAL)


def test_only_an_answers_tokens_and_its_end_are_learned_each_from_the_token_before_it():
    turns = [([7, 8, 3], [9, 3]), ([5, 3], [6, 6, 3])]
    row = fill_lanes(turns, lanes=1, length=12, pad_id=0)
    assert row.ids.tolist() == [[7, 8, 3, 9, 3, 5, 3, 6, 6, 3, 0, 0]]
    assert row.segments.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1]]
    x = IGNORE
    assert row.targets.tolist() == [[x, x, 9, 3, x, x, 6, 6, 3, x, x, x]]
    assert row.held == [0, 1]


def test_a_turn_takes_the_first_lane_with_room_and_one_that_fits_none_is_passed_over():
    turns = [([1] * 6, [2]), ([1] * 20, [2]), ([3] * 6, [4]), ([5] * 2, [6])]
    row = fill_lanes(turns, lanes=2, length=11, pad_id=0)
    assert row.held == [0, 2, 3]
    assert row.segments[0].tolist() == [0] * 7 + [2] * 3 + [-1]
    assert row.segments[1].tolist() == [1] * 7 + [-1] * 4


def test_every_item_with_a_prompt_and_an_answer_about_one_picture_is_read(table):
    asked = read_questions(table, None, captions=True)
    rows = table.read(columns=["task", "pictures", "prompt", "answer", "pattern"]).to_pylist()
    wanted = {(r["pictures"][0], r["prompt"], r["answer"], r["pattern"] or "") for r in rows if r["task"] != "pairs"}
    found = {(asked.ids[i], asked.texts[q], asked.texts[a], asked.patterns[n])
             for i in range(len(asked.ids)) for n in range(asked.first[i], asked.first[i + 1])
             for q, a in [asked.turns[n]]}  # fmt: skip
    assert found == wanted
    assert asked.skipped == {"no question with an answer": 9}
    assert all(asked.captions), "every picture has captions"
    assert not any(read_questions(table, None).captions)
    only = read_questions(table, "pattern == 'colour'")
    assert set(only.patterns) == {"colour"}


def test_tables_without_questions_are_refused(table, tmp_path):
    pictures, _ = write_scenes(tmp_path, pictures=2, pairs=0, size=64)
    with pytest.raises(ValueError, match="holds pictures, and a VLM learns from questions"):
        read_questions(pictures, None)
    with pytest.raises(ValueError, match=r"has no question with an answer about one picture \(none left out\)"):
        read_questions(table, "pattern == 'smell'")


def test_a_batch_is_a_function_of_seed_and_step_and_its_parts_make_the_whole(table, chat):
    asked, config = read_questions(table, None, captions=True), ChatDataConfig(lanes=3, captions=0.5)
    make = lambda **k: ChatBatches(asked, chat, config, **({"batch_size": 4, "seed": 1} | k))
    whole, other = make(), make(seed=2)
    names = ("pixels", "input_ids", "segments", "targets")
    for step in (9, 0):
        again = make()[step]
        assert all(torch.equal(getattr(whole[step], n), getattr(again, n)) for n in names)
        halves = [make(part=(i, 2))[step] for i in (0, 1)]
        assert all(torch.equal(torch.cat([getattr(h, n) for h in halves]), getattr(again, n)) for n in names)
    assert whole[0].ids != other[0].ids
    epoch = [i for step in range(whole.steps_per_epoch) for i in whole[step].ids]
    assert len(set(epoch)) == len(epoch) == len(asked.ids) // 4 * 4
    with pytest.raises(ValueError, match="28 pictures with questions; a batch takes 64"):
        make(batch_size=64)


def test_a_rows_questions_are_its_pictures_own_and_a_caption_answers_the_call_for_one(table, chat):
    asked = read_questions(table, None, captions=True)
    batch = ChatBatches(asked, chat, ChatDataConfig(captions=1.0), batch_size=4, seed=0)[0]
    tokenizer, described = chat.processor.tokenizer, 0
    for name, ids, segments, targets in zip(batch.ids, batch.input_ids[:, VISUAL + 1 :], batch.segments.flatten(1),
                                            batch.targets, strict=True):  # fmt: skip
        i = asked.ids.index(name)
        own = {(asked.texts[q], asked.texts[a]) for q, a in asked.turns[asked.first[i] : asked.first[i + 1]]}
        own |= {("describe the picture", asked.texts[c]) for c in asked.captions[i]}
        lower = {
            tuple(tokenizer.decode(tokenizer.encode(t, add_special_tokens=False).ids) for t in pair) for pair in own
        }
        for k in range(int(segments.max()) + 1):
            there = segments == k
            learned = targets[there][targets[there] != IGNORE].tolist()
            assert learned[-1] == chat.end_id
            question = ids[there].tolist()[: -len(learned)]
            pair = (tokenizer.decode(question[:-1]), tokenizer.decode(learned[:-1]))
            assert pair in lower
            described += pair[0] == "describe the picture"
    assert described == 4


def test_texts_stand_in_a_pictures_place_in_random_order_and_are_cut_to_one_length(table, chat):
    asked = read_questions(table, None, reads="things")
    assert asked.pictures[0].keys() == read_questions(table, None).pictures[0].keys()
    reading = ChatDataConfig(reads="things", read_tokens=40, captions=0.0)
    batches = ChatBatches(asked, chat, reading, batch_size=4, seed=1)
    orders = set()
    for step in range(2 * batches.steps_per_epoch):
        batch = batches[step]
        assert batch.pixels is None
        for picture, front in zip(batch.ids, batch.input_ids[:, :41].tolist(), strict=True):
            texts = [asked.texts[n] for n in asked.read[asked.ids.index(picture)]]
            assert front[0] == chat.pictures(0)[0]
            written = [token for token in front[1:] if token != chat.pad_id]
            assert front[1:] == written + [chat.pad_id] * (40 - len(written))
            whole = sorted(ids for ids in chat.turns(texts))
            ends = [i + 1 for i, token in enumerate(written) if token == chat.end_id]
            said = [written[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            assert all(ids in whole for ids in said)
            assert sorted(said) == whole or sum(map(len, whole)) > 40
            orders.add((picture, str(written)))
    assert len(orders) > len(asked.ids), "another epoch has another order"
    short = ChatBatches(asked, chat, dataclasses.replace(reading, read_tokens=3), batch_size=4, seed=1)[0]
    assert short.input_ids.shape[1] == 1 + 3 + 6 * 32
    with pytest.raises(ValueError, match=r"reads=stories: .* has no such column; omma scenes --tags writes `things`"):
        read_questions(table, None, reads="stories")


def test_an_evaluation_asks_every_question_once(table, chat):
    asked = read_questions(table, None)
    rows = [np.array(ids) for ids in chat.turns(asked.texts)]
    seen = [numbers[k] for _, numbers, row in rows_of_all(asked, rows, chat) for k in row.held]
    assert sorted(seen) == list(range(len(asked)))
    shapes = {k: v.shape for k, v in laid_out([row for _, _, row in rows_of_all(asked, rows, chat)][:3], chat).items()}
    assert shapes == {"input_ids": (3, 1 + VISUAL + 288), "segments": (3, 6, 48), "targets": (3, 288)}


def test_fewer_questions_are_those_of_whole_pictures_evenly_spread(table):
    asked = read_questions(table, None)
    some = spread_out(asked, 60)
    assert len(some) <= 80
    assert some.ids[0] == asked.ids[0]
    assert some.ids[-1] == asked.ids[-1]
    i = asked.ids.index(some.ids[1])
    assert (
        some.turns[some.first[1] : some.first[2]].tolist() == asked.turns[asked.first[i] : asked.first[i + 1]].tolist()
    )


def test_shares_are_counted_by_kind_of_answer_and_pattern(table):
    asked = dataclasses.replace(
        read_questions(table, None), texts=["q", "yes", "no", "red"], patterns=["colour", "", "colour", "colour"],
        turns=np.array([[0, 1], [0, 2], [0, 3], [0, 3]]),
    )  # fmt: skip
    right, blind = np.array([True, False, True, False]), np.array([True, True, False, False])
    found = table_of(asked, right, blind)
    assert list(found) == ["all", "free", "yes/no", "colour free", "colour yes/no"]
    assert found["all"] == {"n": 4, "right": 0.5, "blind": 0.5, "majority": 0.5}
    assert found["free"] == found["colour free"] == {"n": 2, "right": 0.5, "blind": 0.0, "majority": 1.0}
    assert found["yes/no"] == {"n": 2, "right": 0.5, "blind": 1.0, "majority": 0.5}
