"""Questions about videos as they are released, and evenly spaced pictures of a folder, a GIF and a video file."""

import io

import av
import numpy as np
import pytest
from miniatures import counted, parquet, pictures, read, write
from PIL import Image

from media_files import video
from omma.data.benchmarks.frames import video_frames
from omma.table import Table


def gif(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [Image.new("RGB", (8, 8), (40 * n, 0, 0)) for n in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


def mp4(path, frames):
    """A picture grows brighter by 20 with each frame, at ten a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for n in range(frames):
            image = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * n, np.uint8), format="rgb24")
            file.mux(stream.encode(image))
        file.mux(stream.encode())
    return path


def reds(place):
    """The mean red of each picture of a table, by its id."""
    rows = Table.open(place / "pictures").read(["id", "bytes"]).to_pylist()
    return {row["id"]: float(np.asarray(Image.open(io.BytesIO(row["bytes"])))[..., 0].mean()) for row in rows}


def test_tgif_has_its_options_in_columns_and_its_answer_as_a_number(tmp_path):
    folder = tmp_path / "TGIF"
    write(folder / "Test_action_question.csv",
          "gif_name\tquestion\ta1\ta2\ta3\ta4\ta5\tanswer\tvid_id\tkey\nx\tWhat?\tjump\trun\tsit\tlie\tfly\t4\tACTION4\t26\n"
          "x\tWho?\tjump\trun\tsit\tlie\tfly\t9\tACTION5\t26\n")  # fmt: skip
    write(
        folder / "Test_frameqa_question.csv",
        "gif_name\tquestion\tanswer\ttype\tvid_id\tkey\tdescription\n"
        'lost\twhere ?\tmachine\t3\tFRAMEQA9\t1\tno "quote\n',
    )
    write(folder / "Test_count_question.csv", "gif_name\tquestion\tanswer\tvid_id\tkey\nx\tHow many?\t3\tCOUNT1\t2\n")
    gif(folder / "gifs" / "x.gif", 5)
    items, there, note = read(folder, "tgif-qa", frames=3)
    assert [(r["id"], r["pattern"], r["answer"], r["kind"]) for r in items] == [
        ("ACTION4", "action", "fly", None), ("ACTION5", "action", "9", None), ("COUNT1", "count", "3", None),
        ("FRAMEQA9", "frameqa", "machine", "location")]  # fmt: skip
    assert items[0]["options"] == ["jump", "run", "sit", "lie", "fly"]
    assert items[0]["pictures"] == items[2]["pictures"] == there == ["x@1", "x@2", "x@3"]
    assert list(reds(tmp_path / "out0").values()) == [0, 80, 160]
    assert counted(note) == {"files are none of the versions known": 3, "answers are none of the options": 1,
                             "videos are not there": 1}  # fmt: skip
    assert (note["pictures_missing"], note["videos_missing"]) == (0, 1)


def test_msvd_clips_bear_the_names_of_the_mapping_and_msrvtt_ones_their_numbers(tmp_path):
    rows = [{"id": 1, "video_id": 1301, "question": "What is it?", "answer": "cat"}]
    folder = tmp_path / "MSVD"
    write(folder / "test_qa.json", rows)
    write(folder / "youtube_mapping.txt", "-4wsuPCjDBc_5_15 vid1301\n")
    mp4(folder / "YouTubeClips" / "-4wsuPCjDBc_5_15.mp4", 10)
    items, there, note = read(folder, "msvd-qa", frames=3)
    assert (items[0]["pattern"], items[0]["answer"], note["problems"]) == ("what", "cat", {})
    brightness = list(reds(tmp_path / "out0").values())
    assert np.allclose(brightness, [0, 80, 180], atol=8)  # frames 0, 4 and 9 of ten
    assert len(there) == 3
    write(tmp_path / "VTT" / "test_qa.json", rows)
    pictures(tmp_path / "VTT" / "frames" / "video1301", "0.jpg", "1.jpg", "2.jpg", "3.jpg")
    items, there, _ = read(tmp_path / "VTT", "msrvtt-qa", frames=2)
    assert items[0]["pictures"] == there == ["video1301/0.jpg", "video1301/3.jpg"]


def test_video_mme_takes_the_letters_off_its_options_and_counts_what_cannot_be_opened(tmp_path):
    row = {"videoID": "abc", "question_id": "001-1", "question": "Which?", "options": ["A. Apples.", "B. No. 5"],
           "answer": "B", "duration": "short", "domain": "Knowledge",
            "sub_category": "x", "task_type": "OCR"}  # fmt: skip
    parquet(tmp_path / "M" / "videomme" / "test-0.parquet", [row, row | {"videoID": "bad", "question_id": "2"}])
    write(tmp_path / "M" / "videos" / "bad.mp4", "no video")
    mp4(tmp_path / "M" / "videos" / "abc.mp4", 4)
    items, there, note = read(tmp_path / "M", "video-mme", frames=1)
    assert (items[0]["options"], items[0]["answer"], items[0]["letter"], items[0]["pattern"]) == (
        ["Apples.", "No. 5"], "No. 5", "B", "short")  # fmt: skip
    assert there == ["abc@1"]
    assert counted(note) == {"videos can't be read": 1, "rows have no picture where one belongs": 1}
    with pytest.raises(ValueError, match="a video gives 1 or more"):
        read(tmp_path / "M", "video-mme", frames=0)


def test_seedbench_asks_about_parts_of_videos_in_seconds_or_in_frames_and_counts_lost_ones_as_videos(tmp_path):
    row = {"question": "What?", "choice_a": "cut", "choice_b": "pour", "choice_c": "fry", "choice_d": "eat",
           "answer": "B", "data_type": "video"}  # fmt: skip
    rows = [row | {"question_id": "v1", "question_type_id": 10, "data_id": "94328.webm"},
            row | {"question_id": "v2", "question_type_id": 11, "data_id": "P03/P03_24.mp4", "segment": [0.4, 0.9]},
            row | {"question_id": "v3", "question_type_id": 12, "data_id": "P03/P03_24.mp4", "segment": [0, 6]},
            row | {"question_id": "v4", "question_type_id": 10, "data_id": "twice.mp4"},
            row | {"question_id": "5", "question_type_id": 1, "data_type": "image", "data_id": "1454426_2591"}]
    source = write(tmp_path / "SEED-Bench.json", {"questions": rows, "question_type": {"Scene": 1, "Action": 10}})
    mp4(tmp_path / "videos" / "epic" / "P03" / "P03_24.mp4", 10)
    for place in ("a", "b"):
        mp4(tmp_path / "videos" / place / "twice.mp4", 2)
    items, there, note = read(source, "seedbench", images=pictures(tmp_path / "photos", "1454426_2591.jpg"), frames=2)
    assert [row["pictures"] for row in items] == [
        ["94328.webm"], ["P03/P03_24.mp4@0.4-0.9@1", "P03/P03_24.mp4@0.4-0.9@2"],
        ["P03/P03_24.mp4@0-0.4@1", "P03/P03_24.mp4@0-0.4@2"], ["twice.mp4"], ["1454426_2591.jpg"]]  # fmt: skip
    assert (note["pictures_missing"], note["videos_missing"]) == (0, 2)
    assert counted(note) == {"videos are not there": 2, "videos have a name that several files bear": 1}
    assert len(there) == 5
    red = reds(tmp_path / "out0")
    assert [red[name] for name in (*items[1]["pictures"], *items[2]["pictures"])] == pytest.approx(
        [80, 160, 0, 60], abs=8)  # frames 4 and 8 of ten, 0 and 3


@pytest.mark.parametrize(("name", "begins"), [("v.mp4", 0), ("v.mkv", 7.0), ("v.mov", 7.0)])
def test_times_in_a_video_count_from_its_first_frame(tmp_path, name, begins):
    video(tmp_path / name, [((200, 20, 20), 1.0), ((20, 200, 20), 1.0), ((20, 20, 200), 1.0)], begins=begins)
    ground = lambda data: int(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)[50:].mean((0, 1)).argmax())
    assert [ground(data) for data in video_frames(tmp_path / name, 3)] == [0, 1, 2]
    assert [ground(data) for data in video_frames(tmp_path / name, 2, (1.1, 2.9))] == [1, 2]
    assert [ground(data) for data in video_frames(tmp_path / name, 1, (2.2, 2.8))] == [2]
