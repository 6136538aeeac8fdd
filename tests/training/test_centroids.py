"""Language centroids: taken off, projected out, and told by a linear classifier."""

import numpy as np
import pytest

from training.centroids import (
    CentroidsInvalid,
    Projection,
    centroids_of,
    language_accuracy,
    removal,
    unit,
    without_centroids,
)

LANGUAGES = ("de", "hi", "zh")


@pytest.fixture
def world():
    """Meanings, each said in three languages, every language pushed its own way."""
    rng = np.random.default_rng(3)
    meanings = rng.normal(size=(200, 24))
    pushes = {language: 3 * rng.normal(size=24) / 24**0.5 for language in LANGUAGES}
    vectors = np.concatenate([meanings + 6 * pushes[name] for name in LANGUAGES])
    languages = [name for name in LANGUAGES for _ in meanings]
    return unit(vectors.astype(np.float32)), languages


def found(vectors):
    first, second = vectors[:200], vectors[200:400]
    return float((np.argmax(first @ second.T, axis=1) == np.arange(200)).mean())


def test_the_centroid_is_the_mean_of_a_language():
    vectors = np.array([[1, 0], [0, 1], [0, -1]], dtype=np.float32)
    centroids = centroids_of(vectors, ["de", "de", "en"], fewest=1)
    assert centroids["de"].tolist() == [0.5, 0.5]
    assert centroids["en"].tolist() == [0, -1]


def test_a_vector_loses_its_own_languages_centroid_and_is_of_unit_length_again():
    centroids = {"de": np.array([0.0, 0.5], np.float32), "en": np.array([1.0, 0.0], np.float32)}
    vectors = np.array([[0.6, 0.8], [0.6, 0.8]], dtype=np.float32)
    without = without_centroids(vectors, ["de", "en"], centroids)
    assert np.allclose(without[0], np.array([0.6, 0.3]) / np.hypot(0.6, 0.3))
    assert np.allclose(without[1], np.array([-0.4, 0.8]) / np.hypot(0.4, 0.8))


def test_the_map_moves_every_centroid_to_zero_and_keeps_what_is_orthogonal(world):
    centroids = centroids_of(*world)
    projection = removal(centroids)
    for centroid in centroids.values():
        assert np.abs(projection.weight @ centroid + projection.bias).max() < 1e-6
    assert np.allclose(projection.weight @ projection.weight, projection.weight, atol=1e-6)
    stacked = np.stack(list(centroids.values()))
    across = np.linalg.svd(stacked - stacked.mean(0))[2][-1]
    assert np.allclose(projection.weight @ across, across, atol=1e-5)
    assert np.linalg.matrix_rank(projection.weight, tol=1e-3) == 24 - 2


@pytest.mark.parametrize("way", ["map", "known language"])
def test_both_ways_hide_the_language_and_find_more_translations(world, way):
    vectors, languages = world
    centroids = centroids_of(vectors, languages)
    after = (
        removal(centroids)(vectors)
        if way == "map"
        else without_centroids(vectors, languages, centroids)
    )
    assert language_accuracy(vectors, languages) > 0.95
    assert language_accuracy(after, languages) < 0.6
    assert found(after) > found(vectors) + 0.1


def test_the_first_direction_is_where_the_languages_differ_most():
    centroids = {
        "de": np.array([1, 0.1, 0], np.float32),
        "en": np.array([-1, 0.1, 0], np.float32),
        "hi": np.array([0, -0.2, 0], np.float32),
    }
    assert np.allclose(removal(centroids, rank=1).weight, np.diag([0, 1, 1]), atol=1e-6)
    assert np.allclose(removal(centroids, rank=2).weight, np.diag([0, 0, 1]), atol=1e-6)


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_out_of_its_bounds_is_refused(world, rank):
    with pytest.raises(CentroidsInvalid, match=f"rank = {rank}: 3 centroids .* 1 to 2 directions"):
        removal(centroids_of(*world), rank=rank)


def test_too_few_texts_or_languages_are_refused():
    vectors = np.ones((40, 4), dtype=np.float32)
    with pytest.raises(
        CentroidsInvalid, match="de: 3 texts are too few for a centroid, it needs 32"
    ):
        centroids_of(vectors, ["de"] * 3 + ["en"] * 37)
    with pytest.raises(CentroidsInvalid, match="centroids of en alone"):
        centroids_of(vectors, ["en"] * 40)


def test_a_language_that_is_not_in_the_vectors_is_guessed():
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(400, 8)).astype(np.float32))
    languages = ["de", "en"] * 200
    assert 0.4 < language_accuracy(vectors, languages) < 0.6


def test_a_projection_is_an_affine_map_and_a_normalisation():
    projection = Projection(np.array([[2, 0, 0]], np.float32), np.array([1.0], np.float32))
    assert projection(np.array([[0.5, 9, 9], [-3, 0, 0]], np.float32)).tolist() == [[1.0], [-1.0]]
    plain = Projection(np.eye(2, 3, dtype=np.float32))
    assert np.allclose(plain(np.array([[3, 4, 7]], np.float32)), [[0.6, 0.8]])


def test_a_zero_vector_stays_zero():
    assert unit(np.zeros((1, 3), dtype=np.float32)).tolist() == [[0.0, 0.0, 0.0]]
