"""Settings that say None meet the model that fills them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigError
from ..models.known import find_known
from ..settings import VectorSettings, check_dimension
from .model import Model

Kind = Literal["document", "query"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How texts of one kind are embedded: nothing left open.

    `prompt` is put before each text; its first `skip` tokens are not pooled. `max_tokens` counts special
    tokens too; `dimension` is the width that is returned.
    """

    prompt: str
    skip: int
    pooling: str
    max_tokens: int
    dimension: int


def make_plan(settings: VectorSettings, model: Model, kind: Kind) -> Plan:
    """What `settings` mean for `model`: its own declaration where they say None, then the table's.

    Raises ConfigError when a setting is outside what the model can do.
    """
    declared = model.checkpoint.declared
    prompt = _prompt(settings, model, kind)
    pooling = settings.pooling or declared.pooling or model.defaults.pooling
    # A prompt that is not to be pooled is left out of a mean; the last token is behind it anyway.
    max_tokens = _max_tokens(settings, model)
    skip = model.tokenizer.count(prompt) if prompt and not declared.include_prompt else 0
    return Plan(
        prompt=prompt,
        skip=min(skip, max_tokens - model.tokenizer.closing_tokens),  # a long prompt is cut as a text is
        pooling=pooling,
        max_tokens=max_tokens,
        dimension=_dimension(settings, model),
    )


def _prompt(settings: VectorSettings, model: Model, kind: Kind) -> str:
    own = (model.checkpoint.declared.prompts or model.defaults.prompts).get(kind, "")
    given = settings.query_instruction if kind == "query" else settings.document_instruction
    if given is None:
        return own
    template = model.defaults.query_template
    is_task = given != "" and not given.endswith(":") and not given[-1].isspace()
    # A task would run into the text's first word, so it was never meant as a prefix.
    if is_task and template is not None and kind == "query":
        return template.format(task=given)
    return given


def _max_tokens(settings: VectorSettings, model: Model) -> int:
    known = find_known(settings.model_name)
    positions = model.checkpoint.config.get("max_position_embeddings") or 2**31
    own = model.checkpoint.max_tokens or (known.max_tokens if known else positions)
    if settings.max_tokens is None:
        model.tokenizer.check_limit(own)
        return own
    if settings.max_tokens > max(own, positions):
        raise ConfigError(
            f"max_tokens is {settings.max_tokens}, but {settings.model_name} has positions for {max(own, positions)} "
            "tokens. Set it to that or less, or leave it None."
        )
    model.tokenizer.check_limit(settings.max_tokens)
    return settings.max_tokens


def _dimension(settings: VectorSettings, model: Model) -> int:
    if settings.dimension is None:
        return model.dimension
    known = find_known(settings.model_name)
    check_dimension(settings.dimension, settings.model_name, known.min_dimension if known else 1, model.dimension)
    return settings.dimension
