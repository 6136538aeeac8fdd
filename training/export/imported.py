"""The bundle of a model from elsewhere: what its folder says of it, and what must be said for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from service.golden import read_golden
from service.manifest import LANGUAGE
from service.types import Role
from training.corpus import HeldOut
from training.export.bundle import write
from training.export.gate import texts_by_language
from training.export.graph import ExportFailed
from training.export.order import Choices, Order, Sealed, made_now
from training.export.probes import built_in, read_pairs
from training.pretrained import PACKAGE, UNSTATED, Pretrained, open_pretrained
from training.sentence_folder import Pooling

DEFAULT = Choices(precisions=("fp32", "int8"))


@dataclass(frozen=True, slots=True)
class Statement:
    """What a model's folder does not say, or says otherwise than wanted."""

    name: str | None = None
    version: str = "1.0.0"
    licence: str | None = None
    languages: Sequence[str] = ()
    pooling: Pooling | None = None
    prompts: Mapping[Role, str] | None = None
    max_tokens: int | None = None


def import_model(
    spec: str,
    out: Path,
    choices: Choices = DEFAULT,
    *,
    said: Statement,
    probes: Path | None = None,
    language_texts: Path | None = None,
    golden: Path | None = None,
) -> Sealed:
    """Make a bundle of any model that `training.pretrained.open_pretrained` opens.

    `probes` and `language_texts` are files as `training.export.probes` reads them; without probes,
    three sentences in each of thirty languages take their place, where nDCG says little. `golden` is
    a file as `service.golden` reads it.

    Raises:
        BundleInvalid: the golden queries cannot be read.
        ExportFailed: no licence is stated, or what `training.export.bundle.write` refuses.
        ModelMissing, ModelUnsupported: it cannot be opened.
    """
    model = open_pretrained(
        spec, max_tokens=said.max_tokens, pooling=said.pooling, prompts=said.prompts
    )
    licence = said.licence or model.licence
    if licence == UNSTATED:
        raise ExportFailed(
            f"{spec} states no licence: read its model card, and name it with --licence"
        )
    queries = [] if golden is None else read_golden(golden)
    languages = list(said.languages) or [
        code for code in model.languages if LANGUAGE.fullmatch(code)
    ]
    pairs = built_in(languages) if probes is None else read_pairs(probes)
    unproven = sorted(set(languages) - texts_by_language(pairs).keys())
    name = f"{model.name}@{model.revision}" if model.revision else model.name
    order = Order(
        model=model,
        name=said.name or _slug(model.name),
        version=said.version,
        languages=languages,
        pairs=pairs,
        provenance={
            "base_model": f"{name} ({licence})",
            "recipe": f"imported from {spec}, not trained here",
            "data": {},
            "licence": licence,
            **made_now(),
        },
        evaluation={
            "languages_without_probes": unproven,
            "tokenizer": _compared_tokenizers(model, pairs),
        },
        centroid_pairs=read_pairs(language_texts) if language_texts is not None else (),
        golden=queries,
    )
    return write(out, order, choices)


def _slug(name: str) -> str:
    """What names a path, id or package, in the characters that a bundle's name may have."""
    inside = name.startswith(PACKAGE)
    last = name.removeprefix(PACKAGE).partition("/")[0] if inside else name.rpartition("/")[2]
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in last)
    return kept.lower().strip("-")[:64] or "model"


def _compared_tokenizers(model: Pretrained, pairs: Sequence[HeldOut]) -> dict[str, int]:
    """How many texts transformers' own class gives other pieces than `tokenizer.json`, which is used."""
    texts = [text for own in texts_by_language(pairs).values() for text in own]
    if not texts:
        return {"texts": 0, "other_pieces_by_auto_tokenizer": 0}
    ours = [encoding.ids for encoding in model.pieces.tokenizer.encode_batch_fast(texts)]
    theirs = AutoTokenizer.from_pretrained(model.folder)(texts)["input_ids"]
    differing = sum(a != b for a, b in zip(theirs, ours, strict=True))
    return {"texts": len(texts), "other_pieces_by_auto_tokenizer": differing}
