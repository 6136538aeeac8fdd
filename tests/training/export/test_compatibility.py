"""Compatible spaces: what is measured of two bundles, and which claim goes into the manifest."""

import json

import numpy as np
import pytest

from service.bundle import Bundle, write_bundle
from service.encoder import Encoder
from service.errors import BundleInvalid
from service.golden import GoldenQuery, write_golden
from service.manifest import Declaration
from tests.tiny_bundle import PROBE_TEXTS, build_tiny_bundle
from tests.training.benchmarks.benchmark_files import write_objects, write_table
from training.benchmarks.files import BenchmarkMissing
from training.export.compatibility import (
    CompatibilityInvalid,
    Measured,
    Side,
    benchmark_sets,
    declare,
    golden_set,
    losses,
    measure,
)


def with_golden(bundle, queries):
    write_golden(bundle.folder / "golden.jsonl", queries)
    stated = {name: getattr(bundle.manifest, name) for name in Declaration.model_fields}
    return write_bundle(bundle.folder, **stated)


QUERIES = [
    GoldenQuery(
        {"en": f"{PROBE_TEXTS['en']} {n}", "de": f"{PROBE_TEXTS['de']} {n}"}, {"de": f"{n}"}
    )
    for n in range(5)
]


def side(bundle, precision="fp32"):
    encoder = Encoder.open(bundle, precision=precision, threads=1)
    return Side(bundle, precision, lambda texts, role: encoder.infer(encoder.tokenize(texts, role)))


@pytest.fixture
def old(tmp_path):
    return build_tiny_bundle(tmp_path / "old", version="1")


@pytest.fixture
def near(tmp_path):
    """Other limits, and so another space, but the same vectors of short texts."""
    bundle = build_tiny_bundle(tmp_path / "near", version="2", max_tokens=64)
    return with_golden(bundle, QUERIES)


@pytest.fixture
def far(tmp_path):
    """A stranger of the same dimension."""
    return with_golden(build_tiny_bundle(tmp_path / "far", version="3", seed=1), QUERIES)


def test_a_twin_loses_nothing_in_any_pair_of_languages(near, old):
    found = measure(side(near), side(old), [golden_set(near, old)], fewest=1)
    assert [(one.pair, one.count) for one in found] == [("en-de", 5), ("de-de", 5)]
    assert all(one.old == one.crossed == one.new for one in found)
    assert all(0 < one.old <= 1 for one in found)
    assert losses(found, tolerance=0.0) == []


def test_a_stranger_of_the_same_dimension_is_found_out(far, old):
    texts = [f"{PROBE_TEXTS['de']} {'.' * n}" for n in range(20)]
    same = [GoldenQuery({"de": text}, {"de": text}) for text in texts]
    far = with_golden(far, same)
    [one] = measure(side(far), side(old), [golden_set(far, old)])
    assert one.old == one.new == 1.0
    assert one.crossed < 0.5
    assert losses([one], tolerance=0.02) == [f"de-de loses {one.loss:.4f} (golden tiny/3)"]


def test_the_golden_queries_of_the_old_bundle_do_where_the_new_one_has_none(near, old):
    assert golden_set(old, near).name == "golden tiny/2"
    with pytest.raises(CompatibilityInvalid, match="name a data folder with --data"):
        golden_set(old, old)


def test_one_space_or_two_dimensions_are_nothing_to_compare(near, old, tmp_path):
    with pytest.raises(CompatibilityInvalid, match="have the same space"):
        measure(side(old), side(old), [])
    narrow = build_tiny_bundle(tmp_path / "narrow", dimension=8)
    with pytest.raises(CompatibilityInvalid, match="has 8 dimensions and tiny/1 16"):
        measure(side(narrow), side(old), [])
    with pytest.raises(CompatibilityInvalid, match="nothing to measure"):
        measure(side(near), side(old), [])


def test_a_pair_of_a_few_queries_is_not_judged(near, old):
    measure(side(near), side(old), [golden_set(near, old)], fewest=5)
    with pytest.raises(CompatibilityInvalid, match="no pair of their languages has 8 queries"):
        measure(side(near), side(old), [golden_set(near, old)])


def test_languages_that_a_bundle_is_not_made_for_are_left_out(near, old):
    foreign = with_golden(near, [GoldenQuery({"sw": "mto", "en": "river"}, {"de": "Fluss"})])
    [one] = measure(side(foreign), side(old), [golden_set(foreign, old)], fewest=1)
    assert one.pair == "en-de"


def test_the_claim_is_written_and_replaces_an_earlier_one_of_the_same_spaces(near, old):
    before = near.manifest.space
    found = measure(side(near), side(old), [golden_set(near, old)], fewest=1)
    first = declare(side(near), side(old), found, tolerance=0.02)
    [claim] = Bundle.open(near.folder).manifest.compatible_with
    assert claim.space == old.manifest.space["fp32"]
    assert claim.precision == "fp32"
    assert claim.ndcg["en-de"] == (found[0].old, found[0].crossed)
    assert claim.measured_on == "golden tiny/2"
    again = declare(side(first), side(old), found, tolerance=0.1)
    assert [one.tolerance for one in again.manifest.compatible_with] == [0.1]
    assert again.manifest.space == before


def test_of_several_sets_the_one_counts_in_which_a_pair_loses_most(near, old):
    rows = [
        Measured("a", "de", "en", 9, 0.9, 0.89, 0.9),
        Measured("b", "de", "en", 9, 0.8, 0.78, 0.9),
        Measured("c", "de", "en", 9, 0.7, 0.75, 0.9),
    ]
    claim = declare(side(near), side(old), rows, tolerance=0.02).manifest.compatible_with[0]
    assert claim.ndcg == {"de-en": (0.8, 0.78)}
    assert claim.measured_on == "a, b, c"


def test_a_claim_that_does_not_hold_is_not_written(near, old):
    rows = [Measured("a", "de", "en", 9, 0.9, 0.8, 0.9)]
    with pytest.raises(BundleInvalid, match=r"de-en loses 0.1, more than 0.02"):
        declare(side(near), side(old), rows, tolerance=0.02)
    assert Bundle.open(near.folder) == near


def beir(folder):
    for code, river in (("en", "the river"), ("de", "der Fluss")):
        write_objects(folder / f"corpus.{code}.jsonl", [{"_id": "1", "text": river},
                                                        {"_id": "2", "text": "x"}])  # fmt: skip
        write_objects(folder / f"queries.{code}.jsonl", [{"_id": "q", "text": f"{river}?"}])
    write_table(folder / "qrels.tsv", ("query-id", "corpus-id", "score"), ("q", "1", 1))


def test_benchmarks_of_retrieval_can_be_asked_instead(near, old, tmp_path):
    beir(tmp_path / "eval" / "rivers")
    (tmp_path / "eval" / "ntrex").mkdir()
    sets = benchmark_sets(tmp_path, None)
    found = measure(side(near), side(old), sets, fewest=1)
    assert [one.pair for one in found] == ["de-de", "de-en", "en-de", "en-en"]
    assert {one.benchmark for one in found} == {"rivers"}
    assert [one.name for one in benchmark_sets(tmp_path, "rivers:de")] == ["rivers"]
    with pytest.raises(CompatibilityInvalid, match="ntrex: no retrieval"):
        benchmark_sets(tmp_path, "rivers,ntrex")
    with pytest.raises(BenchmarkMissing):
        benchmark_sets(tmp_path / "eval", None)


def test_no_two_numbers_of_a_claim_are_lost_on_disk(near, old):
    rows = [Measured("a", "de", "en", 9, 1.0, 0.9801, 0.9)]
    declare(side(near), side(old), rows, tolerance=0.02)
    stored = json.loads((near.folder / "bundle.json").read_text())["compatible_with"]
    assert stored[0]["ndcg"] == {"de-en": [1.0, 0.9801]}
    assert np.isclose(rows[0].loss, 0.0199)
