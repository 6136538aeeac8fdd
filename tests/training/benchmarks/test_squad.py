import json

import numpy as np
import pytest

from tests.training.benchmarks.benchmark_files import benchmark, cells_by_name
from training import benchmarks
from training.benchmarks import squad
from training.benchmarks.files import BenchmarkInvalid, BenchmarkMissing

CONTEXT = "It is 1 0. It was 0 1."


def content(*, breaks=((0, 10), (11, 22)), start=18):
    paragraph = {
        "context": CONTEXT,
        "qas": [
            {"id": "q0", "question": "is 1 0", "answers": [{"answer_start": 6, "text": "1"}]},
            {"id": "q1", "question": "was 0 1", "answers": [{"answer_start": start, "text": "0"}]},
        ],
        "sentence_breaks": [list(span) for span in breaks],
    }
    other = {
        "context": "5 5 1",
        "qas": [{"id": "q2", "question": "5 5 2", "answers": [{"answer_start": 0, "text": "5"}]}],
        "sentence_breaks": [[0, 5]],
    }
    return {"data": [{"paragraphs": [paragraph]}, {"title": "t", "paragraphs": [other]}]}


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def test_the_sentence_in_which_the_answer_starts_is_relevant(tmp_path):
    for language in ("en", "de"):
        write_json(tmp_path / "xquad_r" / f"{language}.json", content())
    found = squad.read(benchmark("xquad_r"), tmp_path)
    assert found.candidates["en"].texts == ("It is 1 0.", "It was 0 1.", "5 5 1")
    assert found.relevant["de"] == {
        "q0": {"p00000-000": 1},
        "q1": {"p00000-001": 1},
        "q2": {"p00001-000": 1},
    }
    assert found.candidates["en"].clusters == ("p00000", "p00000", "p00001")
    assert {"xquad_r/mono/en-en", "xquad_r/cross/de-en", "xquad_r/pool/en-*"} < set(
        cells_by_name(found, _letters)
    )


def _letters(texts, _role):
    vectors = np.array(
        [[1.0, text.count("1"), text.count("5")] for text in texts], dtype=np.float32
    )
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_sentence_may_come_with_its_passage(tmp_path):
    write_json(tmp_path / "mlqa_r" / "en.json", content())
    found = squad.read(benchmark("mlqa_r", unit="sentence_in_passage"), tmp_path)
    assert found.candidates["en"].texts[1] == f"It was 0 1. {CONTEXT}"


def test_xquads_candidates_are_whole_paragraphs(tmp_path):
    write_json(tmp_path / "xquad" / "xquad.en.json", content())
    assert squad.is_here(benchmark("xquad"), tmp_path)
    found = benchmarks.read(benchmark("xquad"), tmp_path)
    assert found.candidates["en"].texts == (CONTEXT, "5 5 1")
    assert found.relevant["en"]["q1"] == {"p00000": 1}


def test_an_answer_outside_every_sentence_is_refused(tmp_path):
    write_json(tmp_path / "xquad_r" / "en.json", content(start=10))
    with pytest.raises(BenchmarkInvalid, match="question q1 starts at 10, in no sentence"):
        squad.read(benchmark("xquad_r"), tmp_path)


def test_a_file_without_sentences_is_refused(tmp_path):
    value = content()
    del value["data"][0]["paragraphs"][0]["sentence_breaks"]
    write_json(tmp_path / "xquad_r" / "en.json", value)
    with pytest.raises(BenchmarkInvalid, match="LAReQA"):
        squad.read(benchmark("xquad_r"), tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"data": 1}', '{"data": []}'])
def test_a_file_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "xquad_r").mkdir()
    (tmp_path / "xquad_r" / "en.json").write_text(text)
    with pytest.raises(BenchmarkInvalid, match=r"en\.json"):
        squad.read(benchmark("xquad_r"), tmp_path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "xquad_r" / "en.json").mkdir(parents=True)
    with pytest.raises(BenchmarkMissing, match=r"en\.json"):
        squad.read(benchmark("xquad_r"), tmp_path)
