"""Every question to the operator, in one class. Environment variables with the prefix `MEDIATHECA_`."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Backends are chosen by URL; with none set everything is embedded and lives under `data_dir`."""

    model_config = SettingsConfigDict(env_prefix="MEDIATHECA_", extra="ignore")

    data_dir: Path = Field(Path("./data"), description="Where the embedded backends keep their files.")
    database_url: str = Field("", description="SQLite file (default) or postgresql://user:password@host/database.")
    documents_url: str = Field("", description="Directory (default) or s3://, gs://, az:// prefix of the Lance tables.")
    index_url: str = Field(
        "", description="Directory of the embedded index (default) or http(s):// of a Qdrant server."
    )
    index_key: SecretStr = Field(SecretStr(""), description="API key of the Qdrant server.")
    blobs_url: str = Field("", description="Directory (default) or s3://, gs://, az:// of raw files and artifacts.")
    runner_url: str = Field(
        "",
        description="Where extractors run: this machine's processes (default), or a Ray cluster: ray://host:10001, "
        "ray://auto (this machine is a node of it), ray://local.",
    )
    models_dir: Path | None = Field(None, description="Local ONNX models and built weights; default: data_dir/models.")
    models_hub: bool = Field(False, description="Allow downloads of weights from the hub.")
    models_url: str = Field("", description="OpenAI-compatible endpoint for embeddings.")
    models_key: SecretStr = Field(SecretStr(""), description="Key of that endpoint.")
    language_url: str = Field(
        "", description="Language models: a server with OpenAI's protocol; anthropic=URL one with Anthropic's."
    )
    language_key: SecretStr = Field(
        SecretStr(""), description="Key of that server, or of OpenAI; anthropic=KEY that of Anthropic."
    )
    language_model: str = Field(
        "", description="Default language model; further entries name=model map names that retrievers use, * all."
    )
    secret_key: SecretStr = Field(
        SecretStr(""),
        description="Keys that encrypt secrets, 32 bytes in base64 each, current first; empty: data_dir/secret.key.",
    )
    allow_code: bool = Field(False, description="Allow code of callers: code_execution, uploaded extractors.")
    web_search: SecretStr = Field(
        SecretStr(""), description="Web search: searxng ADDRESS, or brave, tavily, exa, serpapi and a key; empty: none."
    )
    notify: SecretStr = Field(
        SecretStr(""),
        description="Who sends notices: smtp://user:password@host:587?from=a@b.c, slack=TOKEN; comma separated.",
    )
    api_key: SecretStr = Field(SecretStr(""), description="First API key; empty: one is made and printed once.")
    public_url: str = Field("", description="Base of URLs we hand out; empty: the request's own host.")
    fetch_allow: str = Field("", description="Private hosts and CIDRs the server may fetch from, comma separated.")
    fetch_max_mb: int = Field(512, ge=1, description="Largest file fetched from a URL.")
    strict: bool = Field(
        False,
        description="Refuse unknown request keys, and values that have no effect (422), instead of ignoring them with "
        "a warning.",
    )
    max_body_mb: int = Field(64, ge=1, description="Largest request body; uploads have their own cap.")
    max_upload_mb: int = Field(5120, ge=1, description="Largest file by presigned upload.")
    rate_limit_rpm: int = Field(
        0, ge=0, description="Requests a minute and key, or address where there is no valid key; 0: unlimited."
    )
    executions_days: float = Field(30, ge=0, description="How long execution records are kept, in days; 0: for ever.")
    executions_count: int = Field(
        100_000, ge=0, description="Execution records kept in each namespace, newest first; 0: all."
    )
    recall_sample: float = Field(
        0.01, ge=0, le=1, description="Share of vector searches that are checked against an exact one; 0: none."
    )
    workers: int = Field(
        max(1, (os.cpu_count() or 2) - 1),
        ge=0,
        le=64,
        description="Extraction processes; 0: this process runs no jobs.",
    )
    worker_memory_mb: int = Field(4096, ge=256, description="Memory one extraction process may use.")
    item_timeout_s: float = Field(300, gt=0, description="Longest time one object may take in an extractor.")
    chunk_size: int = Field(250, ge=1, le=1000, description="Objects a job works on.")
    cache_mb: int = Field(2048, ge=0, description="Total size of kept results of costly extractors; 0: none are kept.")
    open_shards: int = Field(64, ge=1, description="Index shards kept open at once.")
    lease_s: float = Field(30, gt=0, description="How long a job or table lease lives without a heartbeat.")
    log_level: str = Field("info", description="debug, info, warning, error.")
    log_json: bool = Field(False, description="One JSON object a line instead of readable text.")
    otlp_endpoint: str = Field("", description="OpenTelemetry collector (OTLP over HTTP); empty: no spans.")
    plugins: str = Field(
        "", description="Extra packages scanned for extractors, stages and providers, comma separated."
    )

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'mediatheca.db'}"

    @property
    def documents(self) -> str:
        return self.documents_url or str(self.data_dir / "documents")

    @property
    def index(self) -> str:
        return self.index_url or str(self.data_dir / "index")

    @property
    def blobs(self) -> str:
        return self.blobs_url or str(self.data_dir / "blobs")

    @property
    def models(self) -> Path:
        return self.models_dir or self.data_dir / "models"

    @property
    def plugin_packages(self) -> list[str]:
        return [name.strip() for name in self.plugins.split(",") if name.strip()]
