"""The model card."""

import pytest

from tests.training.pretrained_fixtures import spelling_model
from training.export.card import model_card

ROW = {
    "language": "de",
    "mean_cosine": 0.999,
    "min_cosine": 0.99,
    "top10_overlap": 0.95,
    "fp32_ndcg": 70.0,
    "ndcg": 69.8,
    "passed": True,
}
SOURCE = {"rows": 1200, "licence": "CC-BY-2.0-FR", "sha256": "0" * 64}


@pytest.fixture(scope="module")
def model():
    return spelling_model(name="m")


def declared(recipe, base, *, data=None, **changes):
    return {
        "name": "first",
        "version": "1.0.0",
        "dimension": 32,
        "max_tokens": 48,
        "pooling": "mean",
        "prompts": {"query": "", "passage": ""},
        "languages": ["de", "en"],
        "precisions": {"fp32": "model.onnx"},
        "provenance": {
            "licence": "CC-BY-SA-4.0",
            "data": {"tatoeba": SOURCE} if data is None else data,
            "recipe": recipe,
            "base_model": base,
        },
        **changes,
    }


def test_a_students_card_names_teacher_licence_languages_sources_and_scores(model):
    evaluation = {
        "scores": {"ntrex bitext accuracy": 61.25},
        "cells": {"ntrex/bitext/de-en": {"metric": "accuracy", "value": 77.1, "count": 9}},
        "variants": {"int8": {"shipped": True, "languages": [ROW]}},
    }
    base = "trained from scratch, taught by package:teacher"
    card = model_card(declared({"start": None}, base, evaluation=evaluation), model)
    assert "license: cc-by-sa-4.0\n" in card
    assert "language: [de, en]" in card
    assert "base_model" not in card
    assert "Its weights were trained from scratch, taught by package:teacher." in card
    assert "| tatoeba | 1,200 | CC-BY-2.0-FR |" in card
    assert "- ntrex bitext accuracy: 61.25" in card
    assert "ntrex bitext, accuracy: de-en 77" in card
    assert "0.20 points lower. int8 is shipped." in card


def test_a_card_says_what_of_the_evaluation_was_trained_on(model):
    leaks = {"handling": "drop", "checked": {"ntrex": 1000, "xquad": 240}, "texts": 17}
    card = model_card(declared("recipe", "x", evaluation={"leaks": leaks}), model)
    assert "1,240 texts of ntrex, xquad were looked for in it; 17 were found and left out." in card
    kept = {"leaks": {**leaks, "handling": "keep"}}
    assert "17 were found and trained on" in model_card(declared("r", "x", evaluation=kept), model)
    assert "was not checked" in model_card(declared("r", "x"), model)


def test_a_card_names_the_languages_that_fail_most(model):
    cells = {
        f"ntrex/bitext/{pair}": {"metric": "accuracy", "value": value, "count": 9}
        for pair, value in {"de-en": 80, "te-en": 24, "th-en": 41, "ar-en": 34, "en-te": 9}.items()
    }
    card = model_card(declared("recipe", "x", evaluation={"cells": cells}), model)
    assert "- ntrex (accuracy): te 24, ar 34, th 41\n" in card


def test_a_fine_tuned_ones_card_names_its_base_and_the_bases_licence(model):
    card = model_card(declared({"start": {"model": "x"}}, "intfloat/e5@abc (mit)"), model)
    assert "base_model: intfloat/e5@abc\n" in card
    assert "Fine-tuned from intfloat/e5@abc (mit), whose licence goes on to hold" in card


def test_a_card_of_int8_alone_says_how_others_get_it_in_full(model):
    small = declared({"start": None}, "trained from scratch", precisions={"int8": "m.onnx"})
    card = model_card(small, model)
    assert "isogloss-train import-model path/to/this/folder" in card
    assert "sentence-transformers" not in card
    assert "library_name: sentence-transformers\n" in model_card(
        declared({"start": None}, "trained from scratch"), model
    )


def test_an_imported_ones_card_says_that_nothing_was_trained(model):
    prompts = {"query": "query: ", "passage": "passage: "}
    card = model_card(
        declared("imported from x", "x (mit)", data={}, prompts=prompts, languages=[]), model
    )
    assert "The weights are those of x (mit), unchanged: nothing was trained here." in card
    assert "'query: ' before a query, 'passage: ' before a passage" in card
    assert "Languages: not stated." in card
    assert "described by their maker" in card
    assert "Not measured." in card


def test_a_variant_that_failed_is_said_with_its_languages(model):
    lost = {**ROW, "language": "th", "passed": False, "fp32_ndcg": None, "ndcg": None}
    evaluation = {"variants": {"int8": {"shipped": False, "languages": [lost]}}}
    card = model_card(declared("imported", "x", evaluation=evaluation), model)
    assert "int8 is not shipped: it failed in th." in card
    assert "points lower" not in card
