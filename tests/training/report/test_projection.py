import gzip

import numpy as np
import pytest

from training.benchmarks.files import BenchmarkMissing
from training.report.projection import language_map, parallel_sentences, project


def ntrex(folder, code, rows):
    (folder / "ntrex").mkdir(exist_ok=True, parents=True)
    lines = ["id\tdoc\ttext", *(f"{number}\td\t{text}" for number, text in rows)]
    with gzip.open(folder / "ntrex" / f"{code}.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def test_sentences_come_by_language_with_english_first(tmp_path):
    ntrex(tmp_path, "eng", [(0, "zero"), (1, "one")])
    ntrex(tmp_path, "deu", [(0, "null"), (1, "eins")])
    ntrex(tmp_path, "spa", [(0, "cero"), (1, "uno")])
    found = parallel_sentences(tmp_path, languages=(), count=10)
    assert list(found) == ["en", "de", "es"]
    assert found == {"en": ["zero", "one"], "de": ["null", "eins"], "es": ["cero", "uno"]}


def test_a_bounded_number_is_spread_over_the_file(tmp_path):
    ntrex(tmp_path, "eng", [(i, f"e{i}") for i in range(11)])
    ntrex(tmp_path, "deu", [(i, f"d{i}") for i in range(11)])
    found = parallel_sentences(tmp_path, languages=("de",), count=3)
    assert found["de"] == ["d0", "d5", "d10"]


def test_without_files_the_folder_is_named(tmp_path):
    with pytest.raises(BenchmarkMissing, match="ntrex"):
        parallel_sentences(tmp_path, languages=("de",), count=3)


def test_points_lie_along_the_directions_of_largest_variance():
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(200, 5)) * [1, 9, 0.1, 4, 0.1]).astype(np.float32)
    points = project(vectors)
    centred = vectors - vectors.mean(axis=0)
    assert abs(np.corrcoef(points[:, 0], centred[:, 1])[0, 1]) > 0.99
    assert abs(np.corrcoef(points[:, 1], centred[:, 3])[0, 1]) > 0.99
    assert np.array_equal(points, project(vectors))


def test_every_model_maps_all_sentences_language_by_language():
    asked = []

    def embed(texts, role):
        asked.append((list(texts), role))
        return np.random.default_rng(1).normal(size=(len(texts), 4)).astype(np.float32)

    drawn = language_map({"a": embed, "b": embed}, {"en": ["x", "y"], "de": ["u", "v"]})
    assert asked[0] == (["x", "y", "u", "v"], "query")
    assert drawn.points["b"].shape == (4, 2)
    assert drawn.sentences == ["x", "y"]
