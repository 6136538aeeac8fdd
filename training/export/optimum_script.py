"""Run by another Python, that of `.venv-optimum`: a Sentence Transformers folder to ONNX, by optimum.

    python -I optimum_script.py FOLDER OUT OPSET

Writes `OUT/model.onnx` and prints the versions of the libraries as one line of JSON. It imports
nothing of this project, which is not installed there.
"""

import json
import sys
from importlib.metadata import version

from optimum.exporters.onnx import main_export  # type: ignore[import-not-found]  # not here

TOOLS = ("optimum", "optimum-onnx", "sentence-transformers", "transformers", "torch", "onnx")


def main(folder: str, out: str, opset: str) -> None:
    """Export the folder with its pooling and normalisation, unchecked: the caller checks."""
    main_export(
        folder,
        output=out,
        task="feature-extraction",
        library_name="sentence_transformers",
        opset=int(opset),
        do_validation=False,
    )
    sys.stdout.write(json.dumps({name: version(name) for name in TOOLS}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
