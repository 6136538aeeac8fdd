"""Where documents are cut."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from service.chunker import LEAST_ROOM, Chunker
from service.types import Document, Span

LINES = [
    "Washing your hands keeps illness away. Use soap, and take your time!",
    "Wer sich die Hände wäscht, wird seltener krank.",
    "Кто моет руки, тот реже болеет. Мыло помогает.",
    "غسل اليدين بالماء والصابون يحمي من المرض. هل تعرف ذلك؟",
    "हाथ धोने से बीमारियाँ दूर रहती हैं। साबुन ज़रूरी है।",
    "手を洗うと病気になりにくい。石けんも使う。",
    "经常洗手可以预防疾病。记得用肥皂！",
    "การล้างมือช่วยป้องกันโรค ใช้สบู่ด้วย",
    "చేతులు కడుక్కుంటే జబ్బులు రావు. సబ్బు వాడాలి.",
    "손을 씻으면 병에 잘 걸리지 않는다. 비누도 쓴다.",
]
ENDS = tuple(".!?؟।。！")
FAMILY = "👩‍👩‍👧‍👦"
FRAMED = processors.TemplateProcessing(
    single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
)
SPECIAL = {"<s>": 0, "</s>": 1, "<unk>": 2}


def characters():
    tokenizer = Tokenizer(models.WordLevel(dict(SPECIAL), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.post_processor = FRAMED
    return tokenizer


def words():
    tokenizer = Tokenizer(models.WordLevel(dict(SPECIAL), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = FRAMED
    return tokenizer


def octets():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(alphabet))}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def unigrams():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=[*SPECIAL], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = FRAMED
    return tokenizer


def greedy_about_words():
    """Makes a token of nothing before every word, so bytes do not bound its tokens."""
    tokenizer = Tokenizer(models.WordLevel(dict(SPECIAL), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"),
        ]
    )
    return tokenizer


TOKENIZERS = {f.__name__: f() for f in (characters, words, octets, unigrams, greedy_about_words)}


def chunker(name="characters", **changed):
    return Chunker(TOKENIZERS[name], **({"max_tokens": 40, "max_characters": 400} | changed))


def cost(name, cutter, text, *, title="", prompt=""):
    heading = cutter.heading(title)
    embedded = f"{prompt}{heading}\n{text}" if heading else prompt + text
    return len(TOKENIZERS[name].encode(embedded))


def pieces(text, spans):
    return [text[span.start : span.end] for span in spans]


def assert_complete(text, spans):
    end = 0
    for span in spans:
        assert not text[end : span.start].strip()
        assert span.start >= end
        assert span.end > span.start or not text.strip()
        end = span.end
    assert not text[end:].strip()


TEXTS = st.lists(
    st.one_of(
        st.sampled_from(LINES),
        st.sampled_from(
            ["\r\n", "\n\n", " ", "\u3000", FAMILY * 3, "x" * 90, "<s>", "ﷺ", "各" * 70]
        ),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    ),
    max_size=12,
).map("".join)
TITLES = st.one_of(st.just(""), st.sampled_from(LINES), st.text(st.characters(exclude_categories=["Cs"]), max_size=80))  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS, title=TITLES, prompt=st.sampled_from(["", "passage: "]))
@settings(max_examples=60, deadline=None)
def test_passages_cover_a_text_in_order_and_each_fits(name, text, title, prompt):
    cutter = chunker(name, max_tokens=64, prompt=prompt)
    spans = cutter.split(text, title=title)
    assert_complete(text, spans)
    for piece in pieces(text, spans):
        assert len(piece) <= 400
        assert cost(name, cutter, piece, title=title, prompt=prompt) <= 64


@given(st.lists(st.builds(Document, id=st.just(""), text=TEXTS, title=TITLES), max_size=6))
@settings(max_examples=30, deadline=None)
def test_many_documents_are_cut_as_each_alone(documents):
    cutter = chunker("unigrams")
    expected = [cutter.split(document.text, title=document.title) for document in documents]
    assert cutter.split_many(documents) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("line", LINES)
def test_a_text_that_fits_is_one_passage_without_the_space_around_it(name, line):
    spans = chunker(name, max_tokens=300).split(f" \n{line}\t ")
    assert spans == [Span(2, 2 + len(line))]


@pytest.mark.parametrize("blank", ["", " ", "\r\n" * 600])
def test_a_blank_text_is_one_empty_passage(blank):
    [span] = chunker().split(blank)
    assert span.start == span.end <= len(blank)


@pytest.mark.parametrize("line", [line for line in LINES if sum(map(line.count, ENDS)) == 2])
def test_a_cut_falls_between_sentences(line):
    cutter = chunker(max_tokens=len(line) + 1)  # one short of the line and its frame
    found = pieces(line, cutter.split(line))
    assert len(found) == 2
    assert all(piece.endswith(ENDS) for piece in found)


def test_thai_is_cut_between_words():
    line = "การล้างมือช่วยป้องกันโรค"  # wash hands, help, protect, from illness
    words_of_it = ["การ", "ล้าง", "มือ", "ช่วย", "ป้องกัน", "โรค"]
    cuts = {sum(map(len, words_of_it[:n])) for n in range(7)}
    for span in chunker(max_tokens=LEAST_ROOM + 2).split(line):
        assert {span.start, span.end} <= cuts


def test_a_paragraph_is_kept_whole_where_it_can_be():
    first, second = "One two. Three four.", "Five six. Seven."
    text = f"{first}\r\n\r\n{second}"
    assert pieces(text, chunker(max_tokens=30).split(text)) == [first, second]


def test_passages_are_filled_up():
    text = "It rains. " * 50
    spans = chunker(max_tokens=42).split(text)
    assert {span.end - span.start for span in spans[:-1]} == {len("It rains. " * 4) - 1}


def test_a_family_is_never_torn_apart():
    text = FAMILY * 30
    for piece in pieces(text, chunker().split(text)):
        assert piece == FAMILY * (len(piece) // len(FAMILY))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_endless_word_is_cut_at_the_limit_on_characters(name):
    text = "a" * 5_000
    spans = chunker(name).split(text)
    assert_complete(text, spans)
    assert max(span.end - span.start for span in spans) <= 400


def test_a_title_takes_room_from_every_passage():
    text = "word " * 75
    cutter = chunker("words")
    assert len(cutter.split(text)) < len(cutter.split(text, title="a title of six short words"))


def test_a_short_title_is_embedded_whole_and_a_long_one_takes_a_quarter():
    cutter = chunker("words")  # 40 tokens, two of them special: a quarter of 38 is nine
    assert cutter.heading("") == ""
    assert cutter.heading("Nine words are not too many for a title") == (
        "Nine words are not too many for a title"
    )
    assert cutter.heading("word " * 500) == ("word " * 9).rstrip()
    assert len(cutter.heading("x" * 10_000)) <= 100


def test_a_prompt_takes_room_too():
    text = "word " * 38
    assert len(chunker("words").split(text)) == 1
    assert len(chunker("words", prompt="passage: ").split(text)) == 2


@pytest.mark.parametrize("setup", ["enable_truncation", "enable_padding"])
def test_a_tokenizer_that_truncates_or_pads_is_refused(setup):
    tokenizer = characters()
    getattr(tokenizer, setup)(**({"max_length": 8} if setup == "enable_truncation" else {}))
    with pytest.raises(ValueError, match="neither truncates nor pads"):
        Chunker(tokenizer, max_tokens=40, max_characters=400)


def test_a_limit_that_leaves_no_room_for_text_is_refused():
    assert Chunker(characters(), max_tokens=LEAST_ROOM + 2, max_characters=400)
    with pytest.raises(ValueError, match="leave 15 for text"):
        Chunker(characters(), max_tokens=LEAST_ROOM + 1, max_characters=400)


def test_the_tokenizer_is_shared_and_not_changed():
    before = TOKENIZERS["unigrams"].to_str()
    chunker("unigrams").split("\n".join(LINES), title="Hands")
    assert TOKENIZERS["unigrams"].to_str() == before


def test_threads_share_one_chunker():
    cutter = chunker("unigrams")
    documents = [Document(id="", text=line * 5, title=line[:9]) for line in LINES]
    alone = cutter.split_many(documents)
    gate = threading.Barrier(4)

    def work(_):
        gate.wait()
        return cutter.split_many(documents)

    with ThreadPoolExecutor(4) as pool:
        assert all(answer == alone for answer in pool.map(work, range(4)))


@given(TEXTS)
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("name", ["words", "octets", "unigrams"])
def test_what_is_held_to_fit_without_tokenising_does_fit(name, text):
    cutter = chunker(name, max_tokens=120)
    assume(cutter._at_most(text, 120))
    assert len(TOKENIZERS[name].encode(text)) <= 120
