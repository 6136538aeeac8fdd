import json
from pathlib import Path

import pytest

from training.config.recipe import Recipe, RecipeInvalid, read_recipe

MINIMAL = """
name = "x"
version = "1"
licence = "CC0-1.0"
teacher = { model = "teacher" }
[student]
hidden = 32
[data.sets.pairs]
format = "tsv"
path = "*.tsv"
[[stage]]
name = "one"
steps = 10
warmup_steps = 4
batches = [{ kind = "cross", data = ["pairs"] }]
methods = [{ method = "info_nce" }]
rows = 8
tokens = 64
learning_rate = 1e-3
"""
START = '[start]\nmodel = "m"'


def read(tmp_path: Path, text: str = MINIMAL, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text, "utf-8")
    return read_recipe(path, overrides)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('version = "1"', 'version = "1"\nflavour = "mint"', "flavour"),
        ("steps = 10", "steps = 0", "stage.0.steps"),
        ("steps = 10", "steps = ten", "not TOML"),
        ("steps = 10", "steps = 3", "warmup_steps = 4 > steps = 3"),
        ('"info_nce"', '"magic"', "magic"),
        ('"cross"', '"single"', "info_nce needs positive"),
        ('"cross"', '"criss"', "criss"),
        ('["pairs"]', '["lexicon"]', "asks for the data sets lexicon; there are pairs"),
        ('data = ["pairs"]', "data = []", "at least 1 item"),
        ('name = "one"', 'name = "one"\nbody = false', "must train the body"),
        (
            '[{ method = "info_nce" }]',
            '[{ method = "info_nce" }, { method = "info_nce" }]',
            "named twice",
        ),
        (
            'methods = [{ method = "info_nce" }]',
            'methods = [{ method = "ear" }]\nbody = false',
            "ear needs the layers",
        ),
        ('teacher = { model = "teacher" }', "", None),
        ("hidden = 32", "hidden = 10\nheads = 4", "multiple of heads"),
        ("[student]\nhidden = 32", "", "either start .* or student"),
        ("[student]\nhidden = 32", f"{START}\n[student]\nhidden = 32", "either start"),
        ("[student]\nhidden = 32", f"{START}\n[vocabulary]\npieces = 900", "own tokenizer"),
        ("[[stage]]", "[loop]\nevaluate_every = 5\n[[stage]]", "evaluation.benchmarks"),
        ("[[stage]]", '[stopping]\nmetric = "m"\n[[stage]]', "needs loop.evaluate_every"),
        (
            "[[stage]]",
            '[loop]\ntrackers = ["aim"]\n[[stage]]',
            "loop.trackers.0: .* \\(not 'aim'\\)",
        ),
        ("version = ", "# ", "version: is missing"),
        (
            'batches = [{ kind = "cross", data = ["pairs"] }]\nmethods = [{ method = "info_nce" }]',
            'matryoshka = [16, 32]\nbatches = [{ kind = "translation", data = ["pairs"] }]\nmethods = [{ method = "weam" }]',
            r"matryoshka = \[16, 32\] cuts the vectors .* which weam does not read",
        ),
        (
            'methods = [{ method = "info_nce" }]',
            'token_dropout = 0.1\nmethods = [{ method = "ear", perturber = { kind = "synonyms", path = "x" } }]',
            "token_dropout = 0.1 would not reach ear's copies",
        ),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(tmp_path, old, new, said):
    assert old in MINIMAL
    changed = MINIMAL.replace(old, new)
    if said is None:
        changed, said = changed.replace("info_nce", "distillation"), "needs a \\[teacher\\]"
    with pytest.raises(RecipeInvalid, match=said):
        read(tmp_path, changed)


GRAFTED = MINIMAL.replace("[student]\nhidden = 32", f'{START}\n[graft]\ndata = ["pairs"]').replace(
    'name = "one"', 'name = "one"\ntrain = "new_pieces"'
)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('[graft]\ndata = ["pairs"]', "", "train = 'new_pieces' needs a \\[graft\\]"),
        (START, "[student]\nhidden = 32", "needs a \\[start\\] to graft on"),
        ('teacher = { model = "teacher" }', "", "a \\[teacher\\] for the space"),
        ('[graft]\ndata = ["pairs"]', '[graft]\ndata = ["words"]', "graft.data asks for words"),
        ("tokens = 64", "tokens = 64\npieces_learning_rate = 0.1", "their rate is learning_rate"),
    ],
)
def test_what_does_not_go_with_a_graft_is_named(tmp_path, old, new, said):
    assert read(tmp_path, GRAFTED).graft.pieces == 30_000
    assert old in GRAFTED
    with pytest.raises(RecipeInvalid, match=said):
        read(tmp_path, GRAFTED.replace(old, new))


def test_a_missing_recipe_is_said_so(tmp_path):
    with pytest.raises(RecipeInvalid, match="No such file"):
        read_recipe(tmp_path / "nowhere.toml")


def test_one_value_can_be_replaced_and_is_held_to_the_same_rules(tmp_path):
    overrides = ("stage.0.steps=20", 'name="y"', "version=2.0-rc", "loop.precision = bf16")
    recipe = read(tmp_path, MINIMAL, *overrides)
    assert (recipe.steps, recipe.name, recipe.version) == (20, "y", "2.0-rc")
    assert recipe.loop.precision == "bf16"
    assert (
        read(tmp_path, MINIMAL, "stage.0.batches.0.negatives=2").stage[0].batches[0].negatives == 2
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("stage.0.steps=0", r"stage.0.steps: Input should be greater than 0 \(not 0\)"),
        ("stage.0.stepz=5", "stage.0.stepz: there is no such key"),
        ("stage.1.steps=5", "has no place 'stage.1.steps'"),
        ("stage.last.steps=5", "has no place"),
        ("name.x=5", "has no place 'name.x'"),
        ("stage.0.steps", "is not key=value"),
        ("=3", "is not key=value"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(tmp_path, override, said):
    with pytest.raises(RecipeInvalid, match=said):
        read(tmp_path, MINIMAL, override)


def test_scaling_shortens_every_stage_but_never_to_nothing(tmp_path):
    recipe = read(tmp_path)
    assert (recipe.scaled(0.5).stage[0].steps, recipe.scaled(0.5).stage[0].warmup_steps) == (5, 2)
    assert recipe.scaled(1e-6).steps == 1


def test_a_recipe_of_other_values_has_another_fingerprint(tmp_path):
    recipe = read(tmp_path)
    assert recipe.fingerprint() == read(tmp_path).fingerprint()
    assert recipe.fingerprint() != recipe.scaled(0.5).fingerprint()
    assert recipe.fingerprint() != recipe.seeded(8).fingerprint()


def test_what_a_bundle_brings_along_does_not_keep_a_run_from_going_on(tmp_path):
    recipe = read(tmp_path)
    assert recipe.export.golden == 32
    other = read(tmp_path, MINIMAL, "export.golden=0")
    assert other.export.golden == 0
    assert other.fingerprint() == recipe.fingerprint()
    with pytest.raises(RecipeInvalid, match=r"export.golden.*256"):
        read(tmp_path, MINIMAL, "export.golden=257")


def test_what_a_recipe_starts_from_can_be_elsewhere(tmp_path):
    recipe = read(tmp_path)
    assert recipe.taught_by("elsewhere").teacher.model == "elsewhere"
    with pytest.raises(RecipeInvalid, match=r"no \[start\]"):
        recipe.started_from("elsewhere")
    further = read(tmp_path, MINIMAL.replace("[student]\nhidden = 32", START))
    assert further.started_from("elsewhere").start.model == "elsewhere"
    untaught = read(tmp_path, MINIMAL.replace('teacher = { model = "teacher" }', ""))
    with pytest.raises(RecipeInvalid, match=r"no \[teacher\]"):
        untaught.taught_by("elsewhere")


def test_a_recipe_survives_being_written_as_json(tmp_path):
    recipe = read(tmp_path, MINIMAL.replace("[student]\nhidden = 32", START))
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
