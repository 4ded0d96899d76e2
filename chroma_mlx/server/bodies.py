"""What requests and answers look like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
# The first fault is enough: a body of 8 MiB may have millions, and each would be an object.
Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def is_json(content_type: str) -> bool:
    """Whether a content type says that a body is JSON."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


class _Body(BaseModel):
    """Strict: "1" is no number, and a key that is not known is an error and not ignored."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_one_unknown_key(cls, given: Any) -> Any:
        """One of them is enough, too."""
        if not isinstance(given, dict):
            return given
        if (known := cls.__pydantic_fields__.keys()) >= given.keys():
            return given
        unknown = next(key for key in given if key not in known)
        return {key: value for key, value in given.items() if key == unknown or key in known}


class EmbedBody(_Body):
    """`POST /embed`."""

    texts: Texts = Field(description="One vector is returned for each, in their order.")
    model: str | None = Field(None, description="One of /models; the default one without.")
    kind: Literal["document", "query"] | None = Field(
        None, description="A query gets the model's instruction. Documents, unless the model's name ends in :query."
    )
    pooling: Literal["last", "mean", "cls"] | None = Field(None, description="Only to differ from the model's own.")
    normalize: bool | None = Field(
        None, description="Whether vectors are scaled to unit length; as configured without."
    )
    dimension: int | None = Field(None, ge=1, le=65_536, description="A shorter width (Matryoshka).")


class EmbedUsage(BaseModel):
    """What a request took."""

    tokens: int
    milliseconds: float


class EmbedAnswer(BaseModel):
    """The answer of `POST /embed`."""

    embeddings: list[list[float]]
    dimension: int
    model: str
    space: str = Field(description="Equal where the model and every setting that makes a vector are equal.")
    usage: EmbedUsage


class ModelAnswer(BaseModel):
    """A model that is served. What needs the loaded model is null before it is loaded."""

    name: str
    loaded: bool
    default: bool
    dimension: int | None
    max_tokens: int | None
    pooling: str | None
    device: str | None
    memory_bytes: int | None
    space: str | None


class ProblemAnswer(BaseModel):
    """Why a request was not answered."""

    code: str
    message: str
    field: str | None = None
    request_id: str | None = None


def _form_of(given: Any) -> str:
    """Which form of `input` it is meant to be, by its first item: so an error is about that form alone."""
    if not isinstance(given, list):
        return "text"
    first = given[0] if given else ""
    return "ids" if type(first) is int else "rows" if isinstance(first, list) else "texts"


Input = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Texts, Tag("texts")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True), Tag("rows")],
    Discriminator(_form_of),
]


class OpenAIBody(BaseModel):
    """`POST /v1/embeddings`, as OpenAI has it; keys of newer clients are ignored, as it does.

    `kind` is ours: "query" for queries. A model's name with ":query" behind it says the same.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    input: Input = Field(description="A text, texts, the token ids of a text, or of several.")
    model: str
    dimensions: int | None = Field(None, ge=1, le=65_536)
    encoding_format: Literal["float", "base64"] | None = "float"
    user: str | None = None
    kind: Literal["document", "query"] | None = None

    def texts(self) -> list[Any]:
        """Texts, or the token ids of each."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)


class OpenAIEmbedding(BaseModel):
    """A vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class OpenAIAnswer(BaseModel):
    """The answer of `POST /v1/embeddings`."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class OpenAIModel(BaseModel):
    """A model, as OpenAI has it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(BaseModel):
    """The answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[OpenAIModel]


class OpenAIProblem(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblemAnswer(BaseModel):
    """OpenAI's error, as it is sent."""

    error: OpenAIProblem
