"""Classes by their names: the ensemble by hand, where the classes come from, and what is said of the hard ones."""

import numpy as np
import pytest
from fakes import Constant, Oracle, make_world, unit

from omma.eval.run import evaluate
from omma.eval.tasks.classify import ensemble, task_for
from omma.table import Table


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_an_ensemble_is_the_mean_of_unit_vectors_at_unit_length():
    np.testing.assert_allclose(ensemble(np.array([[3.0, 0.0], [0.0, 0.5]])), [0.5**0.5, 0.5**0.5])
    np.testing.assert_allclose(ensemble(np.array([[0.0, 2.0]])), [0, 1])


def test_the_classes_are_those_of_the_whole_table_whatever_the_limit(world):
    report = evaluate(Oracle(), "classify", data=world, limit=3)
    found = report.metrics["scores"]["itc"]["model"]
    assert (report.metrics["items"], found["number"], found["top1"]["chance"]) == (3, 24, 1 / 24)
    few = evaluate(Oracle(), "classify", data=world, where="id in ('p1', 'p2', 'p3')").metrics["scores"]["itc"]["model"]
    assert (few["number"], few["top1"]["chance"], few["top5"]["chance"]) == (3, 1 / 3, 1)


def test_a_class_is_confused_with_what_its_pictures_look_like(world):
    class Swapped(Oracle):
        """Takes 5 for 6."""

        def see(self, image):
            number = int(image.getpixel((0, 0))[0])
            return unit("6" if number == 5 else str(number))

    report = evaluate(Swapped(), "classify", data=world)
    found = report.metrics["scores"]["itc"]["model"]
    assert found["top1"]["right"] == 23
    assert found["classes"]["5"] == found["classes"]["5"] | {"instead": {"6": 1}}
    assert found["classes"]["6"]["recall"]["value"] == 1
    assert found["mean_class_recall"] == pytest.approx(23 / 24)
    hardest = report.grids()[1].rows[0]
    assert (hardest[0], hardest[1], hardest[-1]) == ("5", "0.0", "6 1")


def test_a_column_of_ones_own_and_templates_of_ones_own(tmp_path):
    class Reads(Oracle):
        """Hears nothing but the sentence "it is 1"."""

        heard: list[str] = []  # noqa: RUF012

        def encode_text(self, texts, batch_size=64):
            self.heard += texts
            return np.stack([unit("1" if text == "it is 1" else "other") for text in texts])

        def see(self, image):
            return unit("1")

    table = Table.open(make_world(tmp_path) / "pictures")
    table.add_column("odd", [str(int(row["id"][1:]) % 2) for row in table.read(["id"]).to_pylist()])
    report = evaluate(Reads(), "classify", data=table, label="odd", templates=["it is {}"])
    assert Reads.heard == ["it is 0", "it is 1"]
    table.add_column("class", ["a{b}"] * 12 + ["c"] * 12)                   # no name to Python, and no format to it
    Reads.heard.clear()
    assert evaluate(Reads(), "classify", data=table, label="class", templates=["{x} {}"]).metrics["items"] == 24
    assert Reads.heard == ["{x} c", "{x} a{b}"]
    Reads.heard.clear()
    report = evaluate(Reads(), "classify", data=table, label="odd", templates=["it is {}"])
    found = report.metrics["scores"]["itc"]["model"]
    assert found["top1"]["right"] == 12                                     # it says 1 to all
    assert found["mean_class_recall"] == 0.5
    assert (found["classes"]["0"]["recall"]["value"], found["classes"]["1"]["recall"]["value"]) == (0, 1)


def test_options_that_make_no_sense_say_so(world):
    table = Table.open(world / "pictures")
    with pytest.raises(ValueError, match=r"no column 'breed' in .* it has id, .*--label COLUMN"):
        evaluate(Constant(), "classify", data=world, label="breed")
    with pytest.raises(ValueError, match=r"template 'a dog' has not one \{\}"):
        task_for(table, templates=["a dog"])
    with pytest.raises(ValueError, match="names 1 classes"):
        task_for(table.select("id == 'p1'"))
    with pytest.raises(ValueError, match="task 'retrieval' takes no label; classify, linear-probe does"):
        evaluate(Constant(), "retrieval", data=world, label="kind")


class Headed(Oracle):
    """Has a class head with labels of its own; takes 5 for 6, cannot tell 7 from 8, and does not know 9."""

    classes = tuple(str(number) for number in range(25) if number != 9)

    def classify(self, images, batch_size=64):
        seen = [int(np.argmax(self.see(image) @ self.encode_text(list(self.classes)).T)) for image in images]
        values = np.eye(len(self.classes), dtype=np.float32)[seen]
        place = self.classes.index
        values[values[:, place("5")] == 1] = np.eye(len(self.classes))[place("6")]
        unsure = (values[:, place("7")] == 1) | (values[:, place("8")] == 1)
        values[unsure] = (np.eye(len(self.classes))[place("7")] + np.eye(len(self.classes))[place("8")]) / 2
        return values


def test_a_class_head_is_measured_beside_the_names(world):
    scores = evaluate(Headed(), "classify", data=world).metrics["scores"]
    by_name, by_head = scores["itc"]["model"], scores["classify"]["model"]
    assert by_name["top1"]["right"] == 24
    recalls = {name: block["recall"]["value"] for name, block in by_head["classes"].items()}
    wrong = {name: recall for name, recall in recalls.items() if recall < 1}
    assert wrong == {"5": 0, "7": 0.5, "8": 0.5, "9": 0}
    assert by_head["classes"]["5"]["instead"] == {"6": 1}
    after_6 = 4 / 23  # 5 shares the places after the first with all other labels
    assert by_head["top5"]["value"] == pytest.approx((22 + after_6) / 24)


def test_a_model_without_a_class_head_is_measured_by_the_names_alone(world):
    class Headless(Headed):
        classes = ()

    assert list(evaluate(Headless(), "classify", data=world).metrics["scores"]) == ["itc"]
