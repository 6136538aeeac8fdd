import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, models

from tests.training.samplers.corpora import LANGUAGES, corpus_of, parallel, stage_of
from tests.training.word_fixtures import small_encoder, word_tokenizer
from training.views import BatchSource
from training.vocabulary import Pieces

COUNT = 40
PAD, START, END, MASK = 0, 2, 3, 4
PROMPTS = {"query": "ask: ", "passage": "read: "}
SENTENCES = {"kind": "cross", "roles": ["sentence", "sentence"]}


def some(count=COUNT):
    """Groups whose texts have one to four words."""
    return [{code: " ".join([f"w{i}"] * (1 + i % 4)) for code in LANGUAGES} for i in range(count)]


@pytest.fixture(scope="module")
def corpus():
    return corpus_of(
        a={
            "query": some(),
            "passage": some(),
            "sentence": some(),
            "negatives": [[(i + 1) % COUNT, (i + 2) % COUNT] for i in range(COUNT)],
            "targets": {"query": [i if i % 2 else -1 for i in range(COUNT)]},
        }
    )


@pytest.fixture(scope="module")
def pieces(corpus):
    words = {word for text in corpus.texts for word in text.split()} | {"ask:", "read:"}
    return Pieces.of(word_tokenizer(sorted(words)), 16)


@pytest.fixture(scope="module")
def encoder(pieces):
    return small_encoder(pieces.size, hidden=16, layers=1, seed=1, dropout=0.1)


@pytest.fixture
def source(corpus, pieces, encoder):
    def build(*batches, process=0, processes=1, prompts=None, targets=None, **changes):
        return BatchSource(
            corpus,
            pieces,
            stage_of(*batches, **changes),
            seed=[1, 2],
            prompts=PROMPTS if prompts is None else prompts,
            targets=targets,
            device=torch.device("cpu"),
            process=process,
            processes=processes,
            encoder=encoder,
            data_folder=Path(),
        )

    return build


def decoded(pieces, view):
    tokens = [
        [pieces.tokenizer.id_to_token(i) for i, kept in zip(ids, mask, strict=True) if kept]
        for ids, mask in zip(view.ids.tolist(), view.mask.tolist(), strict=True)
    ]
    return [" ".join(row[1:-1]) for row in tokens]


def test_a_view_holds_the_texts_with_the_prompt_of_their_role(corpus, pieces, source):
    batch = source({"kind": "cross", "negatives": 2}).batch(0)
    table = corpus.sets["a"].texts
    assert batch.views.keys() == {"query", "positive", "negative0", "negative1"}
    for name, view in batch.views.items():
        role = "query" if name == "query" else "passage"
        assert batch.facts.groups[name].shape == (len(batch),)
        for row, text in enumerate(decoded(pieces, view)):
            group = int(batch.facts.groups[name][row])
            prompt = PROMPTS[role]
            assert text in {prompt + corpus.texts[i] for i in table[role][group]}
            key = int(batch.facts.keys[name][row])
            assert prompt + corpus.texts[key] == text  # here the key of a text is its number


def test_sentences_have_the_prompt_of_queries(pieces, source):
    batch = source(SENTENCES).batch(0)
    assert all(
        text.startswith("ask: sentence")
        for view in batch.views.values()
        for text in decoded(pieces, view)
    )


def test_every_view_is_padded_to_its_own_longest_text(source):
    batch = source({"kind": "mono"}).batch(0)
    for view in batch.views.values():
        assert int(view.mask.sum(1).max()) == view.ids.shape[1]
        assert view.ids[view.mask == 0].eq(PAD).all()
        assert view.ids[:, 0].eq(START).all()
        assert view.ids.gather(1, view.mask.sum(1, keepdim=True) - 1).eq(END).all()


def rows_of(view):
    """What is not padding, row by row."""
    found = []
    for row, mask in enumerate(view.mask.tolist()):
        length = sum(mask)
        extra = {
            name: (
                value[row, :length].tolist()
                if value.dim() > 1 and value.shape[1] == view.ids.shape[1]
                else value[row].tolist()
            )
            for name, value in view.extra.items()
        }
        found.append((view.ids[row, :length].tolist(), extra))
    return found


EAR = {"method": "ear", "perturber": {"kind": "noise"}}
STAGES = {
    "cross": ([{"kind": "cross", "negatives": 1}], {"token_dropout": 0.3}),
    "bridged": ([{"kind": "bridged", "negatives": 1}], {"methods": [{"method": "clear"}]}),
    "taught": ([SENTENCES, {"kind": "mono"}], {"methods": [{"method": "distillation"}]}),
    "ear": ([{"kind": "mono"}], {"methods": [EAR], "token_dropout": 0.2}),
    "words": ([{"kind": "words", "stop_words": 0}], {"methods": [{"method": "ml_ctl"}]}),
    "translation": ([{"kind": "translation"}], {"methods": [{"method": "weam"}]}),
}


@pytest.mark.parametrize(
    ("name", "processes"), [*((name, 2) for name in STAGES), ("ear", 4), ("ear", 8)]
)
def test_processes_together_see_the_rows_and_facts_of_one(corpus, source, name, processes):
    batches, changes = STAGES[name]
    targets = None
    if name == "taught":
        corpus.sets["a"].targets["sentence"] = np.arange(COUNT, dtype=np.int32)
        targets = torch.rand(COUNT, 6)
    one = source(*batches, targets=targets, **changes)
    many = [
        source(*batches, targets=targets, process=number, processes=processes, **changes)
        for number in range(processes)
    ]
    shared = 0
    for step in range(10):
        whole = one.batch(step)
        parts = [each.batch(step) for each in many]
        assert [len(part) for part in parts] == [len(whole) // processes] * processes
        if len(whole) % processes:
            continue  # some rows are trimmed; the other batches are the very same
        shared += 1
        for view in whole.views:
            rows = rows_of(whole.views[view])
            for number, part in enumerate(parts):
                assert rows_of(part.views[view]) == rows[number::processes]
                assert part.facts.groups[view].tolist() == whole.facts.groups[view].tolist()
                assert part.facts.keys[view].tolist() == whole.facts.keys[view].tolist()
    assert shared >= 5


@settings(max_examples=8, deadline=None)
@given(dealt=st.integers(0, 12), name=st.sampled_from(["cross", "ear", "bridged"]))
def test_a_source_that_seeks_goes_on_like_the_one_that_dealt(request, dealt, name):
    source = request.getfixturevalue("source")
    batches, changes = STAGES[name]
    one, other = source(*batches, **changes), source(*batches, **changes)
    for step in range(dealt):
        one.batch(step)
    other.seek(json.loads(json.dumps(one.position)))
    for step in range(dealt, dealt + 4):
        first, second = one.batch(step), other.batch(step)
        assert first.kind == second.kind
        for view in first.views:
            assert rows_of(first.views[view]) == rows_of(second.views[view])


def test_dropout_of_pieces_masks_its_share_and_spares_special_ones(source):
    stage = {"rows": 32, "token_dropout": 0.25}
    plain, dropped = source({"kind": "mono"}, rows=32), source({"kind": "mono"}, **stage)
    hit = total = 0
    for step in range(40):
        before, after = plain.batch(step).views["query"], dropped.batch(step).views["query"]
        special = before.ids <= MASK
        assert (before.ids == after.ids)[special].all()
        changed = before.ids != after.ids
        assert after.ids[changed].eq(MASK).all()
        hit, total = hit + int(changed.sum()), total + int((~special).sum())
    assert hit / total == pytest.approx(0.25, abs=0.03)


def test_dropout_without_a_mask_piece_names_the_knob(corpus, encoder):
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(ValueError, match=r"token_dropout = 0.1 needs a mask piece"):
        BatchSource(
            corpus,
            Pieces.of(tokenizer, 8),
            stage_of({"kind": "mono"}, token_dropout=0.1),
            seed=[1],
            prompts={},
            targets=None,
            device=torch.device("cpu"),
            process=0,
            processes=1,
            encoder=encoder,
            data_folder=Path(),
        )


def test_a_row_has_the_teachers_vector_of_its_group_or_zero(corpus, source):
    targets = torch.arange(1.0, COUNT + 1).unsqueeze(1).half()
    both = [{"method": "distillation"}, {"method": "info_nce"}]
    batch = source({"kind": "mono"}, targets=targets, methods=both).batch(0)
    groups = batch.facts.groups["query"]
    expected = torch.where(groups % 2 == 1, groups + 1.0, 0.0)
    assert batch.views["query"].extra["target"].squeeze(1).tolist() == expected.tolist()
    assert batch.views["query"].extra["target"].dtype == torch.float32
    assert batch.views["positive"].extra["target"].eq(0).all()  # passages are not taught here


def test_targets_are_left_where_nothing_is_distilled(source):
    batch = source({"kind": "mono"}, targets=torch.ones(COUNT, 3)).batch(0)
    assert batch.views["query"].extra == {}


def test_distillation_without_a_teacher_is_refused(source):
    with pytest.raises(ValueError, match="distillation needs the teacher's vectors"):
        source({"kind": "mono"}, methods=[{"method": "distillation"}])


def test_perturbed_views_bring_the_facts_of_what_they_are_copies_of(source):
    batch = source({"kind": "mono"}, methods=[EAR]).batch(0)
    assert {"perturbed_query", "perturbed_positive"} <= batch.views.keys()
    for name in ("query", "positive"):
        for facts in (batch.facts.groups, batch.facts.keys):
            assert facts[f"perturbed_{name}"].tolist() == facts[name].tolist()


@pytest.mark.parametrize("kind", ["words", "translation"])
def test_dropout_is_refused_for_batches_that_mask_by_themselves(kind):
    method = {"words": "ml_ctl", "translation": "weam"}[kind]
    with pytest.raises(ValidationError, match=rf"token_dropout = 0.1 is not for '{kind}'"):
        stage_of({"kind": kind}, methods=[{"method": method}], token_dropout=0.1)


def test_rows_without_linked_words_are_left_out_and_counted(source):
    words = {"kind": "words", "stop_words": 40}
    found = source(words, methods=[{"method": "ml_ctl"}])
    assert 0 < found.left_out["words a"] < 3 * COUNT
    assert len(found.batch(0)) >= 2


@pytest.mark.parametrize("name", ["words", "translation"])
def test_word_views_come_with_facts_for_each_of_them(source, name):
    batches, changes = STAGES[name]
    batch = source(*batches, **changes).batch(0)
    assert batch.facts.groups.keys() == batch.facts.keys.keys() == batch.views.keys()
    assert len(set(batch.facts.groups[next(iter(batch.views))].tolist())) == len(batch)


def test_languages_and_sets_that_are_not_dealt_are_not_tokenised(pieces, encoder):
    long = [dict.fromkeys(LANGUAGES, "w1 " * 9)] * 9
    corpus = corpus_of(a={"sentence": parallel(9)}, b={"sentence": long})
    source = BatchSource(
        corpus,
        pieces,
        stage_of({**SENTENCES, "languages": ["en", "de"]}),
        seed=[1],
        prompts={},
        targets=None,
        device=torch.device("cpu"),
        process=0,
        processes=1,
        encoder=encoder,
        data_folder=Path(),
    )
    assert len(source._table.lengths) == 18
