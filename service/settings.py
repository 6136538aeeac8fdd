"""Every knob of the service, bounded and documented; the only reader of the environment.

Why not pydantic-settings: it ignores unknown variables that carry our prefix, and a misspelt
limit must be an error, not a default.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from service.errors import ConfigurationError

PREFIX = "ISOGLOSS_"
SECRETS = ("qdrant_api_key", "catalog_url")

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """One frozen value, made once at start. Field `max_items` is the variable ISOGLOSS_MAX_ITEMS."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    # Where it listens, and where it keeps things.
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        Path("data"), description="Folder of the catalog and of the embedded index."
    )
    models_dir: Path = Field(Path("models"), description="The registry: a folder of bundles.")
    bundle: str = Field(
        "starter", description="Bundle for the first start: a name, or name/version."
    )
    precision: Literal["fp32", "fp16", "int8"] | None = Field(
        None,
        description="Precision variant of the bundle for the first start; without it, the fullest "
        "that the bundle has.",
    )
    qdrant_url: str | None = Field(
        None,
        pattern="^https?://.+",
        description="Qdrant server or cluster; without it the index is embedded.",
    )
    qdrant_api_key: SecretStr | None = Field(None, description="API key of the Qdrant server.")
    catalog_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the catalog; without it, SQLite in the data folder."
    )

    # What computes.
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where the encoder runs; `cuda` that is not there is an error."
    )
    threads: int = Field(
        0, ge=0, le=256, description="Threads of one inference; 0 takes the cores of the cgroup."
    )
    tokenizer_threads: int = Field(
        2, ge=1, le=64, description="Texts are tokenised in so many threads."
    )
    max_batch_tokens: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Padded tokens in one batch of queries; 0 takes 512 on a CPU, 16384 on CUDA.",
    )
    max_passage_batch_tokens: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="The same for passages; it bounds how long a query waits for them. "
        "0 takes half of what queries have.",
    )
    max_queue_tokens: int = Field(
        1_000_000, ge=16, description="Tokens that may wait; beyond them requests get 429."
    )
    request_deadline_s: Seconds = Field(
        30.0, description="A request whose work has not begun after so many seconds gets 504."
    )

    # What a request may hold.
    max_body_bytes: Positive = Field(32 * 2**20, description="Bytes of a request body.")
    max_line_bytes: Positive = Field(
        2 * 2**20,
        description="Bytes of one line of a bulk stream, which itself may be of any length.",
    )
    max_items: Positive = Field(2048, description="Texts in one embedding request.")
    max_characters: Positive = Field(
        200_000, description="Characters of one text; longer documents are split by the caller."
    )
    max_documents: Positive = Field(1000, description="Documents in one request.")
    max_queries: Positive = Field(256, description="Queries in one search request.")
    max_limit: Positive = Field(1000, description="Hits that one search may ask for.")
    max_offset: Positive = Field(10_000, description="Hits that one search may skip.")
    max_filter_depth: Positive = Field(8, description="Levels of a filter.")
    max_filter_clauses: Positive = Field(128, description="Conditions and values in a filter.")

    # How it keeps up, and how it stops.
    apply_batch_passages: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Passages that the applier embeds at once; a small write waits for one batch.",
    )
    flush_interval_s: Seconds = Field(
        5.0, description="The index is flushed and its cursor saved at least so often under load."
    )
    visible_timeout_s: Seconds = Field(
        30.0, description="How long `wait: visible` waits before it answers that it is only stored."
    )
    pod_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name of this process among those over one catalog, no two the same; "
        "made of host and port if there is none.",
    )
    lease_ttl_s: float = Field(
        10.0,
        ge=1,
        le=600,
        description="A process that is silent for so long loses what it alone was to do.",
    )

    # How an encoder is replaced.
    soak_s: float = Field(
        600.0,
        ge=0,
        description="The encoder before is kept in step for so long, to go back to in an instant.",
    )
    cutover_patience_s: Seconds = Field(
        60.0,
        description="A candidate may try for so long to catch up with writes at the last step.",
    )
    laggards_s: float = Field(
        60.0,
        ge=0,
        description="A candidate that is ready waits so long for processes that have not opened it.",
    )
    proof_timeout_s: Seconds = Field(
        300.0, description="A bundle that is not proven in a child process by then is refused."
    )
    migration_passages_per_s: float | None = Field(
        None,
        gt=0,
        description="A candidate is filled no faster than this; without it, with what queries leave.",
    )
    gate_golden: Path | None = Field(
        None,
        description="Your golden queries (JSON lines), asked of a candidate and of the live encoder.",
    )
    gate_samples_per_language: Positive = Field(
        50, description="Passages of each language that are embedded again and looked for."
    )
    gate_tolerance: float = Field(
        0.02, ge=0, le=1, description="nDCG@10 that a candidate may lose against the live encoder."
    )
    gate_floor: float = Field(
        0.1, ge=0, le=1, description="nDCG@10 that a candidate must reach in its worst language."
    )
    gate_latency_ratio: float = Field(
        2.0, ge=1, description="The p95 of a candidate's searches over that of the live encoder's."
    )
    gate_min_cosine: float = Field(
        0.99, gt=0, le=1, description="Between a stored vector and its passage embedded again."
    )
    shadow_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of the searches that the encoder beside the live one answers too, unseen, "
        "to be compared; 0 for none.",
    )
    drain_s: float = Field(
        0.0,
        ge=0,
        description="Seconds to keep serving after SIGTERM while /readyz already says 503.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line that is written."
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read the variables; `overrides` (the command line) that are not None win over them.

        Raises:
            ConfigurationError: a variable is unknown, unreadable or out of bounds; every fault is named.
        """
        given = dict(_variables(os.environ if environ is None else environ))
        given |= {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            faults = "; ".join(_fault(detail) for detail in error.errors())
            raise ConfigurationError(faults) from None

    def redacted(self) -> dict[str, Any]:
        """The settings as they may be shown: secrets are starred."""
        return self.model_dump(mode="json")


def variables() -> list[tuple[str, str, str]]:
    """Every variable with its default and what it does, in the order of this file."""
    return [
        (
            PREFIX + name.upper(),
            "" if field.default is None else str(field.default),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]


def _variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    given: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name.removesuffix("_file") in SECRETS and name.endswith("_file"):
            given[name.removesuffix("_file")] = _secret(variable, Path(value))
        elif name in Settings.model_fields:
            given[name] = value
        else:
            raise ConfigurationError(f"{variable} is not a setting; `isogloss settings` lists them")
    return given


def _secret(variable: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(f"{variable}: cannot read {path}: {error.strerror}") from error


def _fault(detail: Any) -> str:
    name = str(detail["loc"][0])
    shown = "…" if name in SECRETS else repr(detail["input"])
    return f"{PREFIX}{name.upper()}={shown}: {detail['msg']}"
