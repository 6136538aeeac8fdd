"""The model card."""

from training.export.card import model_card

ROW = {"mean_cosine": 0.999, "min_cosine": 0.99, "fp32_ndcg": 70.0, "int8_ndcg": 69.8}
DECLARED = {
    "name": "first",
    "version": "1.0.0",
    "dimension": 32,
    "max_tokens": 48,
    "languages": ["de", "en"],
    "precisions": {"fp32": "model.onnx", "int8": "model.int8.onnx"},
    "provenance": {
        "licence": "CC-BY-SA-4.0",
        "data": {"tatoeba": {"rows": 1200, "licence": "CC-BY-2.0-FR", "sha256": "0" * 64}},
        "recipe": {
            "student": {"layers": 2},
            "vocabulary": {"pieces": 1500},
            "teacher": {"model": "package:teacher"},
        },
    },
}


def test_the_card_names_licence_languages_sources_and_scores():
    scores = {"summary": {"ntrex": 61.25}, "bitext": {"ntrex": {"de": 77.1}}}
    card = model_card(DECLARED, scores, [ROW])
    assert "license: cc-by-sa-4.0\n" in card
    assert "language: [de, en]" in card
    assert "| tatoeba | 1,200 | CC-BY-2.0-FR |" in card
    assert "de 77" in card
    assert "Means: ntrex 61.2." in card
    assert "0.20 points lower. int8 is shipped." in card


def test_what_was_not_measured_or_shipped_is_said():
    declared = {**DECLARED, "precisions": {"fp32": "model.onnx"}}
    card = model_card(declared, {}, [ROW])
    assert "not measured" in card
    assert "not shipped: it failed the gate" in card
