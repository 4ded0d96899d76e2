"""What the files of sentence-transformers declare, and what holds where they are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small import write_checkpoint

from chroma_mlx.checkpoint import open_checkpoint
from chroma_mlx.checkpoint.declared import Declared
from chroma_mlx.engine.model import load_model
from chroma_mlx.engine.plan import make_plan
from chroma_mlx.errors import CorruptCheckpoint, UnsupportedModel
from chroma_mlx.settings import VectorSettings

ST = "sentence_transformers.models"
POOLED = [{"type": f"{ST}.Transformer", "path": ""}, {"type": f"{ST}.Pooling", "path": "1_Pooling"}]


def declare(folder: Path, **files: Any) -> Declared:
    """`files` by name, `__` for a slash, without the ending."""
    named = {f"{name.replace('__', '/')}.json": content for name, content in files.items()}
    return open_checkpoint(write_checkpoint(folder, files=named)).declared


def test_nothing_is_declared_without_the_files(tmp_path: Path) -> None:
    declared = declare(tmp_path / "model")
    assert declared.transformer == tmp_path / "model"
    assert (declared.pooling, declared.prompts, declared.max_tokens) == (None, None, None)
    assert (declared.include_prompt, declared.lower_case) == (True, False)


def test_modules_that_point_to_folders_which_are_not_there_declare_nothing(tmp_path: Path) -> None:
    modules = [{"type": f"{ST}.Transformer", "path": "0_Transformer"}, POOLED[1]]
    declared = declare(tmp_path / "model", modules=modules)
    assert (declared.transformer, declared.pooling) == (tmp_path / "model", None)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_cls_token": False}, "mean"),
        ({"word_embedding_dimension": 32}, "mean"),
    ],
)
def test_pooling_is_read_from_old_and_new_keys(tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
    assert declare(tmp_path / "model", modules=POOLED, **{"1_Pooling__config": config}).pooling == pooling


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": ["cls", "mean"]}, r"cls\+mean"),
    ],
)
def test_a_pooling_that_is_not_implemented_is_refused(tmp_path: Path, config: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"declares the pooling '{name}'. Supported are last, mean, cls"):
        declare(tmp_path / "model", modules=POOLED, **{"1_Pooling__config": config})


@pytest.mark.parametrize("kind", ["CNN", "LayerNorm", "WeightedLayerPooling"])
def test_a_module_that_is_not_implemented_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"a module of the kind '{kind}', which is not implemented"):
        declare(tmp_path / "model", modules=[*POOLED, {"type": f"{ST}.{kind}", "path": "2_More"}])


@pytest.mark.parametrize(
    "modules", [7, {"type": "Transformer"}, [{"path": ""}], ["Transformer"], [{"type": 1, "path": ""}]]
)
def test_modules_that_are_no_list_of_modules_are_damaged(tmp_path: Path, modules: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"modules\.json is not a list of modules: .*Fetch the model again"):
        declare(tmp_path / "model", modules=modules)


@pytest.mark.parametrize(
    ("named", "query", "document"),
    [
        ({"query": "q: ", "document": "d: "}, "q: ", "d: "),
        ({"query": "q: ", "passage": "p: "}, "q: ", ""),
        ({"corpus": "c: ", "passage": "p: "}, "", ""),
        ({"document": "", "passage": "p: "}, "", ""),
        ({"document": None, "query": None, "corpus": "c: "}, "", ""),
        ({"clustering": "x"}, "", ""),
        ({}, "", ""),
    ],
)
def test_prompts_are_read_by_their_names(tmp_path: Path, named: dict[str, Any], query: str, document: str) -> None:
    declared = declare(tmp_path / "model", config_sentence_transformers={"prompts": named})
    assert declared.prompts == {
        **{name: text or "" for name, text in named.items()},
        "query": query,
        "document": document,
    }


def test_dense_layers_are_read_in_their_order(tmp_path: Path) -> None:
    layer = {
        "in_features": 32,
        "out_features": 96,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    more = {"in_features": 96, "out_features": 16, "activation_function": "torch.nn.modules.activation.Tanh"}
    declared = declare(
        tmp_path / "model",
        modules=[*POOLED, {"type": f"{ST}.Dense", "path": "2_Dense"}, {"type": f"{ST}.Dense", "path": "3_Dense"}],
        **{"1_Pooling__config": {"pooling_mode_mean_tokens": True}, "2_Dense__config": layer, "3_Dense__config": more},
    )
    assert declared.dense is not None
    found = [(each.folder.name, each.out_features, each.bias, each.activation) for each in declared.dense]
    assert found == [("2_Dense", 96, False, "identity"), ("3_Dense", 16, True, "tanh")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.GELU"}, "has the activation 'GELU'"),
        ({"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
    ],
)
def test_a_dense_layer_that_is_not_computed_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    layer = {"in_features": 32, "out_features": 32, **changes}
    with pytest.raises(UnsupportedModel, match=message):
        declare(
            tmp_path / "model",
            modules=[*POOLED, {"type": f"{ST}.Dense", "path": "2_Dense"}],
            **{"1_Pooling__config": {"pooling_mode_mean_tokens": True}, "2_Dense__config": layer},
        )


@pytest.mark.parametrize(
    "kinds",
    [
        ["Transformer", "Dense", "Pooling"],
        ["Transformer", "Pooling", "Normalize", "Dense"],
        ["Transformer", "Normalize", "Pooling"],
        ["Pooling", "Transformer"],
        ["Transformer", "Transformer", "Pooling"],
        ["Transformer", "Pooling", "Pooling"],
        ["Transformer", "Pooling", "Normalize", "Normalize"],
        ["Transformer"],
    ],
    ids=",".join,
)
def test_modules_in_an_order_that_is_not_computed_are_refused(tmp_path: Path, kinds: list[str]) -> None:
    modules = [{"type": f"{ST}.{kind}", "path": f"{place}_{kind}"} for place, kind in enumerate(kinds)]
    with pytest.raises(UnsupportedModel, match=f"has the modules {', '.join(kinds)}\\. Computed are"):
        declare(tmp_path / "model", modules=modules)


def test_prompts_that_are_no_texts_are_damaged(tmp_path: Path) -> None:
    for place, prompts in enumerate(([], {"query": 1}, "query: ")):
        with pytest.raises(CorruptCheckpoint, match="prompts is not a table of texts"):
            declare(tmp_path / str(place), config_sentence_transformers={"prompts": prompts})


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 512),  # the positions
        ({"tokenizer_config": {"model_max_length": 100}}, 100),
        ({"tokenizer_config": {"model_max_length": 4096}}, 512),
        ({"tokenizer_config": {"model_max_length": 10**30}}, 512),
        ({"sentence_bert_config": {"max_seq_length": 64}, "tokenizer_config": {"model_max_length": 32}}, 64),
        ({"sentence_bert_config": {"max_seq_length": None}}, 512),
        ({"sentence_roberta_config": {"max_seq_length": 65}}, 65),
        ({"sentence_bert_config": {"max_seq_length": 64, "processor_kwargs": {"model_max_length": 66}}}, 66),
        ({"sentence_bert_config": {"max_seq_length": 67, "tokenizer_args": {"model_max_length": 68}}}, 68),
    ],
)
def test_the_longest_input_is_that_of_sentence_transformers(tmp_path: Path, files: dict[str, Any], limit: int) -> None:
    named = {f"{name}.json": content for name, content in files.items()}
    assert open_checkpoint(write_checkpoint(tmp_path / "model", files=named)).max_tokens == limit


@pytest.mark.parametrize("limit", [0, -1, "64", 1.5])
def test_a_longest_input_that_is_no_number_of_tokens_is_damaged(tmp_path: Path, limit: Any) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"the maximum length is .*, not a positive number of tokens"):
        declare(tmp_path / "model", sentence_bert_config={"max_seq_length": limit})


def test_what_is_not_declared_is_the_architectures_own(tmp_path: Path) -> None:
    model = load_model(write_checkpoint(tmp_path / "model"), device="cpu")
    query = make_plan(VectorSettings(model_name="x"), model, "query")
    document = make_plan(VectorSettings(model_name="x"), model, "document")
    assert query.prompt.startswith("Instruct: Given a web search query, retrieve relevant passages that answer")
    assert query.prompt.endswith("\nQuery:")
    assert (document.prompt, document.pooling, document.skip) == ("", "last", 0)
    assert (document.max_tokens, document.dimension) == (512, 32)


def test_a_prompt_that_is_not_pooled_is_skipped_in_tokens(tmp_path: Path) -> None:
    files = {
        "modules.json": POOLED,
        "1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False},
        "config_sentence_transformers.json": {"prompts": {"query": "find: "}},
    }
    model = load_model(write_checkpoint(tmp_path / "model", files=files), device="cpu")
    assert make_plan(VectorSettings(model_name="x"), model, "query").skip == len("find: ")
    assert make_plan(VectorSettings(model_name="x"), model, "document").skip == 0
