"""What is read of a Sentence Transformers folder, and what is refused."""

import pytest

from tests.training.pretrained_fixtures import write_json
from training.sentence_folder import (
    ModelUnsupported,
    SentenceFolder,
    read_sentence_folder,
    write_sentence_folder,
)

MEAN = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}


def folder(path, *, kinds=("Transformer", "Pooling", "Normalize"), pooling=MEAN, **files):
    modules = [
        {"path": "" if k == 0 else f"{k}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for k, kind in enumerate(kinds)
    ]
    write_json(path / "modules.json", files.get("modules", modules))
    write_json(path / "1_Pooling" / "config.json", pooling)
    if "limits" in files:
        write_json(path / "sentence_bert_config.json", files["limits"])
    if "settings" in files:
        write_json(path / "config_sentence_transformers.json", files["settings"])
    return path


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_what_is_written_is_read_back(tmp_path, pooling):
    said = SentenceFolder(
        pooling=pooling, prompts={"query": "Frage: ", "passage": "Text: "}, max_tokens=77
    )
    write_sentence_folder(tmp_path, said, width=32, pooler=True)
    assert read_sentence_folder(tmp_path) == said


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        (MEAN, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "mean", "embedding_dimension": 32}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_both_spellings_of_the_pooling_mode_are_read(tmp_path, pooling, mode):
    assert read_sentence_folder(folder(tmp_path, pooling=pooling)).pooling == mode


@pytest.mark.parametrize(
    ("pooling", "named"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls, mean"),
        ({}, "not said"),
    ],
)
def test_other_poolings_are_refused_by_name(tmp_path, pooling, named):
    with pytest.raises(ModelUnsupported, match=named):
        read_sentence_folder(folder(tmp_path, pooling=pooling))


def test_a_dense_layer_is_refused_by_name(tmp_path):
    with pytest.raises(ModelUnsupported, match="Transformer, Pooling, Dense"):
        read_sentence_folder(folder(tmp_path, kinds=("Transformer", "Pooling", "Dense")))


def test_a_module_of_the_makers_own_is_refused_by_name(tmp_path):
    modules = [{"path": "", "type": "custom_st.Transformer"}]
    with pytest.raises(ModelUnsupported, match=r"custom_st.Transformer is code of the model's own"):
        read_sentence_folder(folder(tmp_path, modules=modules))


@pytest.mark.parametrize(
    ("prompts", "default", "found"),
    [
        ({"query": "q: ", "document": "d: "}, None, ("q: ", "d: ")),
        ({"query": "q: ", "passage": "p: "}, None, ("q: ", "p: ")),
        ({"query": "q: "}, None, ("q: ", "")),
        ({"query": "q: ", "all": "x: "}, "all", ("q: ", "x: ")),
        ({}, None, ("", "")),
    ],
)
def test_a_role_gets_the_prompt_that_sentence_transformers_gives_it(
    tmp_path, prompts, default, found
):
    settings = {"prompts": prompts, "default_prompt_name": default}
    read = read_sentence_folder(folder(tmp_path, settings=settings))
    assert (read.prompts["query"], read.prompts["passage"]) == found


def test_prompts_that_are_for_no_role_are_refused_unless_others_are_given(tmp_path):
    folder(tmp_path, settings={"prompts": {"s2p": "Instruct: "}})
    with pytest.raises(ModelUnsupported, match=r"its prompts are s2p.*--query-prompt"):
        read_sentence_folder(tmp_path)
    given = {"query": "Instruct: ", "passage": ""}
    assert read_sentence_folder(tmp_path, prompts=given).prompts == given


def test_prompts_that_are_left_out_of_the_mean_are_refused(tmp_path):
    folder(tmp_path, pooling={**MEAN, "include_prompt": False})
    assert read_sentence_folder(tmp_path).prompts == {"query": "", "passage": ""}
    with pytest.raises(ModelUnsupported, match="include_prompt is false"):
        read_sentence_folder(tmp_path, prompts={"query": "q: ", "passage": ""})


@pytest.mark.parametrize(
    ("kinds", "similarity", "by_cosine"),
    [
        (("Transformer", "Pooling", "Normalize"), "dot", True),
        (("Transformer", "Pooling"), None, True),
        (("Transformer", "Pooling"), "dot", False),
    ],
)
def test_only_dot_products_without_normalisation_are_not_cosines(
    tmp_path, kinds, similarity, by_cosine
):
    settings = {"similarity_fn_name": similarity}
    read = read_sentence_folder(folder(tmp_path, kinds=kinds, settings=settings))
    assert read.by_cosine is by_cosine


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"model_args": {"trust_remote_code": True}}, "model_args has trust_remote_code"),
        ({"transformer_task": "fill-mask"}, "asks for fill-mask"),
        ({"modality_config": {"text": {"method_output_name": "logits"}}}, "logits"),
    ],
)
def test_arguments_that_change_the_vectors_are_refused(tmp_path, limits, said):
    with pytest.raises(ModelUnsupported, match=said):
        read_sentence_folder(folder(tmp_path, limits=limits))


def test_the_length_and_the_case_are_read(tmp_path):
    limits = {"max_seq_length": 99, "do_lower_case": True, "model_args": {"dtype": "float32"}}
    read = read_sentence_folder(folder(tmp_path, limits=limits))
    assert (read.max_tokens, read.lower_case) == (99, True)


def test_a_cross_encoder_is_refused(tmp_path):
    with pytest.raises(ModelUnsupported, match="model_type is CrossEncoder"):
        read_sentence_folder(folder(tmp_path, settings={"model_type": "CrossEncoder"}))


def test_a_file_that_is_no_object_is_refused(tmp_path):
    with pytest.raises(ModelUnsupported, match="not a JSON object"):
        read_sentence_folder(folder(tmp_path, limits=[1]))
