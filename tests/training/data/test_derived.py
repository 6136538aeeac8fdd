import pytest

from tests.training.text_fixtures import recipe_of, write
from training.corpus import NOTHING
from training.data import read_corpus
from training.readers import DataInvalid

PAIRS = {"format": "tsv", "path": "en-*.tsv"}


@pytest.fixture
def folder(tmp_path):
    for language in ("de", "zh"):
        rows = [f"english {i}\t{language}{i}\t{'ab'[i % 2]}" for i in range(40)]
        write(tmp_path / f"en-{language}.tsv", "english\tforeign\tsource", *rows)
    return tmp_path


def derived(folder, settings, **options):
    corpus = read_corpus(folder, recipe_of({"p": PAIRS, "d": {"of": "p", **settings}}, **options))
    return corpus, corpus.sets["d"]


def texts_of(corpus, table, role, group):
    row = table.texts[role][group]
    return {corpus.languages[i]: corpus.texts[t] for i, t in enumerate(row) if t != NOTHING}


def test_a_joined_text_is_taught_the_mean_of_its_sentences(folder):
    corpus, table = derived(folder, {"format": "joined", "rows": 30, "sentences": 4})
    assert len(table) == 30
    lengths = set()
    for group in range(30):
        texts = texts_of(corpus, table, "sentence", group)
        parts = [corpus.texts[t] for t in corpus.targets[table.targets["sentence"][group]]]
        numbers = [part.removeprefix("english ") for part in parts]
        assert texts.pop("en") == " ".join(parts)
        (language, foreign), *none = texts.items()
        assert not none
        gap = "" if language == "zh" else " "
        assert foreign == gap.join(f"{language}{number}" for number in numbers)
        assert len({int(number) % 2 for number in numbers}) == 1  # all of one source
        lengths.add(len(parts))
    assert lengths == {2, 3, 4}


def test_a_cloze_question_is_a_sentence_of_its_passage_in_both_languages(folder):
    corpus, table = derived(folder, {"format": "cloze", "rows": 20, "sentences": 3})
    for group in range(20):
        query = texts_of(corpus, table, "query", group)
        passage = texts_of(corpus, table, "passage", group)
        assert query.keys() == passage.keys()
        assert all(query[language] in passage[language] for language in query)
        [own] = corpus.targets[table.targets["query"][group]]
        assert corpus.texts[own] == query["en"]
        assert own in corpus.targets[table.targets["passage"][group]]
        assert len(corpus.targets[table.targets["passage"][group]]) >= 2


def test_joined_texts_get_fewer_sentences_rather_than_half_ones(folder):
    settings = {"format": "joined", "rows": 20, "sentences": 8}
    corpus, table = derived(folder, settings, max_characters=35)
    for group in range(20):
        parts = corpus.targets[table.targets["sentence"][group]]
        texts = texts_of(corpus, table, "sentence", group)
        assert len(texts["en"]) <= 35
        assert texts["en"] == " ".join(corpus.texts[part] for part in parts)
    corpus, table = derived(folder, settings, max_characters=12)
    assert {len(texts_of(corpus, table, "sentence", g)["en"]) for g in range(20)} == {12}


def test_a_derived_set_does_not_depend_on_the_others(folder):
    settings = {"format": "joined", "rows": 9, "sentences": 3}
    corpus, table = derived(folder, settings)
    sets = {"p": PAIRS, "a": {**settings, "of": "p"}, "d": {**settings, "of": "p"}}
    more = read_corpus(folder, recipe_of(sets))
    same = [
        texts_of(corpus, table, "sentence", g) == texts_of(more, more.sets["d"], "sentence", g)
        for g in range(9)
    ]
    assert all(same)
    assert len(more.sets["a"]) == 9
    assert any(
        texts_of(more, more.sets["a"], "sentence", g) != texts_of(corpus, table, "sentence", g)
        for g in range(9)
    )


def test_too_few_pairs_name_the_key(folder):
    with pytest.raises(DataInvalid, match=r"data\.sets\.d\.sentences = 21: .* of 'p'"):
        derived(folder, {"format": "joined", "rows": 1, "sentences": 21})
