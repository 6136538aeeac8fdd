"""The three perturbers: how often they change what, and what they leave alone."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F  # noqa: N812

from tests.training.word_fixtures import small_encoder, word_tokenizer
from training.batch import View
from training.config.methods import Ear
from training.corpus import Corpus
from training.methods.ear import EarMethod
from training.model import SentenceEncoder
from training.perturbation import (
    NO_WORD,
    Perturbation,
    TableInvalid,
    expected_length,
    perturb,
    read_synonyms,
)
from training.vocabulary import Pieces

WIDTH = 16
WORDS = ["a", "big", "cat", "sat", "huge", "large", "##st", "on", "mat", "query:", "The", "the"]
TEXTS = ["a big cat", "a biggest big mat", "cat", "the  cat\nsat on the mat"]
TABLE = "big\tlarge huge\ncat\t\nmat\tbiggest\n"


def the_pieces(*, max_tokens: int = 32) -> Pieces:
    return Pieces.of(word_tokenizer([*WORDS, "##ge"], model=models.WordPiece), max_tokens)


@pytest.fixture
def encoder() -> SentenceEncoder:
    shape = {"intermediate_size": 16, "max_position_embeddings": 32, "initializer_range": 0.5}
    return small_encoder(20, hidden=WIDTH, seed=4, dropout=0.1, **shape).train()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "synonyms.tsv").write_text(TABLE, "utf-8")
    return tmp_path


def a_corpus(texts: list[str]) -> Corpus:
    numbers = np.arange(len(texts))
    return Corpus(texts, np.zeros(len(texts), np.int64), numbers, ["en"], {}, [], [], {})


def a_view(texts: list[str], pieces: Pieces, prompt: str = "", *, longer: int = 0) -> View:
    rows = pieces.encode([prompt + text for text in texts])
    ids = torch.zeros(len(rows), max(map(len, rows)) + longer, dtype=torch.int64)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = torch.from_numpy(own.astype(np.int64))
    return View(ids, (ids != pieces.pad).long())


def perturbed(
    perturber: dict[str, object],
    encoder: SentenceEncoder,
    folder: Path,
    *,
    texts: list[str] = TEXTS,
    seed: int = 1,
    prompt: str = "",
    strict: bool = False,
    pieces: Pieces | None = None,
    longer: int = 0,
) -> dict[str, View]:
    pieces = pieces or the_pieces()
    settings = Ear.model_validate({"method": "ear", "perturber": perturber, "strict": strict})
    made = Perturbation(settings, a_corpus(texts), pieces, encoder, data_folder=folder)
    view = a_view(texts, pieces, prompt, longer=longer)
    numbers = np.arange(len(texts))
    return made.views(
        {"query": view, "positive": view},
        {"query": numbers, "positive": numbers},
        np.random.default_rng(seed),
        prompts={"query": prompt, "positive": prompt},
    )


SYNONYMS = {"kind": "synonyms", "path": "synonyms.tsv"}
NEIGHBOURS = {"kind": "neighbours", "share": 0.5, "count": 3}
NOISE = {"kind": "noise", "radius": 0.2}


@pytest.mark.parametrize("perturber", [SYNONYMS, NEIGHBOURS, NOISE])
def test_the_same_generator_gives_the_same_copies_and_another_one_others(
    perturber: dict[str, object], encoder: SentenceEncoder, folder: Path
) -> None:
    one, same, other = (
        perturbed(perturber, encoder, folder, seed=seed, texts=TEXTS * 4) for seed in (1, 1, 2)
    )
    assert set(one) == {"query", "positive", "perturbed_query", "perturbed_positive"}
    for name in ("perturbed_query", "perturbed_positive"):
        assert torch.equal(one[name].ids, same[name].ids)
        if "noise" in one[name].extra:
            assert torch.equal(one[name].extra["noise"], same[name].extra["noise"])
            assert not torch.equal(one[name].extra["noise"], other[name].extra["noise"])
        else:
            assert not torch.equal(one[name].ids, other[name].ids)


@pytest.mark.parametrize("perturber", [SYNONYMS, NEIGHBOURS, NOISE])
def test_the_encoders_own_random_numbers_stay_as_they_were(
    perturber: dict[str, object], encoder: SentenceEncoder, folder: Path
) -> None:
    before = torch.get_rng_state()
    perturbed(perturber, encoder, folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert encoder.training
    assert encoder.backbone.embeddings.training


def test_a_word_is_drawn_from_itself_and_its_neighbours_alike() -> None:
    table = {"big": ("large", "huge"), "cat": ()}
    rng = np.random.default_rng(3)
    drawn = [perturb("a big cat", table, rng).split(" ") for _ in range(3000)]
    assert all(words[0] == "a" and words[2] == "cat" for words in drawn)
    counts = {word: sum(words[1] == word for words in drawn) for word in ("big", "large", "huge")}
    assert sum(counts.values()) == 3000
    assert all(900 < count < 1100 for count in counts.values())  # |N| / (|N| + 1) are replaced


@given(st.text(alphabet="bigcat .,\n", max_size=40), st.integers(0, 2**32))
def test_the_number_of_words_between_spaces_stays(text: str, seed: int) -> None:
    table = {"big": ("large", "huge"), "cat": ("lion",), "i": ("I",)}
    changed = perturb(text, table, np.random.default_rng(seed))
    before, after = text.split(" "), changed.split(" ")
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert other == one or other in table.get(one, ())


def test_words_must_match_exactly() -> None:
    table = {"big": ("large",)}
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert perturb("Big big, (big)", table, rng) == "Big big, (big)"


def test_a_table_is_read_plain_and_packed(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(TABLE, "utf-8")
    with gzip.open(tmp_path / "t.tsv.gz", "wt", encoding="utf-8") as file:
        file.write(TABLE)
    expected = {"big": ("large", "huge"), "cat": (), "mat": ("biggest",)}
    assert read_synonyms(tmp_path / "t.tsv") == read_synonyms(tmp_path / "t.tsv.gz") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"big large\n", r"t.tsv:1: 'big large' is not a word"),
        (b"big\tlarge\n\thuge\n", r"t.tsv:2: 'huge' is not a word"),
        (b"two words\tlarge\n", r"t.tsv:1"),
        (b"cat\t\n", "no word has a neighbour"),
        (b"\xff\tlarge\n", "utf-8"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_place(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(TableInvalid, match=message):
        read_synonyms(tmp_path / "t.tsv")


def test_a_missing_table_is_refused_with_the_recipes_key(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    with pytest.raises(TableInvalid, match=r"synonyms.tsv.*perturber.path"):
        perturbed(SYNONYMS, encoder, tmp_path)


def test_synonyms_number_the_words_of_both_views(encoder: SentenceEncoder, folder: Path) -> None:
    views = perturbed(SYNONYMS, encoder, folder, texts=["a biggest mat"] * 40)
    original, copy = views["query"], views["perturbed_query"]
    # [CLS] a big ##ge ##st mat [SEP], which the vocabulary spells with [UNK] where it cannot
    assert original.extra["words"][0].tolist()[0] == NO_WORD
    for view in (original, copy):
        for words, mask in zip(view.extra["words"], view.mask, strict=True):
            spoken = words[words != NO_WORD]
            assert spoken.unique().tolist() == [0, 1, 2]
            assert int(mask.sum()) == len(spoken) + 2
            assert words[int(mask.sum()) - 1 :].tolist() == [NO_WORD] * (
                len(words) - int(mask.sum()) + 1
            )
    assert len({tuple(row.tolist()) for row in copy.ids}) == 2


def test_words_are_numbered_by_whitespace_whatever_the_tokenizer_does_with_spaces(
    encoder: SentenceEncoder, folder: Path
) -> None:
    letters = {f"▁{letter}": number for number, letter in enumerate("acst", start=6)}
    vocabulary = {piece: n for n, piece in enumerate(["<pad>", "<s>", "</s>", "<unk>", "▁", "a"])}
    vocabulary |= letters | {"c": 10, "t": 11, "s": 12}
    tokenizer = Tokenizer(
        models.Unigram([(piece, -1.0) for piece in vocabulary], unk_id=3, byte_fallback=False)
    )
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    pieces = Pieces.of(tokenizer, 32)
    text = "cat  sat "
    views = perturbed(SYNONYMS, encoder, folder, texts=[text], pieces=pieces)
    words = views["query"].extra["words"][0].tolist()
    shown = [tokenizer.id_to_token(piece) for piece in views["query"].ids[0].tolist()]
    assert shown[:4] == ["<s>", "▁c", "a", "t"]
    assert words[:4] == [NO_WORD, 0, 0, 0]
    inner = dict(zip(range(4, len(shown) - 1), words[4:-1], strict=True))
    assert set(inner.values()) == {1}, (shown, words)


def test_a_prompt_is_numbered_but_never_perturbed(encoder: SentenceEncoder, folder: Path) -> None:
    (folder / "synonyms.tsv").write_text("query:\tcat\nbig\thuge\n", "utf-8")
    texts = ["big big big"] * 8
    prompted = the_pieces().encode(["query: a"])[0][1]
    views = perturbed(SYNONYMS, encoder, folder, texts=texts, prompt="query: ")
    assert (views["perturbed_query"].ids[:, 1] == prompted).all()
    assert not torch.equal(views["perturbed_query"].ids, views["query"].ids)
    assert views["query"].extra["words"][0].tolist() == [-1, 0, 1, 2, 3, -1]
    everything = {**NEIGHBOURS, "share": 1.0}
    views = perturbed(everything, encoder, folder, texts=texts, prompt="query: ")
    assert (views["perturbed_query"].ids[:, 1] == prompted).all()
    assert (views["perturbed_query"].ids[:, 2:5] != views["query"].ids[:, 2:5]).all()


def test_a_text_that_is_cut_keeps_its_end_piece_in_the_copy(
    encoder: SentenceEncoder, folder: Path
) -> None:
    pieces = the_pieces(max_tokens=4)
    views = perturbed(SYNONYMS, encoder, folder, texts=["big a cat mat"] * 6, pieces=pieces)
    for view in (views["query"], views["perturbed_query"]):
        assert view.ids.shape[1] == 4
        assert (view.ids[:, -1] == pieces.end).all()
        assert view.extra["words"].tolist() == [[-1, 0, 1, -1]] * 6


def test_a_view_that_is_not_of_these_texts_is_refused(
    encoder: SentenceEncoder, folder: Path
) -> None:
    pieces = the_pieces()
    settings = Ear.model_validate({"method": "ear", "perturber": SYNONYMS})
    made = Perturbation(settings, a_corpus(TEXTS), pieces, encoder, data_folder=folder)
    views = {name: a_view(TEXTS, pieces, "query: ") for name in ("query", "positive")}
    texts = dict.fromkeys(views, np.arange(len(TEXTS)))
    with pytest.raises(ValueError, match="other numbers of pieces"):
        made.views(views, texts, np.random.default_rng(1))


def test_neighbours_are_the_nearest_by_cosine_and_never_special(
    encoder: SentenceEncoder, folder: Path
) -> None:
    everything = {**NEIGHBOURS, "share": 1.0, "count": 2}
    views = perturbed(everything, encoder, folder, texts=TEXTS * 30, longer=2)
    before, after = views["query"].ids, views["perturbed_query"].ids
    pieces = the_pieces()
    special = torch.isin(before, torch.tensor(sorted(pieces.special)))
    assert torch.equal(before[special], after[special])
    unit = F.normalize(encoder.backbone.embeddings.word_embeddings.weight[: pieces.size], dim=-1)
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-2)
    cosines[:, sorted(pieces.special)] = -2
    nearest = cosines.topk(2).indices
    for old, new in zip(before[~special].tolist(), after[~special].tolist(), strict=True):
        assert new in nearest[old].tolist()
    first = nearest[before[~special], 0] == after[~special]
    assert 0.4 < first.float().mean().item() < 0.6


def test_the_share_says_how_many_pieces_are_replaced(
    encoder: SentenceEncoder, folder: Path
) -> None:
    texts = ["a big cat sat on the mat"] * 300
    views = perturbed({**NEIGHBOURS, "share": 0.3}, encoder, folder, texts=texts)
    changed = views["query"].ids[:, 1:-1] != views["perturbed_query"].ids[:, 1:-1]
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.03)
    none = perturbed({**NEIGHBOURS, "share": 0.0}, encoder, folder, texts=texts)
    assert torch.equal(none["query"].ids, none["perturbed_query"].ids)


def test_more_neighbours_than_pieces_are_refused(encoder: SentenceEncoder, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"12 others; lower perturber.count"):
        perturbed({**NEIGHBOURS, "count": 13}, encoder, folder)


def test_noise_has_the_asked_share_of_the_length_of_what_it_is_added_to(
    encoder: SentenceEncoder, folder: Path
) -> None:
    views = perturbed(NOISE, encoder, folder, texts=TEXTS * 100, longer=3)
    copy = views["perturbed_query"]
    assert torch.equal(copy.ids, views["query"].ids)
    noise, there = copy.extra["noise"], copy.mask.bool()
    assert noise.shape == (*copy.ids.shape, WIDTH)
    assert not noise[~there].any()
    encoder.eval()
    with torch.no_grad():
        lengths = encoder.backbone.embeddings(input_ids=copy.ids).norm(dim=-1)
    shares = (noise.norm(dim=-1) / lengths)[there]
    assert shares.mean().item() == pytest.approx(0.2, abs=0.005)
    clean, noisy = (encoder.encode(views[name], {"embedded"}).embedded for name in ("query", "perturbed_query"))  # fmt: skip
    assert clean is not None
    assert noisy is not None
    torch.testing.assert_close(noisy - clean, noise, rtol=1e-4, atol=1e-5)


def test_noise_does_not_depend_on_padding(encoder: SentenceEncoder, folder: Path) -> None:
    short, long = (perturbed(NOISE, encoder, folder, longer=longer) for longer in (0, 5))
    torch.testing.assert_close(
        long["perturbed_query"].part(slice(None)).extra["noise"],
        short["perturbed_query"].extra["noise"],
    )


@pytest.mark.parametrize("width", [1, 2, 16, 768])
def test_the_expected_length_of_noise_is_that_of_many_draws(width: int) -> None:
    drawn = np.random.default_rng(0).standard_normal((4000, width))
    mean = float(np.linalg.norm(drawn, axis=1).mean())
    assert expected_length(width) == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("perturber", [SYNONYMS, NEIGHBOURS, NOISE])
def test_strictly_both_views_have_one_length_that_no_part_cuts(
    perturber: dict[str, object], encoder: SentenceEncoder, folder: Path
) -> None:
    (folder / "synonyms.tsv").write_text("big\tbiggest\n", "utf-8")
    texts = ["a big big big big cat", "cat"]
    views = perturbed(perturber, encoder, folder, texts=texts, strict=True)
    for name in ("query", "positive"):
        length = views[name].ids.shape[1]
        for view in (views[name], views[f"perturbed_{name}"]):
            part = view.part(slice(1, 2))
            assert view.ids.shape == view.mask.shape == (2, length)
            assert part.ids.shape == (1, length)
            assert part.fixed
            assert all(extra.shape[1] == length for extra in part.extra.values())
    loose = perturbed(perturber, encoder, folder, texts=texts)["query"]
    assert loose.part(slice(1, 2)).ids.shape == (1, 3)


@pytest.mark.parametrize("perturber", [SYNONYMS, NEIGHBOURS, NOISE])
@pytest.mark.parametrize("strict", [False, True])
def test_the_method_reads_what_every_perturber_makes(
    perturber: dict[str, object], encoder: SentenceEncoder, folder: Path, *, strict: bool
) -> None:
    encoder.eval()
    views = perturbed(perturber, encoder, folder, strict=strict)
    method = EarMethod(
        Ear.model_validate({"method": "ear", "strict": strict}), encoder, the_pieces()
    )
    needs = method.needs(frozenset(views))
    rows = method.rows({name: encoder.encode(views[name], needs[name]) for name in needs}, views)
    for name in ("push_query", "pull_query_sum"):
        assert rows[name].shape == (len(TEXTS),)
        assert torch.isfinite(rows[name]).all()
        assert rows[name].sum() > 0
