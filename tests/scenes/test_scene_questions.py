"""Questions about a world: decided by the executor, of all patterns, free-form and yes/no."""

from collections import Counter

import pytest

from omma.scenes.kinds import PATTERNS
from omma.scenes.language import Known, Noun, described, tags
from omma.scenes.questions import MAKERS, YES_NO, Draft, Question, decide, questions
from omma.scenes.sources import write_scenes
from omma.scenes.wording import REPLACED
from omma.scenes.world import Thing, World, facts, generator, sample_world


def scene(*things: Thing) -> World:
    return World(things, sample_world(0).backdrop, tuple(range(len(things))))


WORLD = scene(
    Thing("cup", "red", 0.15, 0.2, 0.1, (("handle", "yes"), ("filled", "full"))),
    Thing("cup", "blue", 0.85, 0.2, 0.1, (("handle", "no"), ("filled", "full"))),
    Thing("sign", "green", 0.5, 0.85, 0.1, (("posts", "one post"), ("text", "shop"))),
    Thing("fish", "red", 0.85, 0.85, 0.1, (("facing", "left"),)),
)
RIGHT = {
    "which way is the fish facing?": "left",
    "is the fish facing right?": "no",
    "does the red cup have a handle?": "yes",
    "which cup has a handle?": "the red one",
    "is there a cup without a handle?": "yes",
    "is the blue cup full or empty?": "full",
    "how many cups are there?": "two",
    "are there three cups?": "no",
    "what colour is the sign?": "green",
    "what is green?": "a sign",
    "is there a blue fish?": "no",
    "what does the sign say?": "shop",
    "with which letter does the word on the sign begin?": "s",
    "does the green sign say shop?": "yes",
    "is the red cup left or right of the blue cup?": "left",
    "is the fish below the blue cup?": "yes",
    "what is left of the blue cup?": "a red cup",
    "are there more cups than signs?": "yes",
}
UNASKED = ("what colour is the cup?", "what is red?", "what colour is the cup that is full?")


def every_question(world: World, times: int = 4000) -> dict[str, Question]:
    """What the makers come up with, decided or refused (answer "")."""
    rng, known, found = generator("every"), Known(facts(world)), {}
    for _ in range(times):
        for pattern, makers in MAKERS.items():
            draft = rng.choice(makers)(rng, world)
            if draft:
                answer = decide(draft.choices, known) or ""
                found[draft.text] = Question(draft.text, tuple(draft.choices), answer, pattern)
    return found


@pytest.fixture(scope="module")
def every():
    return every_question(WORLD, 700)


@pytest.mark.parametrize(("text", "answer"), RIGHT.items())
def test_a_question_is_answered_as_a_person_would_who_sees_the_picture(every, text, answer):
    assert every[text].answer == answer
    assert answer in every[text].options


@pytest.mark.parametrize("text", UNASKED)
def test_what_has_no_one_answer_is_not_asked(every, text):
    assert text not in every or every[text].answer == ""
    asked = {q.text for i in range(20) for q in questions(WORLD, i, number=40)}
    assert text not in asked


def test_one_answer_must_be_right_and_all_others_wrong():
    known = Known(facts(WORLD))
    cup, fish = Noun("cup"), Noun("fish")
    assert decide({"one": (("count", cup, 1),), "two": (("count", cup, 2),)}, known) == "two"
    assert decide({"one": (("count", cup, 1),), "some": (("exists", cup),), "two": (("count", cup, 2),)}, known) is None
    assert decide({"left": (("is", cup, "facing", "left"),), "right": ()}, known) is None, "which cup?"
    assert decide({"yes": (("exists", Noun("door")),), "no": ()}, known) == "no"
    assert decide({"yes": (("exists", Noun("fish", "red", (("fin", "yes"),))),), "no": ()}, known) is None, "not shown"
    assert (
        decide({"f or b": (("is", fish, "colour", "blue"), ("is", fish, "colour", "red")), "g": ()}, known) == "f or b"
    )


def test_questions_are_a_function_of_the_key_of_all_patterns_and_balanced():
    counts, answers, free = Counter(), Counter(), Counter()
    for i in range(100):
        world = sample_world("balance", i)
        asked = questions(world, "balance", i, number=12)
        assert asked == questions(world, "balance", i, number=12)
        assert len({q.text for q in asked}) == len(asked) <= 12
        for question in asked:
            assert question.answer in question.options
            counts[question.pattern] += 1
            (answers if question.options == YES_NO else free)[question.answer] += 1
    assert set(counts) == set(PATTERNS)
    assert 0.45 < answers["yes"] / answers.total() < 0.6
    assert free.total() > 0.35 * counts.total()
    assert free.most_common(1)[0][1] < 0.2 * free.total(), "no answer is right of a fifth of the free-form questions"


def test_a_table_asks_many_questions_about_each_of_its_pictures(tmp_path):
    pictures, items = write_scenes(tmp_path, pictures=6, pairs=1, size=64, seed=3, questions=5, tags=True)
    rows = items.select("task == 'ask'").read().to_pylist()
    about = Counter(row["pictures"][0] for row in rows)
    assert set(about) == set(pictures.read(columns=["id"])["id"].to_pylist())
    assert max(about.values()) == 5
    world = World.from_json(pictures.read(columns=["world"])["world"][0].as_py())
    assert pictures.read(columns=["tags"])["tags"][0].as_py() == tags(world)
    assert pictures.read(columns=["things"])["things"][0].as_py() == described(world)
    first = [(row["prompt"], row["answer"]) for row in rows if row["pictures"] == ["s3-000000"]]
    assert first == [(q.text, q.answer) for q in questions(world, 3, 0, number=5)]
    plain = write_scenes(tmp_path / "plain", pictures=6, pairs=1, size=64, seed=3)[1]
    assert plain.read(columns=["id"])["id"].to_pylist() == [
        name for name in items.read(columns=["id"])["id"].to_pylist() if name not in {row["id"] for row in rows}
    ], "other items stay as they were"
    with pytest.raises(ValueError, match="has no masks, no tags, and no questions"):
        write_scenes(tmp_path / "solids", world="solids", questions=1)


@pytest.mark.parametrize("design", ["template", "synonym"])
def test_questions_of_a_held_out_wording_are_put_in_it(tmp_path, design):
    _, items = write_scenes(tmp_path, pictures=8, pairs=0, size=64, questions=6, split="test", split_design=design)
    rows = items.select("task == 'ask'").read(columns=["prompt", "answer", "options"]).to_pylist()
    assert rows
    for row in rows:
        assert row["answer"] in row["options"]
        if design == "template":
            assert row["prompt"].startswith(("tell me, ", "look closely: ", "in this scene, "))
        else:
            assert not set(row["prompt"].rstrip("?").split()) & set(REPLACED)


def test_more_things_than_there_are_words_for_are_not_counted():
    many = World(tuple(Thing("ball", "red", (k % 4) / 4 + 0.1, k // 4 / 4 + 0.1, 0.08) for k in range(10)),
                 WORLD.backdrop, tuple(range(10)))  # fmt: skip
    asked = {q.text for i in range(20) for q in questions(many, "many", i, number=12)}
    assert asked
    assert not any("how many" in text or "are there" in text for text in asked)


def test_tags_say_what_is_to_be_seen_two_facts_at_a_time():
    assert tags(scene(*WORLD.things[1:3])) == [
        "blue cup", "blue thing that is full", "blue thing without a handle", "cup that is full",
        "cup without a handle", "green sign", "green thing that says shop", "green thing with one post",
        "sign that says shop", "sign with one post", "thing that says shop",
    ]  # fmt: skip


def test_a_thing_is_described_with_all_that_is_to_be_seen_of_it():
    assert described(scene(*WORLD.things[1:3])) == [
        "a blue cup without a handle that is full", "a green sign with one post that says shop",
    ]  # fmt: skip


def test_a_draft_says_its_pattern():
    rng = generator("patterns")
    for pattern, makers in MAKERS.items():
        found = [d for i in range(20) for make in makers if (d := make(rng, sample_world("p", i)))]
        assert found
        assert all(isinstance(d, Draft) for d in found)
        assert {d.pattern for d in found} <= {pattern, "colour", "presence"}
