from training.benchmarks.tasks import PUBLISHED, sizes


def test_candidates_are_compared_with_the_published_numbers():
    whole = sizes("xquad_r", PUBLISHED["xquad_r"])
    assert whole["not_as_published"] == {}
    assert sum(whole["candidates"].values()) == 13_014
    assert sizes("xquad_r", {"de": 1276, "en": 7, "fr": 1})["not_as_published"] == {
        "en": {"here": 7, "published": 1180},
        "fr": {"here": 1, "published": None},
    }


def test_a_set_without_published_numbers_is_only_counted():
    assert sizes("beir", {"en": 3}) == {"candidates": {"en": 3}}
