"""The house rules that no linter holds: what is loaded, where tests lie, how long a file is."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.relative_to(ROOT)
    for package in ("service", "training")
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py"
)
ELSEWHERE = {
    "service/types.py": "values without behaviour",
    "service/errors.py": "exceptions without behaviour",
    "service/metrics.py": "names; test_app reads them back",
    "service/requests.py": "a value without behaviour",
    "service/client.py": "test_main uses it against a real service",
    "service/inventory.py": "test_app asks it over HTTP",
    "service/retriever.py": "test_app asks it over HTTP",
    "service/server.py": "tests/e2e runs it as a process",
    "training/journal.py": "test_trainer reads what it writes",
}


FLAT = [path for path in MODULES if len(path.parts) == 2 and str(path) not in ELSEWHERE]


@pytest.mark.parametrize("module", FLAT, ids=str)
def test_every_module_has_its_tests_where_one_looks_for_them(module):
    name = "test_main.py" if module.stem == "__main__" else f"test_{module.stem}.py"
    assert (ROOT / "tests" / module.parts[0] / name).is_file()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_a_file_is_read_in_one_sitting(module):
    assert len((ROOT / module).read_text("utf-8").splitlines()) <= 400


def test_the_service_process_loads_no_training_framework_and_no_client_of_a_server():
    """The Qdrant client takes a third of what imports take, and the embedded index needs none of it."""
    code = (
        "import sys, service.__main__\n"
        "heavy = {'torch', 'transformers', 'training', 'datasets', 'optimum', 'sentence_transformers',"
        " 'qdrant_client'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ran.stdout.strip() == "[]"
