"""What the functions share: how they are registered, saved with a collection, checked and compared."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, ClassVar

import jsonschema
from chromadb.api.types import Documents, EmbeddingFunction, Space

from ..errors import ConfigError


class SavedFunction(EmbeddingFunction[Documents]):
    """A function whose saved configuration determines its vectors, and is what two of them are compared by.

    A subclass has NAME, `get_config`, `build_from_config`, and a schema in schemas/NAME.json.
    """

    NAME: ClassVar[str]
    # Keys that may change under a collection, since they change no vector.
    CHANGEABLE: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def name(cls) -> str:
        """The name the function is registered under."""
        return cls.NAME

    def default_space(self) -> Space:
        """Cosine: the models are trained for it."""
        return "cosine"

    def supported_spaces(self) -> list[Space]:
        """All three: of unit vectors they give the same order."""
        return ["cosine", "l2", "ip"]

    def is_legacy(self) -> bool:
        """False; Chroma's own answer would build a function to find out."""
        return False

    @classmethod
    def completed(cls, config: dict[str, Any], **defaults: Any) -> dict[str, Any]:
        """A valid configuration, `defaults` for keys left out; raises ConfigError for any other."""
        try:
            completed = {**defaults, **config}
        except TypeError:  # no mapping at all, which the validation says in words
            completed = config
        cls.validate_config(completed)
        return completed

    @classmethod
    def validate_config(cls, config: dict[str, Any]) -> None:
        """Raises ConfigError, naming every problem, unless the configuration fits the schema."""
        problems = [
            f"{'.'.join(map(str, error.absolute_path)) or 'configuration'}: {error.message}"
            for error in validator(cls.NAME).iter_errors(config)
        ]
        if problems:
            raise ConfigError(
                f"The configuration of embedding function {cls.NAME!r} is not valid: {'; '.join(problems)}. If a "
                "newer version of chroma-mlx saved it, upgrade this one.",
                problems=tuple(problems),
            )

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raises ConfigError when the change would make vectors that do not match those stored."""
        old, new = (self.build_from_config(config).get_config() for config in (old_config, new_config))
        changed = [key for key in old if old[key] != new[key] and key not in self.CHANGEABLE]
        if changed:
            changes = ", ".join(f"{key} from {old[key]!r} to {new[key]!r}" for key in changed)
            raise ConfigError(
                f"Changing {changes} would make vectors that do not match those already in the collection. Create a "
                "new collection with the new settings and add the documents again. Chroma stores the new settings "
                "before it asks: call modify again with the old settings to undo that."
            )

    def __eq__(self, other: object) -> bool:
        """Equal when their saved settings are; Chroma compares collections by it."""
        return type(other) is type(self) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((self.NAME, *self.get_config().values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={value!r}" for key, value in self.get_config().items() if value is not None)
        return f"{type(self).__name__}({shown})"


@cache
def validator(name: str) -> jsonschema.Draft7Validator:
    """The validator of a function's schema."""
    schema = resources.files("chroma_mlx").joinpath("schemas").joinpath(f"{name}.json").read_text(encoding="utf-8")
    return jsonschema.Draft7Validator(json.loads(schema))
