import pytest
import torch

from tests.training.alignment.synthetic_pairs import synthetic_pairs
from tests.training.word_fixtures import letter_pieces, small_encoder
from training.alignment.states import StatesAligner
from training.config.aligners import States
from training.metrics import error_rate


def bilingual(words, *, max_tokens=64):
    """An encoder whose embeddings of sK, tK and tKa are alike, and unlike all others."""
    whole = sorted(words)
    pieces = letter_pieces(max_tokens, whole=whole)
    encoder = small_encoder(pieces.size, hidden=64)
    table = encoder.backbone.get_submodule("embeddings").word_embeddings.weight
    meanings = {word: int("".join(c for c in word if c.isdigit())) for word in whole}
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1 + max(meanings.values()), 64, generator=generator)
    with torch.no_grad():
        for word, meaning in meanings.items():
            here = pieces.tokenizer.token_to_id(word)
            kind = torch.randn(64, generator=generator)
            table[here] = vectors[meaning] + 0.3 * kind
    return encoder, pieces


def test_words_with_like_states_are_linked_and_the_error_rate_is_small() -> None:
    pairs, gold = synthetic_pairs(60, seed=1, words=60)
    words = {word for pair in pairs for side in pair for word in side}
    words = {word for word in words if not word.startswith(("the", "le"))}
    encoder, pieces = bilingual(words)
    found = StatesAligner(States(kind="states", layer=0), encoder, pieces).align(pairs)
    rate = error_rate(found, gold)
    print(rate)
    assert rate < 0.15


def test_links_are_mutual_and_at_least_as_similar_as_asked() -> None:
    encoder, pieces = bilingual({"s1", "s2", "t1", "t2"})
    pair = (["s1", "s2", "s1"], ["t2", "t1"])
    for layer in (0, 2):
        loose = States(kind="states", layer=layer, min_cosine=-1.0)
        links = StatesAligner(loose, encoder, pieces).align([pair])[0]
        assert len({i for i, _ in links}) == len({j for _, j in links}) == len(links) > 0
    assert ((1, 0) in links) or layer
    strict = States(kind="states", layer=0, min_cosine=1.0)
    assert StatesAligner(strict, encoder, pieces).align([pair]) == [()]


def test_a_word_is_the_mean_of_its_pieces() -> None:
    pieces = letter_pieces()
    encoder = small_encoder(pieces.size)
    aligner = StatesAligner(States(kind="states", layer=1), encoder.eval(), pieces)
    vector = aligner._words([["ab", "cde"]])[0][1]
    ids = torch.tensor([pieces.tokenizer.encode("ab cde").ids])
    states = encoder.backbone(input_ids=ids, output_hidden_states=True).hidden_states[1]
    expected = torch.nn.functional.normalize(states[0, 3:6].mean(0), dim=-1)
    assert torch.allclose(vector, expected, atol=1e-6)


def test_dropout_is_off_and_the_encoder_trains_on() -> None:
    pieces = letter_pieces()
    encoder = small_encoder(pieces.size, dropout=0.5).train()
    aligner = StatesAligner(States(kind="states", layer=2), encoder, pieces)
    pairs = [(["ab", "cd"], ["ef", "gh", "i"])] * 3
    first = aligner.align(pairs)
    assert first == aligner.align(pairs)
    assert first[0] == first[1]
    assert encoder.training


def test_words_beyond_the_length_limit_and_empty_sides_have_no_links() -> None:
    encoder, pieces = bilingual({"s1", "s2", "t1", "t2"}, max_tokens=3)
    aligner = StatesAligner(States(kind="states", layer=0, min_cosine=-1.0), encoder, pieces)
    assert aligner.align([(["s1", "s2"], ["t1", "t2"]), ([], ["t1"]), (["s1"], [])]) == [
        ((0, 0),),
        (),
        (),
    ]


def test_a_layer_that_is_not_there_is_refused() -> None:
    pieces = letter_pieces()
    with pytest.raises(ValueError, match="layer = 3, and the encoder has 2"):
        StatesAligner(States(kind="states", layer=3), small_encoder(pieces.size), pieces)
