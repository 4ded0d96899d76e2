"""Settings that say None meet the model that fills them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..checkpoint import Checkpoint
from ..errors import ConfigError
from ..models.architecture import positions_of
from ..models.defaults import Defaults
from ..models.known import find_known
from ..settings import VectorSettings, check_dimension
from .model import Model
from .tokens import TokenIds

Kind = Literal["document", "query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How texts of one kind are embedded: nothing left open.

    `prompt` is put before each text, as tokens mostly `prompt_tokens`; its first `skip` tokens are not pooled.
    `max_tokens` counts special tokens too; `dimension` is the width that is returned.
    """

    prompt: str
    prompt_tokens: TokenIds
    skip: int
    pooling: str
    max_tokens: int
    dimension: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What settings mean for a checkpoint: the texts before a query and a document, and what is left of None."""

    prompts: Mapping[Kind, str]
    pooling: str
    max_tokens: int
    dimension: int


def make_plan(settings: VectorSettings, model: Model, kind: Kind) -> Plan:
    """How texts of `kind` are embedded by `model` under `settings`.

    Raises ConfigError when a setting is outside what the model can do.
    """
    meaning = resolve_settings(settings, model.checkpoint, model.defaults, model.dimension)
    model.tokenizer.check_limit(meaning.max_tokens)
    prompt = meaning.prompts[kind]
    # A prompt that is not to be pooled is left out of a mean; the last token is behind it anyway.
    tokens = model.tokenizer.prompt_tokens(prompt)
    given = settings.query_instruction if kind == "query" else settings.document_instruction
    full = len(tokens) + model.tokenizer.closing_tokens >= meaning.max_tokens
    # A checkpoint whose own prompt fills its own limit is computed as its makers do.
    if prompt and full and (given is not None or settings.max_tokens is not None):
        raise ConfigError(
            f"The instruction before a {kind} has {len(tokens)} tokens, and max_tokens is {meaning.max_tokens}, so "
            f"nothing would be left of any {kind}. Shorten {kind}_instruction, or raise max_tokens if the model "
            "allows more."
        )
    skip = 0 if model.checkpoint.declared.include_prompt else len(tokens)
    return Plan(
        prompt=prompt,
        prompt_tokens=tokens,
        # a long prompt is cut as a text is
        skip=min(skip, meaning.max_tokens - model.tokenizer.closing_tokens),
        pooling=meaning.pooling,
        max_tokens=meaning.max_tokens,
        dimension=meaning.dimension,
    )


def resolve_settings(settings: VectorSettings, checkpoint: Checkpoint, defaults: Defaults, width: int) -> Meaning:
    """What `settings` mean: the checkpoint's own declaration where they say None, then the table's.

    `width` is the checkpoint's full one. Raises ConfigError when a setting is outside what the model can do.
    """
    prompts, known = _prompts(settings.model_name, checkpoint, defaults), find_known(settings.model_name)
    return Meaning(
        prompts={
            "query": _prompt(settings.query_instruction, "query", prompts, defaults),
            "document": _prompt(settings.document_instruction, "document", prompts, defaults),
        },
        pooling=settings.pooling or checkpoint.declared.pooling or (known.pooling if known else defaults.pooling),
        max_tokens=_max_tokens(settings, checkpoint, defaults),
        dimension=_dimension(settings, width),
    )


def _prompts(model_name: str, checkpoint: Checkpoint, defaults: Defaults) -> Mapping[str, str]:
    """The model's own prompts by name: what the checkpoint names, else the table, else the architecture's."""
    known = find_known(model_name)
    if checkpoint.declared.prompts is not None:
        return checkpoint.declared.prompts
    if known is not None and known.prompts is not None:
        return known.prompts
    return {"query": "", "document": ""} if checkpoint.declared.whole else defaults.prompts


def _prompt(given: str | None, kind: Kind, prompts: Mapping[str, str], defaults: Defaults) -> str:
    if given is None or given in prompts:  # the name of one of the model's own
        return prompts.get(kind if given is None else given, "")
    template = defaults.query_template
    is_task = given != "" and not given.endswith(":") and not given[-1].isspace()
    # A task would run into the text's first word, so it was never meant as a prefix.
    if is_task and template is not None and kind == "query":
        return template.format(task=given)
    return given


def _max_tokens(settings: VectorSettings, checkpoint: Checkpoint, defaults: Defaults) -> int:
    known = find_known(settings.model_name)
    positions = positions_of(checkpoint.config)
    own = checkpoint.max_tokens or (known.max_tokens if known else positions)
    if defaults.absolute_positions:
        own = min(own, positions)
    if settings.max_tokens is not None and settings.max_tokens > max(own, positions):
        raise ConfigError(
            f"max_tokens is {settings.max_tokens}, but {settings.model_name} has positions for {max(own, positions)} "
            "tokens. Set it to that or less, or leave it None."
        )
    return settings.max_tokens or own


def _dimension(settings: VectorSettings, width: int) -> int:
    if settings.dimension is None:
        return width
    known = find_known(settings.model_name)
    check_dimension(settings.dimension, settings.model_name, known.min_dimension if known else 1, width)
    return settings.dimension
