"""The texts that a bundle is checked on."""

import re

import pytest

from service.manifest import LANGUAGE
from training.corpus import HeldOut
from training.export.graph import ExportFailed
from training.export.probes import probes_of, read_pairs


def test_the_sentences_that_come_along_are_three_in_each_of_many_languages():
    pairs = read_pairs()
    languages = [pair.language for pair in pairs]
    assert len(set(languages)) >= 25
    assert all(languages.count(code) == 3 and LANGUAGE.fullmatch(code) for code in languages)
    assert len({pair.foreign for pair in pairs}) == len(pairs)
    assert len({pair.english for pair in pairs}) == 3


def test_a_file_of_ones_own_may_lack_the_translations(tmp_path):
    path = tmp_path / "p.tsv"
    path.write_text('language\ttext\nde\tein "Wort\nen\ta word\n', "utf-8")
    assert read_pairs(path) == [HeldOut("de", "", 'ein "Wort'), HeldOut("en", "", "a word")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "its first line must be"),
        ("lang\ttext\nde\tx\n", "its first line must be"),
        ("language\ttext\tenglish\nde\n", ":2: no language and text"),
        ("language\ttext\tenglish\nde\tx\ty\nde\t \tz\n", ":3: no language and text"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(tmp_path, content, said):
    path = tmp_path / "p.tsv"
    path.write_text(content, "utf-8")
    with pytest.raises(ExportFailed, match=re.escape(said)):
        read_pairs(path)


def test_probes_take_both_roles_in_every_language():
    pairs = [HeldOut(code, f"e{k}", f"{code}{k}") for code in ("de", "zh") for k in range(9)]
    probes = probes_of(pairs)
    assert probes.languages == ["de"] * 4 + ["zh"] * 4 + ["en"] * 4
    assert set(zip(probes.languages, probes.roles, strict=True)) == {
        (code, role) for code in ("de", "zh", "en") for role in ("query", "passage")
    }
