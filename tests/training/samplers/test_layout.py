import pytest
from pydantic import TypeAdapter, ValidationError

from training.config.batches import Batches, views_of
from training.samplers.layout import layouts

KINDS = [
    {"kind": "mono", "negatives": 2},
    {"kind": "cross", "negatives": 3},
    {"kind": "mixed_rows"},
    {"kind": "hybrid", "negatives": 1},
    {"kind": "bridged", "negatives": 2},
    {"kind": "single"},
    {"kind": "words"},
]


def read(**settings) -> Batches:
    return TypeAdapter(Batches).validate_python({"data": ["a"], **settings})


@pytest.mark.parametrize("settings", KINDS)
def test_a_layout_has_the_views_that_the_recipe_promises(settings):
    batches = read(**settings)
    for layout, _ in layouts(batches, ["en", "de"]):
        assert layout.roles().keys() == views_of(batches)


@pytest.mark.parametrize("kind", ["mono", "mixed_rows", "hybrid"])
def test_one_role_twice_is_refused_where_it_would_be_one_text(kind):
    with pytest.raises(ValidationError, match=r"the same text twice; only 'cross'"):
        read(kind=kind, roles=["sentence", "sentence"])
    read(kind="cross", roles=["sentence", "sentence"])


def test_the_pivot_must_be_among_the_languages():
    with pytest.raises(ValidationError, match=r"pivot = 'en' is not among languages = de, fr"):
        read(kind="bridged", languages=["de", "fr"])
