"""The manifest: what it may say, and what of it is the identity of the vectors."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle, write_bundle
from service.errors import BundleInvalid
from tests.tiny_bundle import (
    PROVENANCE,
    build_tiny_bundle,
    declared,
    edit_manifest,
)


@pytest.fixture
def folder(tmp_path) -> Path:
    return build_tiny_bundle(tmp_path / "tiny").folder


@pytest.mark.parametrize("stated", [0, 2, "1", True, None])
def test_an_unknown_format_is_refused_by_its_number(folder, stated):
    edit_manifest(folder, format=stated)
    with pytest.raises(BundleInvalid, match=f"format {stated!r}; this version reads format 1"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": NaN}', "[" * 100_000, '{"format": 1}']
)
def test_a_manifest_that_is_no_manifest_is_refused(folder, text):
    (folder / "bundle.json").write_text(text)
    with pytest.raises(BundleInvalid, match=r"bundle.json"):
        Bundle.open(folder)


def test_a_manifest_that_is_missing_or_a_link_or_huge_is_refused(folder, tmp_path):
    path = folder / "bundle.json"
    path.rename(tmp_path / "elsewhere.json")
    with pytest.raises(BundleInvalid, match=r"missing"):
        Bundle.open(folder)
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleInvalid, match=r"not a plain file"):
        Bundle.open(folder)
    path.unlink()
    path.write_bytes(b" " * (4 * 2**20 + 1))
    with pytest.raises(BundleInvalid, match=r"more than 4194304"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"colour": "red"}, "colour"),
        ({"name": "../escape"}, "name"),
        ({"name": "Capital"}, "name"),
        ({"name": "tiny\n"}, "name"),
        ({"version": ""}, "version"),
        ({"dimension": 0}, "dimension"),
        ({"dimension": "16"}, "dimension"),
        ({"dimensions": [16, 8]}, "not ascending"),
        ({"dimensions": [0, 16]}, "not ascending and positive"),
        ({"dimensions": [8]}, "do not end at 16"),
        ({"dimensions": []}, "dimensions"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"pooling": "max"}, "pooling"),
        ({"normalised": False}, "normalised"),
        ({"prompts": {"title": "x"}}, "prompts"),
        ({"prompts": {"query": "a\0b"}}, "NUL"),
        ({"languages": ["English"]}, "BCP-47"),
        ({"languages": ["zh_Hans"]}, "BCP-47"),
        ({"precisions": {}}, "precisions"),
        ({"precisions": {"int4": "model.onnx"}}, "precisions"),
        ({"precisions": {"fp32": "tokenizer.json"}}, r"does not end in \.onnx"),
        ({"precisions": {"fp32": "other.onnx"}}, "other.onnx is not listed"),
        ({"precisions": {"fp32": "../model.onnx"}}, "not a safe relative path"),
        ({"space": {}}, "space and precisions"),
        ({"space": {"fp32": "0" * 32}}, f"not {'0' * 32}"),
        ({"files": {"/etc/passwd": "0" * 64}}, "not a safe relative path"),
        ({"files": {"code.py": "0" * 64}}, "may hold code"),
        ({"files": {"model.onnx": "xyz"}}, "files"),
        ({"files": {}}, "tokenizer.json is not listed"),
        ({"provenance": {}}, "provenance"),
    ],
)
def test_a_manifest_that_breaks_the_contract_is_refused_with_the_field(folder, fields, reason):
    edit_manifest(folder, **fields)
    with pytest.raises(BundleInvalid, match=reason):
        Bundle.open(folder)


def test_the_manifest_cannot_list_itself(folder):
    files = json.loads((folder / "bundle.json").read_text())["files"]
    edit_manifest(folder, files={**files, "bundle.json": "0" * 64})
    with pytest.raises(BundleInvalid, match=r"cannot list itself"):
        Bundle.open(folder)


FREE_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
        "version": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True),
        "languages": st.lists(st.sampled_from(["de", "zh-Hans", "pt-BR", "en"])),
        "evaluation": st.dictionaries(st.text(max_size=5), st.integers()),
        "dimensions": st.sampled_from([[16], [4, 16], [1, 2, 16]]),
        "provenance": st.just({**PROVENANCE, "licence": "MIT"}),
    },
)


SHAPING_CHANGES = st.one_of(
    st.fixed_dictionaries({"max_tokens": st.integers(4, 127)}),
    st.fixed_dictionaries({"pooling": st.sampled_from(["cls", "last"])}),
    st.fixed_dictionaries(
        {
            "prompts": st.fixed_dictionaries(
                {
                    "query": st.text(st.characters(codec="utf-8"), min_size=1).filter(
                        lambda t: "\0" not in t
                    )
                }
            )
        }
    ),
    st.fixed_dictionaries(
        {"prompts": st.fixed_dictionaries({"passage": st.sampled_from([" ", "passage: "])})}
    ),
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(changes=FREE_CHANGES)
def test_name_version_languages_and_scores_do_not_change_the_space(folder, changes):
    before = write_bundle(folder, **declared()).manifest.space
    assert write_bundle(folder, **declared(**changes)).manifest.space == before


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
@given(changes=SHAPING_CHANGES)
def test_whatever_shapes_a_vector_changes_the_space(folder, changes):
    before = write_bundle(folder, **declared()).manifest.space["fp32"]
    assert write_bundle(folder, **declared(**changes)).manifest.space["fp32"] != before


CLAIM = {
    "space": "0" * 32,
    "precision": "fp32",
    "ndcg": {"de-en": [0.9, 0.89], "en-en": [1.0, 1.0]},
    "tolerance": 0.02,
    "measured_on": "golden.jsonl of tiny/1",
}


def test_a_claim_of_compatible_spaces_is_kept_and_changes_no_space(folder):
    before = Bundle.open(folder).manifest
    assert before.compatible_with == []
    write_bundle(folder, **declared(compatible_with=[CLAIM]))
    (claim,) = Bundle.open(folder).manifest.compatible_with
    assert claim.ndcg == {"de-en": (0.9, 0.89), "en-en": (1.0, 1.0)}
    assert claim.model_dump(mode="json") == CLAIM
    assert Bundle.open(folder).manifest.space == before.space


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ndcg": {"de-en": [0.9, 0.87]}}, "de-en loses 0.03, more than 0.02"),
        ({"ndcg": {}}, "ndcg"),
        ({"ndcg": {"de-en": [0.9]}}, "ndcg"),
        ({"ndcg": {"de-en": [90.0, 90.0]}}, "less than or equal to 1"),
        ({"space": "xyz"}, "space"),
        ({"precision": "int4"}, "precision"),
        ({"precision": "int8"}, "int8 is no precision of this bundle"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"measured_on": ""}, "measured_on"),
        ({"by": "me"}, "by"),
    ],
)
def test_a_claim_that_does_not_hold_is_refused(folder, changes, reason):
    with pytest.raises(BundleInvalid, match=f"compatible_with.*{reason}"):
        write_bundle(folder, **declared(compatible_with=[CLAIM | changes]))
    build_tiny_bundle(folder)
    edit_manifest(folder, compatible_with=[CLAIM | changes])
    with pytest.raises(BundleInvalid, match=f"compatible_with.*{reason}"):
        Bundle.open(folder)


def test_every_shaping_file_changes_the_space_and_no_other(tmp_path):
    def space(**options) -> str:
        number = len(list(tmp_path.iterdir()))
        return build_tiny_bundle(tmp_path / str(number), **options).manifest.space["fp32"]

    plain = space()
    assert space() == plain
    assert space(precisions=("fp32", "int8")) == plain  # another precision beside it
    assert space(seed=1) != plain  # the weights, in a file beside the graph
    assert space(external=False) != plain  # the graph itself
    folder = tmp_path / "0"
    tokenizer = folder / "tokenizer.json"
    (folder / "README.md").write_text("read me")
    assert write_bundle(folder, **declared()).manifest.space["fp32"] == plain
    tokenizer.write_text(tokenizer.read_text() + "\n")
    assert write_bundle(folder, **declared()).manifest.space["fp32"] != plain


def test_two_precisions_never_share_a_space(tiny_bundle):
    assert len(set(tiny_bundle.manifest.space.values())) == 2
