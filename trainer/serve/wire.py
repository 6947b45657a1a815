"""Requests as they may be, and what they are answered: the shapes that clients know.

    /v1/embeddings         OpenAI API reference, "Create embeddings"; `truncate` is text-embeddings-inference's
    /v1/chat/completions   OpenAI API reference, "Create chat completion", the part that is honoured here
    /v1/classify           vLLM, "Classification API"
    /v1/rerank             Jina and Cohere v2, as vLLM answers both ("Re-rank API")

A member that would change the answer and is not honoured is refused, never ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1)]
Texts = Text | Annotated[list[Text], Field(min_length=1)]


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: Text
    user: str | None = Field(default=None, description="taken for the clients that send it; nothing is done with it")


class EmbeddingRequest(Asked):
    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    truncate: bool | None = Field(default=None, description="cut longer texts; left out, as the run was trained")


class ClassifyRequest(Asked):
    input: Texts
    truncate: bool | None = None


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Text


class RerankRequest(Asked):
    query: str
    documents: Annotated[list[Text | Document], Field(min_length=1)]
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    truncate: bool | None = None

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it: text is one string, and what was not said is not there."""
        said = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            said["content"] = "".join(part.text for part in self.content)
        return {"content": "", **said}


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class ChatRequest(Asked):
    """What is left out is as the model's own `generation_config.json` says."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1, description="the older name of `max_completion_tokens`")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 takes the likeliest token each time")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    tools: list[dict[str, Any]] | None = Field(default=None, description="given to the chat template")

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(BaseModel):
    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage


class Classified(BaseModel):
    """`label` is the likeliest, `labels` are all that hold where there may be several, `score` is a regression's."""

    index: int
    label: str | None
    probs: list[float]
    num_classes: int
    labels: list[str] | None = None
    score: float | None = None


class ClassifyAnswer(BaseModel):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classified]
    usage: Usage


class Ranked(BaseModel):
    index: int
    relevance_score: float
    document: Document | None = None


class RerankAnswer(BaseModel):
    """Best first."""

    id: str
    model: str
    results: list[Ranked]
    usage: Usage


class ModelCard(BaseModel):
    """OpenAI's four members, and where the model comes from. `accepted` is false where it was forced."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    max_model_len: int
    task_type: str
    version: int
    run_id: str
    accepted: bool


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
