"""From a run or a model from elsewhere to a bundle that the service and Sentence Transformers read."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from service.bundle import Bundle
from service.encoder import Encoder
from tests.training.pretrained_fixtures import (
    backbone,
    saved_run,
    sentence_folder,
    spelling_model,
    transformers_folder,
)
from training.config.recipe import Recipe, Variants
from training.corpus import HeldOut
from training.export.by_optimum import ENVIRONMENT
from training.export.graph import ExportFailed
from training.export.imported import Statement, import_model
from training.export.order import Choices
from training.export.run import _held_out, export_run
from training.model import SentenceEncoder
from training.pretrained import ModelMissing, ModelUnsupported
from training.results import Cell, Results

ANYTHING = Variants(min_mean_cosine=-1, min_cosine=-1, min_top10_overlap=0, max_ndcg_drop=100)
TEXTS = ["a cat", "Die Katze schläft, und der Hund wacht " * 4, "猫", "नीला कुत्ता"]
RECIPE = {
    "name": "tiny",
    "version": "0.1.0",
    "licence": "CC0-1.0",
    "start": {"model": "somewhere"},
    "data": {"sets": {"s": {"format": "tsv", "path": "x.tsv"}}},
    "variants": ANYTHING.model_dump(),
    "stage": [
        {
            "name": "only",
            "steps": 1,
            "batches": [{"kind": "cross", "data": ["s"]}],
            "methods": [{"method": "info_nce"}],
            "rows": 2,
            "tokens": 64,
            "matryoshka": [8, 16, 32],
            "learning_rate": 1e-3,
        }
    ],
}


def held_out():
    """Forty pairs in each of two languages, the languages far apart."""
    words = ["cat", "dog", "house", "river", "bird", "tree", "school", "garden"]
    pairs = []
    for number in range(80):
        a, b = words[number % 8], words[number // 8 % 8]
        english = f"{a} {number} {b}"
        pairs.append(HeldOut("de", english, f"ÄÖÜ {english.upper()} ÄÖÜ"))
        pairs.append(HeldOut("zh", english, f"猫狗房子 {number} 河鸟树"))
    return pairs


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    model = spelling_model(revision="abc", prompts={"query": "q: ", "passage": ""})
    recipe = Recipe.model_validate(RECIPE).model_dump(mode="json")
    saved_run(folder, model, recipe, last=SentenceEncoder(backbone(seed=1)))
    lines = [
        json.dumps({"language": p.language, "english": p.english, "foreign": p.foreign})
        for p in held_out()
    ]
    (folder / "held_out.jsonl").write_text("\n".join(lines), "utf-8")
    source = {"licence": "CC0-1.0", "rows": 3, "sha256": "0" * 64}
    (folder / "sources.json").write_text(json.dumps({"templates": source}), "utf-8")
    leaks = {"handling": "drop", "checked": {"ntrex": 1007}, "texts": 4, "counts": []}
    (folder / "leaks.json").write_text(json.dumps(leaks), "utf-8")
    cell = Cell("ntrex", "bitext", "de", "en", {"accuracy": 61.24}, 20)
    Results("run", (cell,)).write(folder / "scores.json")
    return folder


def served(folder, texts, role, precision="fp32"):
    encoder = Encoder.open(Bundle.open(folder), precision=precision, threads=1)
    encoder.verify_probes()
    return encoder.infer(encoder.tokenize(texts, role))


@pytest.mark.slow
def test_a_runs_bundle_is_its_model_cut_and_without_language_to_all_who_read_it(run, tmp_path):
    out = tmp_path / "bundle"
    choices = Choices(precisions=("fp32", "int8", "fp16"), dimension=16, remove_languages=True)
    sealed = export_run(run, out, choices)
    assert sealed.parity < 1e-5
    assert sealed.failed == {}
    theirs = SentenceTransformer(str(out), device="cpu")
    for role, name in (("query", "query"), ("passage", "document")):
        expected = theirs.encode(TEXTS, prompt_name=name)
        assert np.abs(served(out, TEXTS, role) - expected).max() < 1e-5
        assert (served(out, TEXTS, role, "fp16") * expected).sum(1).min() > 0.999
    manifest = Bundle.open(out).manifest
    assert manifest.languages == ["de", "en", "zh"]
    assert (manifest.dimension, manifest.dimensions) == (16, [16])
    assert set(manifest.precisions) == {"fp32", "int8", "fp16"}
    assert manifest.prompts == {"query": "q: ", "passage": ""}
    assert manifest.provenance.base_model == "origin@abc (mit)"
    assert manifest.provenance.data["templates"].rows == 3
    _check_evaluation(manifest.evaluation)
    probes = Bundle.open(out).probes()
    assert set(probes.languages) == {"de", "en", "zh"}
    card = (out / "README.md").read_text("utf-8")
    assert "Fine-tuned from origin@abc (mit)" in card
    assert "base_model: origin@abc\n" in card
    assert "The 2 directions in which the languages differ most were removed" in card


def _check_evaluation(evaluation):
    assert evaluation["weights"] == "last"
    assert evaluation["leaks"] == {"handling": "drop", "checked": {"ntrex": 1007}, "texts": 4}
    assert evaluation["scores"] == {"ntrex bitext accuracy": 61.24}
    assert evaluation["cells"]["ntrex/bitext/de-en"]["value"] == 61.24
    removal = evaluation["language_removal"]
    assert removal["removed_directions"] == 2
    before, after = removal["as_it_is"], removal["in_the_bundle"]
    assert after["language_accuracy"] <= before["language_accuracy"]
    assert {"translation_ndcg", "language_accuracy"} == removal["with_known_language"].keys()
    rows = evaluation["variants"]["fp16"]["languages"]
    assert [row["language"] for row in rows] == ["de", "zh", "en"]


@pytest.mark.slow
def test_a_variant_that_fails_its_gate_is_left_out_and_the_card_says_so(run, tmp_path):
    strict = Variants(min_cosine=1.5, min_mean_cosine=0, min_top10_overlap=0, max_ndcg_drop=99)
    recipe = Recipe.model_validate(RECIPE | {"variants": strict})
    (run / "recipe.json").write_text(recipe.model_dump_json(), "utf-8")
    shutil.copytree(run / "checkpoint", run / "best")
    out = tmp_path / "bundle"
    sealed = export_run(run, out)
    assert set(sealed.failed) == {"int8"}
    manifest = Bundle.open(out).manifest
    assert list(manifest.precisions) == ["fp32"]
    assert manifest.dimensions == [8, 16, 32]
    assert manifest.evaluation["weights"] == "best"
    assert manifest.evaluation["variants"]["int8"]["shipped"] is False
    assert not (out / "model.int8.onnx").exists()
    assert not (out / "model.int8.safetensors").exists()
    assert "int8 is not shipped: it failed in de" in (out / "README.md").read_text("utf-8")
    (run / "sources.json").write_text(
        json.dumps({"x": {"licence": "?", "rows": 1, "sha256": "?"}}), "utf-8"
    )
    with pytest.raises(Exception, match="provenance"):
        export_run(run, out, Choices(precisions=("fp32",)))
    assert Bundle.open(out).manifest == manifest  # the old one is still there
    assert not (tmp_path / "bundle.partial").exists()


@pytest.mark.slow
def test_a_bundle_of_int8_alone_is_served_trained_on_and_made_full_again(run, tmp_path):
    small, full = tmp_path / "small", tmp_path / "full"
    export_run(run, full)
    recipe = Recipe.model_validate(RECIPE | {"export": {"precisions": ["int8"]}})
    (run / "recipe.json").write_text(recipe.model_dump_json(), "utf-8")
    export_run(run, small)
    files = {file.name for file in small.iterdir()}
    assert {"model.int8.onnx", "model.int8.safetensors"} <= files
    assert not {"model.onnx", "model.safetensors"} & files
    manifest = Bundle.open(small).manifest
    assert manifest.space == {"int8": Bundle.open(full).manifest.space["int8"]}
    assert (manifest.fullest, Bundle.open(full).manifest.fullest) == ("int8", "fp32")
    assert set(Bundle.open(small).probes().vectors) == {"int8"}
    assert (served(small, TEXTS, "query", None) == served(full, TEXTS, "query", "int8")).all()
    card = (small / "README.md").read_text("utf-8")
    assert "isogloss-train import-model" in card
    assert "sentence-transformers" not in card
    again = tmp_path / "again"
    import_model(str(small), again, Choices(precisions=("fp32",)), said=Statement(version="2"))
    cosines = (served(again, TEXTS, "query") * served(full, TEXTS, "query")).sum(1)
    assert 0.999 < cosines.min() < 0.9999999


@pytest.mark.slow
def test_nothing_is_written_if_int8_fails_and_is_all_that_was_asked_for(run, tmp_path):
    strict = Variants(min_cosine=1.5, min_mean_cosine=0, min_top10_overlap=0, max_ndcg_drop=99)
    recipe = Recipe.model_validate(RECIPE | {"variants": strict})
    (run / "recipe.json").write_text(recipe.model_dump_json(), "utf-8")
    with pytest.raises(
        ExportFailed, match=r"int8 failed its gate in de \(mean_cosine .*--precisions"
    ):
        export_run(run, tmp_path / "bundle", Choices(precisions=("fp16", "int8")))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
def test_a_model_from_elsewhere_becomes_a_bundle_of_the_same_vectors(tmp_path, family):
    settings = {"prompts": {"query": "query: ", "document": "passage: "}}
    card = "license: mit\nlanguage: [de, hi, xx-unknown, gd]"
    sentence_folder(tmp_path / "model", family, settings=settings, card=card)
    out = tmp_path / "bundle"
    sealed = import_model(
        str(tmp_path / "model"),
        out,
        Choices(precisions=("fp32", "fp16")),
        said=Statement(name="mine", version="2"),
    )
    manifest = sealed.bundle.manifest
    assert (manifest.name, manifest.version, manifest.max_tokens) == ("mine", "2", 48)
    assert manifest.provenance.licence == "mit"
    assert manifest.provenance.recipe.startswith("imported from ")
    assert manifest.languages == ["de", "gd", "hi"]
    assert manifest.evaluation["languages_without_probes"] == ["gd"]
    assert manifest.evaluation["tokenizer"]["texts"] == 9
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    expected = theirs.encode(TEXTS, prompt_name="document")
    assert np.abs(served(out, TEXTS, "passage") - expected).max() < 1e-5
    assert "nothing was trained here" in (out / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_a_bundle_can_be_imported_but_not_one_with_a_projection(tmp_path):
    sentence_folder(tmp_path / "model", card="license: mit")
    only = Choices(precisions=("fp32",))
    import_model(str(tmp_path / "model"), tmp_path / "a", only, said=Statement(name="n"))
    cut = Choices(precisions=("fp32",), dimension=8)
    again = import_model(str(tmp_path / "a"), tmp_path / "b", cut, said=Statement())
    assert again.bundle.manifest.provenance.base_model == "n@1.0.0 (mit)"
    first = served(tmp_path / "a", TEXTS, "query")[:, :8]
    expected = first / np.linalg.norm(first, axis=1, keepdims=True)
    assert np.abs(served(tmp_path / "b", TEXTS, "query") - expected).max() < 1e-5
    with pytest.raises(ModelUnsupported, match="Normalize, Dense, Normalize"):
        import_model(str(tmp_path / "b"), tmp_path / "c", only, said=Statement())


@pytest.mark.slow
@pytest.mark.skipif(not ENVIRONMENT.is_file(), reason="needs `make optimum-env`")
def test_optimums_bundle_passes_the_same_parity(tmp_path):
    sentence_folder(tmp_path / "model", card="license: mit")
    choices = Choices(exporter="optimum", dimension=8)
    sealed = import_model(
        str(tmp_path / "model"), tmp_path / "out", choices, said=Statement(languages=("de",))
    )
    assert sealed.parity < 1e-5
    tools = sealed.bundle.manifest.provenance.tools
    assert tools["exporter"] == "optimum"
    assert tools["optimum-env:transformers"].startswith("4.")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", truncate_dim=8)
    expected = theirs.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(served(tmp_path / "out", TEXTS, "query") - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (Choices(precisions=("fp16",)), "must name fp32 or int8"),
        (Choices(precisions=("int8",), exporter="optimum"), "optimum must write fp32"),
        (Choices(precisions=("fp32", "fp16"), exporter="optimum"), "fp16 needs torch's"),
        (Choices(dimension=33), "--dimension 33: the vectors can be cut to 1 to 32 dimensions"),
        (Choices(rank=1), "--remove-languages removes, which is not asked"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(run, tmp_path, choices, said):
    with pytest.raises(ExportFailed, match=said):
        export_run(run, tmp_path / "bundle", choices)
    assert not (tmp_path / "bundle").exists()


def test_a_missing_optimum_environment_says_how_to_make_it(run, tmp_path):
    nowhere = Choices(precisions=("fp32",), exporter="optimum", optimum_python=tmp_path / "python")
    with pytest.raises(ExportFailed, match="make optimum-env"):
        export_run(run, tmp_path / "bundle", nowhere)
    assert not (tmp_path / "bundle.partial").exists()


def test_a_run_without_what_is_asked_for_is_refused(run, tmp_path):
    with pytest.raises(ModelMissing, match="holds no best weights"):
        export_run(run, tmp_path / "bundle", weights="best")
    (run / "held_out.jsonl").unlink()
    with pytest.raises(ExportFailed, match=r"held_out\.jsonl is missing"):
        export_run(run, tmp_path / "bundle")
    with pytest.raises(ModelMissing, match="holds no last weights"):
        export_run(tmp_path, tmp_path / "bundle")


@pytest.mark.slow
def test_a_run_without_translations_is_checked_on_the_sentences_that_come_along(run, tmp_path):
    (run / "held_out.jsonl").write_text("", "utf-8")
    counts = {"sets": {"questions": {"groups": 3, "texts": {"query": {"en": 3, "hi": 2}}}}}
    (run / "data.json").write_text(json.dumps(counts), "utf-8")
    export_run(run, tmp_path / "bundle", Choices(precisions=("fp32",)))
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.languages == ["en", "hi"]
    assert set(bundle.probes().languages) == {"en", "hi"}
    own = tmp_path / "own.tsv"
    own.write_text("language\ttext\nde\tein Hund\n", "utf-8")
    export_run(run, tmp_path / "bundle", Choices(precisions=("fp32",)), probes=own)
    assert set(Bundle.open(tmp_path / "bundle").probes().languages) == {"de"}


def test_a_held_out_text_may_hold_what_some_take_for_the_end_of_a_line(tmp_path):
    pairs = [HeldOut("de", "one\u2028two", "eins\x85zwei"), HeldOut("de", "three", "drei")]
    lines = [json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs]
    (tmp_path / "held_out.jsonl").write_text("".join(lines), "utf-8")
    assert _held_out(tmp_path / "held_out.jsonl") == pairs


def test_a_folder_that_is_no_bundle_is_not_overwritten(run):
    with pytest.raises(ExportFailed, match="is no bundle"):
        export_run(run, run)
    assert (run / "recipe.json").is_file()


def test_a_model_that_says_too_little_is_not_imported(tmp_path):
    out = tmp_path / "out"
    sentence_folder(tmp_path / "st")
    with pytest.raises(ExportFailed, match="states no licence"):
        import_model(str(tmp_path / "st"), out, said=Statement())
    transformers_folder(tmp_path / "plain")
    with pytest.raises(ModelUnsupported, match="--pooling"):
        import_model(str(tmp_path / "plain"), out, said=Statement(licence="mit"))


def test_a_model_for_dot_products_is_not_imported(tmp_path):
    kinds, settings = ["Transformer", "Pooling"], {"similarity_fn_name": "dot"}
    sentence_folder(tmp_path / "st", modules=kinds, settings=settings)
    with pytest.raises(ExportFailed, match="not normalised by their dot product"):
        import_model(str(tmp_path / "st"), tmp_path / "out", said=Statement(licence="mit"))


def test_a_bundle_without_any_text_to_check_is_refused(tmp_path):
    sentence_folder(tmp_path / "st")
    (tmp_path / "none.tsv").write_text("language\ttext\n", "utf-8")
    with pytest.raises(ExportFailed, match="give some with --probes"):
        import_model(
            str(tmp_path / "st"),
            tmp_path / "out",
            said=Statement(licence="mit"),
            probes=tmp_path / "none.tsv",
        )
