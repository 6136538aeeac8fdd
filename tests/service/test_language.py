"""Which language a text is in, and how a code is spelt."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.language import LONGEST_CODE, LanguageIdentifier, canonical

SENTENCES = {
    "ar": "غسل اليدين بالماء والصابون يحمي من المرض",
    "bn": "সাবান দিয়ে হাত ধুলে অসুখ কম হয়",
    "de": "Wer sich die Hände wäscht, wird seltener krank",
    "el": "Το πλύσιμο των χεριών προστατεύει από αρρώστιες",
    "en": "Washing your hands keeps illness away",
    "es": "Lavarse las manos evita muchas enfermedades",
    "fa": "شستن دست‌ها از بیماری پیشگیری می‌کند",
    "fr": "Se laver les mains évite bien des maladies",
    "hi": "हाथ धोने से बीमारियाँ दूर रहती हैं",
    "id": "Mencuci tangan dengan sabun menjauhkan kita dari penyakit",
    "it": "Lavarsi le mani tiene lontane le malattie",
    "ja": "手を洗うと病気になりにくい",
    "ko": "손을 씻으면 병에 잘 걸리지 않는다",
    "nl": "Wie zijn handen wast, wordt minder vaak ziek",
    "pl": "Mycie rąk chroni przed chorobami",
    "pt": "Lavar as mãos evita muitas doenças",
    "ro": "Spălatul pe mâini ne ferește de boli",
    "ru": "Кто моет руки, тот реже болеет",
    "sw": "Kunawa mikono kwa sabuni huzuia magonjwa mengi",
    "te": "చేతులు కడుక్కుంటే జబ్బులు రావు",
    "th": "การล้างมือช่วยป้องกันโรค",
    "tr": "Elleri yıkamak hastalıklardan korur",
    "uk": "Хто миє руки, той рідше хворіє",
    "vi": "Rửa tay giúp tránh được nhiều bệnh",
    "zh": "经常洗手可以预防疾病",
}


@pytest.fixture(scope="module")
def identifier():
    return LanguageIdentifier(expected=SENTENCES)


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_told_in_every_language_of_the_project(identifier, code):
    [(found, confidence)] = identifier.identify([SENTENCES[code]])
    assert found == code
    assert 0.2 <= confidence <= 1


def test_answers_come_in_the_order_of_the_texts(identifier):
    answers = identifier.identify([*SENTENCES.values()])
    assert [code for code, _ in answers] == [*SENTENCES]
    assert identifier.identify([]) == []


@pytest.mark.parametrize("text", ["", " \n\t", "12345", "3.14 + 2 = 5.14", "😀👩‍👩‍👧", "\x00", "—…!?"])  # fmt: skip
def test_a_text_without_letters_is_undetermined(identifier, text):
    assert identifier.identify([text]) == [("und", 0.0)]


@pytest.mark.parametrize("text", ["OK", "Tom", "\ud800"])
def test_a_text_that_nobody_could_tell_is_undetermined(identifier, text):
    [(code, confidence)] = identifier.identify([text])
    assert code == "und"
    assert confidence < 0.2


def test_a_text_in_no_language_is_undetermined(identifier):
    assert identifier.identify(["zzxq qqz"])[0][0] == "und"


def test_the_confidence_that_is_asked_for_decides_what_is_undetermined():
    text = "Zdravo, kako si danas?"  # Croatian, Serbian or Bosnian
    assert LanguageIdentifier(min_confidence=0.9).identify([text])[0][0] == "und"
    assert LanguageIdentifier(min_confidence=0.0).identify([text])[0][0] in {"hr", "sr", "bs"}


def test_an_expected_language_wins_over_its_close_relative():
    text = "Saya suka makan nasi"
    assert LanguageIdentifier().identify([text])[0][0] == "ms"
    assert LanguageIdentifier(expected=["id-ID"]).identify([text])[0][0] == "id"


def test_chinese_is_zh_in_either_script(identifier):
    texts = ["经常洗手可以预防疾病", "經常洗手可以預防疾病", "勤洗手能預防傳染病，這是老師說的。"]
    assert {code for code, _ in identifier.identify(texts)} == {"zh"}


def test_lines_and_capitals_do_not_change_the_answer(identifier):
    text = "Wer sich die Hände wäscht, wird seltener krank"
    broken = text.replace(" ", "\r\n\t ")
    assert identifier.identify([text]) == identifier.identify([broken])
    assert identifier.identify([text.upper()])[0][0] == "de"


def test_only_the_beginning_of_a_long_text_is_read(identifier):
    long = "This is a sentence in plain English. " * 10
    assert identifier.identify([long]) == identifier.identify(
        [long + "и дальше по-русски" * 50_000]
    )


def test_every_answer_is_a_canonical_code(identifier):
    assert {"und", "en", "zh", "no", "sr"} <= identifier.languages
    assert identifier.languages.isdisjoint({"zxx", "nb", "arz", "yue", "cmn"})
    assert all(canonical(code) == code for code in identifier.languages)


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_gets_a_code_and_a_share(identifier, text):
    [(code, confidence)] = identifier.identify([text])
    assert code in identifier.languages
    assert 0 <= confidence <= 1


def test_threads_share_one_identifier(identifier):
    texts = [*SENTENCES.values()] * 4
    alone = identifier.identify(texts)
    gate = threading.Barrier(4)

    def work(_):
        gate.wait()
        return identifier.identify(texts)

    with ThreadPoolExecutor(4) as pool:
        assert all(answer == alone for answer in pool.map(work, range(4)))


def test_the_network_is_never_touched():
    program = (
        "import sys\n"
        "refused = ('socket.connect', 'socket.getaddrinfo', 'urllib.Request')\n"
        "sys.addaudithook(lambda event, _: sys.exit(event) if event in refused else None)\n"
        "from service.language import LanguageIdentifier\n"
        "print(LanguageIdentifier().identify(['Guten Morgen, liebe Leute'])[0][0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "de\n"


@pytest.mark.parametrize(
    ("given_code", "code"),
    [
        ("en", "en"),
        ("EN_us", "en-US"),
        ("pt-br", "pt-BR"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("sr-latn", "sr-Latn"),
        ("deu", "de"),
        ("iw", "he"),
        ("in", "id"),
        ("cmn", "zh"),
        ("cmn-Hans", "zh-Hans"),
        ("arb", "ar"),
        ("swh", "sw"),
        ("nb", "no"),
        ("nob-NO", "no-NO"),
        ("nn", "nn"),
        ("tl", "fil"),
        ("und", "und"),
        ("de-DE-1996", "de-DE-1996"),
    ],
)
def test_a_code_has_one_spelling(given_code, code):
    assert canonical(given_code) == code
    assert canonical(code) == code


@pytest.mark.parametrize(
    "code",
    ["", "e", "12", "xx", "english", "en--us", "en-", "-en", "en us", "en-XX-nonsense-of-someone",
     "en_US.UTF-8", "dé", "en\n", "\x00", "a" * (LONGEST_CODE + 1), "*", "de;drop"],
)  # fmt: skip
def test_nonsense_is_no_code(code):
    with pytest.raises(InvalidInput):
        canonical(code)


@given(st.text(max_size=12))
@settings(deadline=None)
def test_any_text_is_a_stable_code_or_refused(text):
    try:
        code = canonical(text)
    except InvalidInput:
        return
    assert canonical(code) == code
