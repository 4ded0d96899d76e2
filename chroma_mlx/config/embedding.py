"""`EmbeddingConfig`: every setting in one frozen object, and how the one in force is found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, TypeAlias

import yaml

from ..rules import Rule, one_of
from ..settings import MachineSettings, VectorSettings, dimension_problem, explain_problems, rule_of, setting
from .sources import DEFAULT, SECTION, Problem, Sourced, gather, known_names, raise_all, read_section, refusal

ARGUMENT: Final = "argument"
Mode: TypeAlias = Literal["mlx", "user_provided", "mock"]


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig(VectorSettings, MachineSettings):
    """How text becomes vectors, as the section `embedding` of a file has it.

    `mode` says who makes the vectors: the MLX engine, the user, or a hash of the text, for tests. `fallback`
    is what happens on a machine where the model is not to be had: "none" is an error, "mock" are mock
    vectors, with a warning. The rest are the settings of the vectors and of the machine.
    Raises ConfigError, naming every value that is not allowed.
    """

    mode: Mode = setting(
        "mlx", one_of("mlx", "user_provided", "mock"), "who makes the vectors: mlx, user_provided or mock"
    )
    fallback: Literal["none", "mock"] = setting(
        "none", one_of("none", "mock"), "where the model is not to be had: none is an error; mock, with a warning"
    )

    @property
    def vectors(self) -> VectorSettings:
        """The part that determines the vectors."""
        return VectorSettings(**self._part(VectorSettings))

    @property
    def machine(self) -> MachineSettings:
        """The part that belongs to the machine."""
        return MachineSettings(**self._part(MachineSettings))

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str] | None = None) -> EmbeddingConfig:
        """The configuration of a file, with CHROMA_MLX_<KEY> of the environment above it.

        Without `path`, of the file in force: the one that CHROMA_MLX_CONFIG names, ./embedding_config.yaml,
        or the user's own; of none, the defaults. Raises ConfigError with every problem at once.
        """
        return resolve(path).config

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EmbeddingConfig:
        """The configuration of a table `{"embedding": {…}}`, defaults for keys left out.

        Raises ConfigError with every problem at once.
        """
        problems: list[Problem] = []
        values = read_section(data, RULES, "configuration", problems)
        problems += _dimension_problems({**DEFAULTS, **values}, f"configuration: {SECTION}.dimension", problems)
        raise_all(problems)
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """`{"embedding": {…}}` with every key: plain values, which `from_dict` takes."""
        values = {key: getattr(self, key) for key in RULES}
        return {
            SECTION: {
                key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in values.items()
            }
        }

    def to_yaml(self) -> str:
        """The text of a configuration file with every key, which `from_yaml` reads."""
        values = self.to_dict()
        # PyYAML takes these for the end of a line, and folds them into a space.
        breaks = any(mark in str(value) for value in values[SECTION].values() for mark in "\x85\u2028\u2029\ufeff")
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=not breaks)

    def _part(self, settings: type[VectorSettings] | type[MachineSettings]) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(settings)}


ConfigSource: TypeAlias = EmbeddingConfig | str | os.PathLike[str] | None

_FIELDS: Final = {each.name: each for each in fields(EmbeddingConfig)}
# In the order of the file: who makes the vectors, which, and where.
_ORDER: Final = (
    "mode",
    *(f.name for f in fields(VectorSettings)),
    *(f.name for f in fields(MachineSettings)),
    "fallback",
)
RULES: Final[dict[str, Rule]] = {name: rule_of(_FIELDS[name]) for name in _ORDER}
PURPOSES: Final[dict[str, str]] = {name: _FIELDS[name].metadata["purpose"] for name in _ORDER}
DEFAULTS: Final[dict[str, Any]] = {name: _FIELDS[name].default for name in _ORDER}


@dataclass(frozen=True, slots=True)
class Effective:
    """The configuration in force and, by key, where each value came from."""

    config: EmbeddingConfig
    sources: Mapping[str, str]


def resolve(source: ConfigSource = None, arguments: Mapping[str, Any] | None = None) -> Effective:
    """The configuration in force: `arguments`, over a configuration object or the files and the environment.

    `source` is an EmbeddingConfig, the path of a file, or None to look for one. Raises ConfigError.
    """
    problems: list[Problem] = []
    if isinstance(source, EmbeddingConfig):
        values = {key: Sourced(getattr(source, key), "configuration object", key) for key in RULES}
    else:
        values = {key: Sourced(value, DEFAULT, key) for key, value in DEFAULTS.items()}
        values |= gather(source, RULES, problems)
    values |= {key: Sourced(value, ARGUMENT, key) for key, value in (arguments or {}).items()}
    problems += [
        Problem(f"argument {key}: unknown key. {known_names(key, RULES)}") for key in values if key not in RULES
    ]
    plain = {key: sourced.value for key, sourced in values.items() if key in RULES}
    if values["dimension"].source != ARGUMENT:
        problems += _dimension_problems(plain, values["dimension"].place, problems)
    if problems:
        # Alone, the arguments are refused where they are used, in their own words.
        given = {key: value for key, value in (arguments or {}).items() if key in RULES}
        problems += [Problem(f"argument {each}", key) for key, each in explain_problems(EmbeddingConfig, given)]
    raise_all(problems)
    return Effective(EmbeddingConfig(**plain), {key: sourced.source for key, sourced in values.items()})


def _dimension_problems(values: Mapping[str, Any], place: str, others: Sequence[Problem]) -> list[Problem]:
    """That the model has not the dimension, unless it is not known which model, or which dimension, is meant."""
    unsure = {problem.key for problem in others} & {"model_name", "dimension", "mode"}
    reason = None if unsure or not RULES["model_name"].accepts(values["model_name"]) else dimension_problem(values)
    return [] if reason is None else [refusal("dimension", place, values["dimension"], sentence(reason))]


def sentence(reason: str) -> str:
    """A reason that begins with a model's name, as a sentence of its own."""
    return f"The model {reason}".replace("None", "null")


def commented_yaml() -> str:
    """A configuration file of every key at its default, each with what it is for."""
    lines = ["# The configuration of chroma-mlx. A key left out has the value shown here.", f"{SECTION}:"]
    for key, value in DEFAULTS.items():
        entry = yaml.safe_dump({key: value}).strip()
        lines.append(f"  {entry:<32} # {PURPOSES[key]}")
    return "\n".join(lines) + "\n"
