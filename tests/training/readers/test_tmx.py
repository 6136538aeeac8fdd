import pytest

from tests.training.text_fixtures import groups_of, write
from training.readers import DataInvalid

SETTINGS = {"format": "tmx", "path": "memory.tmx"}
HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
BOMB = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


def unit(**texts):
    inner = "".join(
        f'<tuv xml:lang="{language}"><seg>{text}</seg></tuv>' for language, text in texts.items()
    )
    return f"<tu>{inner}</tu>"


def memory(folder, *units, head=(HEAD,)):
    body = ('<tmx version="1.4"><header/><body>', *units, "</body></tmx>")
    return write(folder / "memory.tmx", *head, *body)


def test_units_may_have_any_number_of_languages(tmp_path):
    memory(tmp_path, unit(en="dog", de="Hund", fr="chien"), unit(hi="बिल्ली", sw="paka"))
    groups, _ = groups_of(tmp_path, SETTINGS)
    assert [group.texts["sentence"] for group in groups] == [
        {"en": "dog", "de": "Hund", "fr": "chien"},
        {"hi": "बिल्ली", "sw": "paka"},
    ]
    assert [group.id for group in groups] == ["memory.tmx:3", "memory.tmx:4"]


def test_regions_are_cut_and_markup_of_the_original_is_no_text(tmp_path):
    english = 'Press <bpt i="1">&lt;b&gt;</bpt>two<ept i="1">&lt;/b&gt;</ept> <hi>or</hi>\n more'
    tagged = f'<tu><tuv xml:lang="EN-us"><seg>{english}</seg></tuv>'
    memory(tmp_path, f'{tagged}<tuv lang="de_DE"><seg>Drücke &amp; halte</seg></tuv></tu>')
    groups, _ = groups_of(tmp_path, SETTINGS)
    assert groups[0].texts["sentence"] == {"en": "Press two or more", "de": "Drücke & halte"}


def test_units_of_one_language_are_bad_rows(tmp_path):
    memory(tmp_path, unit(en="dog"), unit(en="cat", de=" "), unit(en="a", de="b"))
    groups, ledger = groups_of(tmp_path, SETTINGS)
    assert len(groups) == 1
    assert ledger.complaints[1] == "memory.tmx:4: fewer than two languages"
    assert ledger.read == 3


def test_entities_are_refused_before_they_grow(tmp_path):
    memory(tmp_path, unit(en="&b;", de="x"), head=(HEAD, BOMB))
    with pytest.raises(DataInvalid, match=r"memory\.tmx:2: declares the entity 'a'"):
        groups_of(tmp_path, SETTINGS)


def test_a_bare_document_type_is_harmless(tmp_path):
    memory(tmp_path, unit(en="a", de="b"), head=(HEAD, '<!DOCTYPE tmx SYSTEM "tmx14.dtd">'))
    assert len(groups_of(tmp_path, SETTINGS)[0]) == 1


def test_broken_xml_is_named_with_its_line(tmp_path):
    write(tmp_path / "memory.tmx", HEAD, "<tmx><body>", "</tmx>")
    with pytest.raises(DataInvalid, match=r"memory\.tmx:3: no valid XML"):
        groups_of(tmp_path, SETTINGS)


def test_a_file_larger_than_a_chunk_is_streamed_whole(tmp_path):
    memory(tmp_path, *(unit(en=f"dog {i}", de=f"Hund {i}") for i in range(3000)))
    groups, _ = groups_of(tmp_path, SETTINGS)
    assert len(groups) == 3000
    assert groups[-1].texts["sentence"]["de"] == "Hund 2999"
