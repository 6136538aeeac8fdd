import json
import shutil
from io import StringIO

import numpy as np
import onnx
import pytest
from rich.console import Console
from sentence_transformers import SentenceTransformer

from service.bundle import Bundle
from service.encoder import Encoder
from training.config import Quantisation
from training.data import HeldOut
from training.export.bundle import export_run, load_run, open_model
from training.export.gate import check_parity, quantisation_gate
from training.export.graph import ExportFailed
from training.trainer import Options, run_recipe

TEXTS = [
    "red cat sleeps garden",
    "alt Pferd wartet Schule",
    "зелёный птица ест дом",
    "नीला कुत्ता रुकता नदी",
    "老马等待花园",
    "ዓለም never seen before",
    "red cat " * 40,
]


@pytest.fixture(scope="module")
def finished(recipe, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    options = Options(data=data, out=out, cache=out / "cache", device="cpu")
    run_recipe(recipe, options, Console(file=StringIO()))
    return out


@pytest.fixture
def trained(finished, tmp_path):
    """A finished run that the test may change."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def rewrite_recipe(run, recipe, **changes):
    changed = recipe.model_copy(update=changes)
    (run / "recipe.json").write_text(changed.model_dump_json(), "utf-8")


@pytest.mark.slow
def test_the_bundle_is_the_same_model_to_the_service_and_to_sentence_transformers(
    trained, recipe, tmp_path
):
    folder = tmp_path / "bundle"
    gate = export_run(trained, folder)
    assert {row["language"] for row in gate} == {"de", "ru", "hi", "zh"}
    bundle = Bundle.open(folder)
    encoder = Encoder.open(bundle, threads=1)
    ours = encoder.infer(encoder.tokenize(TEXTS, "passage"))
    model = SentenceTransformer(str(folder), device="cpu")
    for prompt in (None, "query"):
        assert np.abs(model.encode(TEXTS, prompt_name=prompt) - ours).max() < 1e-5
    assert model.max_seq_length == recipe.student.max_tokens
    embed, benchmarks = open_model(folder, precision="fp32", threads=1)
    assert np.abs(embed(TEXTS, "query") - ours).max() < 1e-5
    assert benchmarks == recipe.evaluation
    _check_manifest(bundle)
    _check_that_weights_lie_once(folder)
    probes = bundle.probes()
    found = encoder.infer(encoder.tokenize(probes.texts, "passage"))
    assert np.abs(found - probes.vectors["fp32"]).max() < 1e-5
    assert all(probes.languages.count(language) >= 2 for language in bundle.manifest.languages)


def _check_manifest(bundle):
    manifest = bundle.manifest
    assert manifest.languages == ["de", "en", "hi", "ru", "zh"]
    assert manifest.provenance.data["templates"].licence == "CC0-1.0"
    assert manifest.provenance.data["templates"].rows > 0
    assert manifest.evaluation["scores"]["summary"]["ntrex"] >= 0
    assert manifest.evaluation["thresholds"]["min_mean_cosine"] == 0.99


def _check_that_weights_lie_once(folder):
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    external = [tensor for tensor in graph.initializer if tensor.external_data]
    assert {
        entry.value for t in external for entry in t.external_data if entry.key == "location"
    } == {"model.safetensors"}
    inline = [
        t
        for t in graph.initializer
        if not t.external_data and t.data_type == onnx.TensorProto.FLOAT
    ]
    assert sum(len(tensor.raw_data) for tensor in inline) < 1024
    assert not any(node.doc_string or node.metadata_props for node in graph.node)


@pytest.mark.slow
def test_int8_that_fails_the_gate_is_not_shipped_and_the_table_says_why(trained, recipe, tmp_path):
    rewrite_recipe(trained, recipe, quantisation=Quantisation(min_cosine=1.5))
    gate = export_run(trained, tmp_path / "bundle")
    assert not any(row["passed"] for row in gate)
    bundle = Bundle.open(tmp_path / "bundle")
    assert list(bundle.manifest.precisions) == ["fp32"]
    assert not (tmp_path / "bundle" / "model.int8.onnx").exists()
    assert bundle.manifest.evaluation["int8_gate"] == gate
    with pytest.raises(ExportFailed, match="no int8 graph, only fp32"):
        open_model(tmp_path / "bundle", precision="int8", threads=1)
    anything = Quantisation(min_mean_cosine=-1.0, min_cosine=-1.0, max_ndcg_drop=100.0)
    rewrite_recipe(trained, recipe, quantisation=anything)
    export_run(trained, tmp_path / "bundle")  # a bundle may be replaced
    assert "int8" in Bundle.open(tmp_path / "bundle").manifest.precisions


def test_a_run_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ExportFailed, match="holds no checkpoint"):
        load_run(tmp_path)


def test_a_folder_that_is_no_bundle_is_not_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("mine", "utf-8")
    with pytest.raises(ExportFailed, match="is no bundle"):
        export_run(tmp_path, tmp_path)
    assert (tmp_path / "precious.txt").is_file()


@pytest.mark.slow
def test_a_failed_export_leaves_nothing_behind(trained, tmp_path):
    (trained / "sources.json").write_text(json.dumps({"x": {"licence": "?"}}), "utf-8")
    with pytest.raises(Exception, match="provenance"):
        export_run(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert not (tmp_path / "bundle.partial").exists()


PAIRS = [HeldOut("de", "a", "b"), HeldOut("de", "c", "d")]
EYE = np.eye(4, dtype=np.float32)


def embed(texts, _role):
    return EYE[
        [("a", "c").index(text) if text in "ac" else ("b", "d").index(text) for text in texts]
    ]


def noisy(texts, role):
    turned = embed(texts, role)
    turned[:, 3] = 0.2
    return turned / np.linalg.norm(turned, axis=1, keepdims=True)


def confused(texts, role):
    return embed(texts, role)[::-1] if "b" in texts else embed(texts, role)


@pytest.mark.parametrize(("small", "passed"), [(embed, True), (noisy, False), (confused, False)])
def test_the_gate_asks_for_cosines_and_for_what_is_found(small, passed):
    (row,) = quantisation_gate(embed, small, PAIRS, Quantisation())
    assert row["passed"] is passed
    assert row["fp32_ndcg"] == 100.0
    assert row["texts"] == 4


def test_a_drop_in_what_is_found_alone_fails_the_gate():
    loose = Quantisation(min_mean_cosine=-1, min_cosine=-1)
    (row,) = quantisation_gate(embed, confused, PAIRS, loose)
    assert row["int8_ndcg"] < 80
    assert not row["passed"]


def test_a_graph_that_differs_from_torch_names_the_language():
    check_parity(embed, embed, PAIRS)
    with pytest.raises(ExportFailed, match="de: the graph differs from torch"):
        check_parity(embed, noisy, PAIRS)
