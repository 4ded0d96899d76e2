"""`chroma-mlx models`: the known models, and those in the cache."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .arguments import add_config

if TYPE_CHECKING:
    from ..checkpoint.cache import CachedModel

CACHED = "short name or Hub repository id"
ANY = f"{CACHED}, or a folder"


def add_parser(commands: Any) -> None:
    """Adds the command and its actions to the parser."""
    parser = commands.add_parser("models", help="list, fetch, check and remove models", description="The models.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    add = _Adder(actions)
    add("list", run_list, "known models: size, what is cached, when it was used", json=True)
    add("info", run_info, "what the table knows of a model, and what its files say", model=ANY, json=True)
    add("download", run_download, "fetch a model into the cache, or what is missing of it", model=CACHED)
    add("verify", run_verify, "hold a cached model's files against the Hub's hashes", model=CACHED)
    add("path", run_path, "print the folder of a model that is on this disk", model=ANY)
    remove = add("remove", run_remove, "remove a model from the cache", model=CACHED)
    remove.add_argument("--yes", action="store_true", help="do not ask")
    prune = add("prune", run_prune, "remove the models used least recently that this program fetched")
    prune.add_argument("--max-gb", type=float, required=True, metavar="N", help="how much may stay, in 10^9 bytes")
    prune.add_argument("--also", nargs="+", metavar="REPO", default=[], help="others that may go, too")
    prune.add_argument("--yes", action="store_true", help="do not ask")


class _Adder:
    """Adds an action with what all of them take."""

    def __init__(self, actions: Any) -> None:
        self._actions = actions

    def __call__(self, name: str, run: Any, help: str, *, model: str | None = None, json: bool = False) -> Any:
        parser = self._actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        if model:
            parser.add_argument("model", metavar="MODEL", help=model)
        if json:
            parser.add_argument("--json", action="store_true", help="print JSON")
        add_config(parser)
        parser.set_defaults(run=run)
        return parser


def run_list(options: argparse.Namespace) -> int:
    """Prints a row a model: those of the table, then others that this program fetched."""
    from ..model_cache import list_models
    from ..models.known import KNOWN_MODELS

    cached = {model.repo_id: model for model in list_models(config=options.config)}
    rows = []
    for known in KNOWN_MODELS.values():
        there = cached.get(known.repo_id or "")
        rows.append(
            {
                "name": known.name,
                "repo_id": known.repo_id,
                "dimension": known.dimension,
                "max_tokens": known.max_tokens,
                "download_mb": round(known.download_bytes / 1e6),
                "licence": known.licence,
                **_state(there),
                "cached": known.repo_id is None or bool(there and there.whole),
            }
        )
    unknown = dict.fromkeys(("dimension", "max_tokens", "download_mb", "licence"))
    for repo_id in sorted(cached.keys() - {known.repo_id for known in KNOWN_MODELS.values()}):
        rows.append({"name": repo_id, "repo_id": repo_id, **unknown, **_state(cached[repo_id])})
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    print(f"{'name':<24} {'dimension':>9} {'tokens':>7} {'download':>9}  {'licence':<10}  cached, last used")
    for row in rows:
        state = "inside the package" if row["repo_id"] is None else "no"
        if row["cached_mb"] is not None:
            state = f"{row['cached_mb']:,} MB{'' if row['cached'] else ', perhaps not whole'}, {row['last_used']}"
        if row["dimension"] is None:
            print(f"{row['name']:<24} {'not in the table':>30}  {'':<10}  {state}")
            continue
        print(
            f"{row['name']:<24} {row['dimension']:>9} {row['max_tokens']:>7,} {row['download_mb']:>6,} MB  "
            f"{row['licence']:<10}  {state}"
        )
    return 0


def _state(there: CachedModel | None) -> dict[str, Any]:
    """What a row has on the cache."""
    return {
        "cached": there is not None and there.whole,
        "cached_mb": round(there.size_bytes / 1e6) if there else None,
        "last_used": time.strftime("%Y-%m-%d %H:%M", time.localtime(there.last_used)) if there else None,
    }


def run_info(options: argparse.Namespace) -> int:
    """Prints the table's row, what the files on this disk say, and where they differ."""
    from ..model_cache import model_info

    found = model_info(options.model, config=options.config).to_dict()
    if options.json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return 0
    absent = f"not on this disk; `chroma-mlx models download {options.model}` fetches it"
    for key, title, instead in (
        ("table", "table", "not in the table"),
        ("declared", "declared by its files", absent),
        ("files", "as configured", absent),
    ):
        if found[key] is None:
            print(f"{title}: {instead}")
            continue
        print(f"{title}:")
        for name, value in found[key].items():
            print(f"  {name:<16} {'-' if value is None else value}")
    if found["differences"]:
        print("the files differ from the table, and hold:")
    for name, pair in found["differences"].items():
        print(f"  {name:<16} {pair['files']!r}, not {pair['table']!r}")
    return 0


def run_download(options: argparse.Namespace) -> int:
    """Fetches, and prints the folder."""
    from ..model_cache import download_model

    print(download_model(options.model, config=options.config))
    return 0


def run_path(options: argparse.Namespace) -> int:
    """Prints the folder; fetches nothing."""
    from ..model_cache import model_path

    print(model_path(options.model, config=options.config))
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Hashes the files; 1 where some could not be held against anything."""
    from ..model_cache import verify_model

    files = verify_model(options.model, config=options.config)
    print(f"{len(files.right)} files are what the Hub has: {', '.join(files.right)}")
    if files.unchecked:
        print(f"not checkable, since their hashes are not known here: {', '.join(files.unchecked)}")
    return 1 if files.unchecked else 0


def run_remove(options: argparse.Namespace) -> int:
    """Removes one model."""
    from ..checkpoint.cache import repo_of
    from ..model_cache import remove_model

    repo_id = repo_of(options.model)
    if not _agreed(options, f"Remove {repo_id} from the cache?"):
        return 1
    print(f"{remove_model(options.model, config=options.config) / 1e9:.2f} GB are free now")
    return 0


def run_prune(options: argparse.Namespace) -> int:
    """Removes the models used least recently until the rest is small enough."""
    from ..model_cache import prune_models, remove_model

    going = prune_models(options.max_gb, also=options.also, dry_run=True, config=options.config)
    if not going:
        print("Nothing has to go. What other programs fetched stays, and does not count, unless --also names it.")
        return 0
    for model in going:
        print(f"{model.size_bytes / 1e9:.2f} GB  {model.repo_id}")
    if not _agreed(options, f"Remove these {len(going)} from the cache?"):
        return 1
    freed = sum(remove_model(model.repo_id, config=options.config) for model in going)
    print(f"{freed / 1e9:.2f} GB are free now")
    return 0


def _agreed(options: argparse.Namespace, question: str) -> bool:
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is nobody to ask: pass --yes.")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
