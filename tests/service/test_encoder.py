"""The encoder: the same vector whatever it is batched with, the same tokens wherever a text is cut."""

import random
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tokenizers import (
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from service.bundle import Bundle, write_bundle
from service.encoder import FIRST_CAP, LAST_CAP, MARGIN, Encoder, cut
from service.errors import BundleInvalid, ConfigurationError, EngineFailure, InvalidInput
from service.probes import Probes
from service.types import Tokens
from tests.tiny_bundle import (
    PROBE_TEXTS,
    PROVENANCE,
    build_tiny_bundle,
    build_tokenizer,
    fp32_model,
)


@pytest.fixture(scope="module")
def encoder(tiny_bundle) -> Encoder:
    return Encoder.open(tiny_bundle, threads=1)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_probes_are_reproduced(tiny_bundle, precision):
    encoder = Encoder.open(tiny_bundle, precision=precision, threads=1)
    encoder.verify_probes()
    assert encoder.dimension == 16
    assert encoder.max_tokens == 128
    assert encoder.space == tiny_bundle.manifest.space[precision]


UNICODE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), texts=st.lists(UNICODE, min_size=1, max_size=12))
def test_a_vector_does_not_depend_on_its_batch(encoder, data, texts):
    tokens = encoder.tokenize(texts, "passage")
    alone = np.concatenate([encoder.infer([one]) for one in tokens])
    order = data.draw(st.permutations(range(len(texts))))
    size = data.draw(st.integers(1, len(texts)))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        together = encoder.infer([tokens[row] for row in rows])
        cosine = np.einsum("nd,nd->n", together, alone[rows])
        assert (cosine >= 1 - 1e-5).all()


def test_no_texts_give_no_vectors(encoder):
    assert encoder.tokenize([], "query") == []
    assert encoder.infer([]).shape == (0, 16)


def test_the_role_chooses_the_prompt(encoder):
    (query,), (passage,) = encoder.tokenize(["x"], "query"), encoder.tokenize(["x"], "passage")
    decode = encoder.tokenizer.decode
    assert decode(query.ids.tolist()) == "query: x"
    assert decode(passage.ids.tolist()) == "passage: x"


@pytest.mark.parametrize("text", ["a\0b", "\0", "\ud800", "ok \udfff"])
def test_what_is_not_text_is_refused_and_the_next_call_is_fine(encoder, text):
    with pytest.raises(InvalidInput, match=r"the text holds a (NUL|lone surrogate)") as refused:
        encoder.tokenize(["fine", text], "query")
    assert refused.value.pointer == "/1"
    assert encoder.tokenize(["fine"], "query")


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=300))
def test_truncation_keeps_what_the_library_would(encoder, text):
    library = Tokenizer.from_str(encoder.tokenizer.to_str())
    whole = library.encode("query: " + text)
    library.enable_truncation(encoder.max_tokens)
    (tokens,) = encoder.tokenize([text], "query")
    assert tokens.ids.tolist() == library.encode("query: " + text).ids
    assert tokens.truncated == (len(whole) > encoder.max_tokens)


def test_the_limits_that_a_tokenizer_brings_along_do_not_count(encoder):
    assert build_tokenizer().truncation["max_length"] == 8
    (tokens,) = encoder.tokenize(["longer than eight bytes"], "query")
    assert len(tokens) == 2 + len("query: longer than eight bytes")
    assert not tokens.truncated
    (tokens,) = encoder.tokenize(["x" * 10_000], "query")
    assert len(tokens) == 128
    assert tokens.truncated
    assert tokens.ids[-1] == 2  # </s> stays


def test_the_room_is_what_prompt_and_special_tokens_leave(encoder):
    room = encoder.room("passage")
    assert room == 128 - 2 - len("passage: ")
    fits, not_quite = encoder.tokenize(["x" * room, "x" * (room + 1)], "passage")
    assert not fits.truncated
    assert not_quite.truncated


def trained(kind: str) -> Tokenizer:
    """A small tokenizer of each family that multilingual encoders use."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    elif kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=400, special_tokens=special, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(PROBE_TEXTS.values(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def long_text(language: str, *, characters: int) -> str:
    """Text with the letters and spaces of a language, in no order; one endless word in some."""
    return "".join(random.Random(language).choices(PROBE_TEXTS[language], k=characters))


@pytest.fixture(scope="module", params=["unigram", "wordpiece", "bytes"])
def of_each_family(request, tmp_path_factory) -> Encoder:
    bundle = build_tiny_bundle(
        tmp_path_factory.mktemp(request.param), tokenizer=trained(request.param), max_tokens=64
    )
    return Encoder.open(bundle, threads=1)


@pytest.mark.parametrize("language", PROBE_TEXTS)
def test_the_character_cap_does_not_change_the_kept_tokens(of_each_family, language):
    reference = Tokenizer.from_str(of_each_family.tokenizer.to_str())
    last = LAST_CAP * (64 + MARGIN)
    texts = [
        long_text(language, characters=20_000),
        PROBE_TEXTS[language] * 500,
        " \n" * 2_000 + long_text(language, characters=2_000),
    ]
    for tokens, text in zip(of_each_family.tokenize(texts, "passage"), texts, strict=True):
        reference.no_truncation()
        whole = reference.encode(text)
        reference.enable_truncation(64)
        assert tokens.ids.tolist() == reference.encode(text).ids
        # One endless word is a single <unk> to WordPiece, which nothing cuts but the last cap.
        assert tokens.truncated == (len(whole) > 64 or len(text) > last)


def test_a_text_that_only_the_last_cap_cuts_is_reported(tmp_path):
    bundle = build_tiny_bundle(tmp_path, tokenizer=trained("wordpiece"), max_tokens=64)
    encoder = Encoder.open(bundle, threads=1)
    first, last = FIRST_CAP * (64 + MARGIN), LAST_CAP * (64 + MARGIN)
    flood, enough = encoder.tokenize([" " * last + "river", " " * first + "river"], "query")
    assert flood.truncated
    assert len(flood) == 2  # nothing but the special tokens is left
    assert not enough.truncated
    assert len(enough) > 2


def sealed(bundle: Bundle, **changes) -> Bundle:
    """Seal the folder again after a change to its files or its declaration."""
    manifest = bundle.manifest
    fields = {
        name: getattr(manifest, name)
        for name in ("name", "version", "dimension", "max_tokens", "pooling", "prompts")
    }
    fields |= {"precisions": manifest.precisions, "provenance": PROVENANCE}
    return write_bundle(bundle.folder, **fields | changes)


@pytest.fixture
def own(tmp_path) -> Bundle:
    """A bundle that a test may damage."""
    return build_tiny_bundle(tmp_path / "own")


@pytest.mark.parametrize("data", [b"", b"{}", b"{", b'{"model": {"type": "Evil"}}'])
def test_a_tokenizer_that_is_none_is_an_invalid_bundle(own, data):
    (own.folder / "tokenizer.json").write_bytes(data)
    with pytest.raises(BundleInvalid, match=r"tokenizer.json: "):
        Encoder.open(sealed(own), threads=1)


@pytest.mark.parametrize(
    ("there", "taken"),
    [(("int8", "fp32"), "fp32"), (("int8", "fp16"), "fp16"), (("int8",), "int8")],
)
def test_without_a_precision_the_fullest_of_the_bundle_is_taken(tmp_path, there, taken):
    bundle = build_tiny_bundle(tmp_path / "b", precisions=there)
    assert Encoder.open(bundle, threads=1).precision == bundle.manifest.fullest == taken


def test_a_precision_that_the_bundle_lacks_is_a_wrong_setting(own):
    with pytest.raises(ConfigurationError, match=r"ISOGLOSS_PRECISION is int8, .* has only fp32"):
        Encoder.open(own, precision="int8", threads=1)


def test_a_prompt_without_room_for_text_is_an_invalid_bundle(own):
    assert Encoder.open(sealed(own, prompts={"query": "q" * 125}), threads=1).room("query") == 1
    with pytest.raises(BundleInvalid, match="prompt of query leaves no room in 128 tokens"):
        Encoder.open(sealed(own, prompts={"query": "q" * 126}), threads=1)


def with_table(bundle: Bundle, table: np.ndarray) -> Encoder:
    (bundle.folder / "model.onnx").write_bytes(fp32_model(table).SerializeToString())
    return Encoder.open(sealed(bundle), threads=1)


def test_a_graph_that_gives_nan_is_refused_by_its_probes(own):
    table = np.random.default_rng(0).standard_normal((260, 16), dtype=np.float32)
    table[4:] = np.nan
    encoder = with_table(own, table)
    with pytest.raises(BundleInvalid, match=r"probes.npz: .*cosine nan"):
        encoder.verify_probes()


def test_a_graph_that_gives_zeros_is_off_unit_norm(own):
    with pytest.raises(BundleInvalid, match=r"probes.npz: fp32 vectors are off unit norm by 1"):
        with_table(own, np.zeros((260, 16), dtype=np.float32)).verify_probes()


def test_another_model_than_the_probes_saw_is_refused_with_text_and_cosine(own):
    table = np.random.default_rng(5).standard_normal((260, 16), dtype=np.float32)
    with pytest.raises(BundleInvalid, match=r"text 0 \(en\) has cosine -?0\.\d+ .* needs 0.9999"):
        with_table(own, table).verify_probes()


@pytest.mark.parametrize(
    ("texts", "vectors", "reason"),
    [
        ([], np.zeros((0, 16)), "no texts"),
        (["a"], np.full((1, 16), np.nan), "has cosine nan"),
        (["\0a"], np.eye(1, 16), "NUL"),
    ],
)
def test_probes_that_prove_nothing_are_refused(own, texts, vectors, reason):
    count = len(texts)
    probes = Probes(texts, ["query"] * count, ["en"] * count, {"fp32": vectors})
    probes.save(own.folder / "probes.npz")
    with pytest.raises(BundleInvalid, match=rf"probes.npz: .*{reason}"):
        Encoder.open(sealed(own), threads=1).verify_probes()


def test_a_table_smaller_than_the_vocabulary_fails_the_probes(own):
    with pytest.raises(BundleInvalid, match=r"probes.npz: .*batch of shape"):
        with_table(own, np.ones((10, 16), dtype=np.float32)).verify_probes()


def test_a_graph_that_loses_rows_is_refused(own):
    model = fp32_model(np.ones((260, 16), dtype=np.float32))
    model.graph.node[-1].output[0] = "all"
    model.graph.node.append(
        helper.make_node("Slice", ["all", "zero", "one_row"], ["sentence_embedding"])
    )
    model.graph.initializer.append(helper.make_tensor("zero", TensorProto.INT64, [1], [0]))
    model.graph.initializer.append(helper.make_tensor("one_row", TensorProto.INT64, [1], [1]))
    (own.folder / "model.onnx").write_bytes(model.SerializeToString())
    encoder = Encoder.open(sealed(own), threads=1)
    with pytest.raises(EngineFailure, match=r"2 texts gave vectors of shape \(1, 16\)"):
        encoder.infer(encoder.tokenize(["a", "b"], "query"))


def test_a_bundle_that_moved_keeps_its_space_and_vectors(own, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(own.folder, moved)
    here, there = (Encoder.open(Bundle.open(place), threads=1) for place in (own.folder, moved))
    assert here.space == there.space
    texts = list(PROBE_TEXTS.values())
    np.testing.assert_array_equal(
        here.infer(here.tokenize(texts, "query")), there.infer(there.tokenize(texts, "query"))
    )


def test_two_seeds_give_unrelated_spaces(own, tmp_path):
    other = Encoder.open(build_tiny_bundle(tmp_path / "other", seed=1), threads=1)
    mine = Encoder.open(own, threads=1)
    texts = list(PROBE_TEXTS.values())
    tokens = mine.tokenize(texts, "query")
    assert mine.space != other.space
    assert np.abs(np.einsum("nd,nd->n", mine.infer(tokens), other.infer(tokens))).max() < 0.9


def test_encoders_of_the_same_pieces_read_them_once_and_others_their_own(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.normalizer = normalizers.Lowercase()
    kinds = {"a": {"seed": 1}, "b": {"seed": 2}, "c": {"tokenizer": tokenizer}}
    bundles = [build_tiny_bundle(tmp_path / name, **kind) for name, kind in kinds.items()]
    first, second, other = (Encoder.open(bundle, threads=1) for bundle in bundles)
    assert first.tokenizer is second.tokenizer
    assert other.tokenizer is not first.tokenizer
    first.close()
    second.verify_probes()


def test_a_text_without_any_token_is_refused(tmp_path):
    tokenizer = trained("wordpiece")
    tokenizer.post_processor = processors.Sequence([])
    encoder = Encoder.open(build_tiny_bundle(tmp_path, tokenizer=tokenizer), threads=1)
    with pytest.raises(InvalidInput, match="the text has no token"):
        encoder.tokenize(["river", " "], "query")
    (tokens,) = encoder.tokenize(["river " * 500], "query")
    assert len(tokens) == encoder.max_tokens


def test_a_tokenizer_that_fails_on_a_text_fails_the_call(tmp_path):
    model = models.WordLevel({"the": 0, "[PAD]": 1}, unk_token="[UNK]")  # and no [UNK]
    tokenizer = Tokenizer(model)
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode("river")
    bundle = build_tiny_bundle(tmp_path / "tiny")
    encoder = Encoder.open(bundle, threads=1)
    encoder.tokenizer = tokenizer
    with pytest.raises(EngineFailure, match=r"tokenizer.json: .*UNK"):
        encoder.tokenize(["river"], "query")


def test_a_closed_encoder_fails_instead_of_embedding(own):
    encoder = Encoder.open(own, threads=1)
    tokens = encoder.tokenize(["x"], "query")
    encoder.close()
    with pytest.raises(EngineFailure, match="closed"):
        encoder.infer(tokens)


def test_tokens_of_any_length_may_be_inferred_together(encoder):
    tokens = [Tokens(np.full(length, 40, dtype=np.int64)) for length in (1, 100, 7)]
    vectors = encoder.infer(tokens)
    np.testing.assert_allclose(vectors @ vectors.T, 1, atol=1e-5)  # one token is the mean of many


@given(st.integers(1, 16))
def test_a_cut_vector_has_unit_length_and_the_same_direction(dimension):
    vectors = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    short = cut(vectors, dimension)
    assert short.shape == (5, dimension)
    assert short.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    along = np.einsum("nd,nd->n", short, vectors[:, :dimension])
    np.testing.assert_allclose(along, np.linalg.norm(vectors[:, :dimension], axis=1), rtol=1e-5)


@pytest.mark.parametrize("dimension", [0, -1, 17])
def test_a_dimension_that_the_vectors_do_not_have_is_refused(dimension):
    with pytest.raises(InvalidInput, match=f"dimensions is {dimension}, the vectors have 16"):
        cut(np.ones((1, 16), dtype=np.float32), dimension)


def test_cutting_a_vector_of_zeros_gives_zeros():
    assert not cut(np.zeros((1, 4), dtype=np.float32), 2).any()
