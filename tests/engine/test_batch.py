"""A batch's list of tokens and its rows: nothing is computed twice, for padding, or lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CHECKPOINTS

from chroma_mlx.checkpoint import open_checkpoint
from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.models.architecture import Encoder, find_architecture

Floats = npt.NDArray[np.float32]

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=20)
SAME = 1e-5


@settings(deadline=None)
@given(LENGTHS, st.integers(0, 40), st.integers(0, 5), st.sampled_from([1, 8]))
def test_rows_hold_each_text_and_give_the_list_back(lengths: list[int], padding: int, before: int, step: int) -> None:
    def check() -> None:
        import mlx.core as mx

        from chroma_mlx.models.batch import SHORT_LIST, Prefix, make_batch

        prefix = Prefix([(mx.zeros((1, 1, before, 1)),) * 2]) if before else None
        texts = [np.arange(before + length, dtype=np.int32) + 100 * row for row, length in enumerate(lengths)]
        batch = make_batch(texts, padding=padding, step=step, prefix=prefix)
        own, total = [text[before:] for text in texts], sum(lengths)
        assert batch.spare == (-total % step if total < SHORT_LIST else 0)
        assert batch.ids.size == len(batch.positions) == total + batch.spare
        np.testing.assert_array_equal(batch.ids[:total], np.concatenate(own))
        np.testing.assert_array_equal(batch.positions[:total], np.concatenate([text[before:] % 100 for text in texts]))
        listed, padded = mx.array(batch.ids)[:, None].astype(mx.float32), 0
        for group in batch.groups:
            rows = np.array(group.every.spread(listed))[:, :, 0]  # (G, R)
            assert group.every.offset == before
            for row, keys in zip(rows, group.every.keys, strict=True):
                text = own.pop(0)
                assert keys == before + len(text)
                np.testing.assert_array_equal(row[: len(text)], text)
                padded += len(row) - len(text)
                assert (row[len(text) :] == text[-1]).all()
        assert own == []
        assert padded <= padding * len(batch.groups)
        merged = mx.concatenate([group.every.merge(group.every.heads(listed, 1)) for group in batch.groups])
        np.testing.assert_array_equal(np.array(merged), np.array(listed)[:total])

    mlx_thread.run(check)


@given(LENGTHS, st.integers(0, 40))
def test_a_group_ends_only_where_the_next_text_needs_too_much_padding(lengths: list[int], padding: int) -> None:
    from chroma_mlx.models.groups import plan_groups

    groups = plan_groups(lengths, padding)
    assert [index for group in groups for index in range(group.start, group.stop)] == list(range(len(lengths)))
    for group in groups[:-1]:
        longer = lengths[group.start : group.stop + 1]
        assert max(longer) * len(longer) - sum(longer) > padding


def encoder_of(folder: Path, *, host: bool, compiles: bool = False) -> Encoder:
    """The encoder on a CPU, on NumPy's arrays (`host`) or on the path of a GPU."""
    checkpoint = open_checkpoint(folder)

    def load() -> Encoder:
        import mlx.core as mx

        from chroma_mlx.models.weights import Weights

        architecture = find_architecture(checkpoint.config)
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            weights = Weights(checkpoint, dtype=mx.float32, dense=host, host=host, compiles=compiles)
            return architecture.Model(architecture.read_config(checkpoint.config), weights)

    return mlx_thread.run(load)


def hidden_states(encoder: Encoder, texts: list[list[int]], wanted: list[int] | None, padding: int) -> Floats:
    def run() -> Floats:
        import mlx.core as mx

        from chroma_mlx.models.batch import make_batch

        rows = [np.array(text, dtype=np.int32) for text in texts]
        chosen = None if wanted is None else np.array(wanted, dtype=np.int32)
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            return np.array(encoder(make_batch(rows, padding=padding, wanted=chosen)))

    return mlx_thread.run(run)


def some_texts(lengths: tuple[int, ...] = (40, 39, 12, 1, 3)) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(5, 250, length).tolist() for length in lengths]


ENCODERS = ["official-float32", "mlx-4bit", "sliding-window", "gemma-official", "bert-cls", "xlm-roberta"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU MLX compiles with g++")
@pytest.mark.parametrize("name", ["official-float32", "gemma-official", "bert-cls"])
def test_a_model_with_compiled_activations_is_the_plain_one(name: str) -> None:
    from chroma_mlx.models import activations

    texts, folder = some_texts(), CHECKPOINTS / name
    encoder = encoder_of(folder, host=False, compiles=True)
    compiled = hidden_states(encoder, texts, None, 5)
    count = activations.compiled_functions()
    hidden_states(encoder, some_texts((7, 5)), None, 5)
    assert activations.compiled_functions() == count >= 1, "one for every shape"
    worst = float(np.abs(compiled - hidden_states(encoder_of(folder, host=False), texts, None, 5)).max())
    assert worst < SAME, f"differs by {worst:.1e}"


@pytest.mark.parametrize("host", [True, False], ids=["host", "fused"])
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("padding", [0, 5, 1000])
def test_the_last_layer_gives_the_wanted_tokens_what_it_gives_all(name: str, padding: int, host: bool) -> None:
    encoder, texts = encoder_of(CHECKPOINTS / name, host=host), some_texts()
    everything = np.split(hidden_states(encoder, texts, None, padding), np.cumsum([len(text) for text in texts])[:-1])
    for wanted in ([39, 38, 11, 0, 2], [0] * 5, [7, 38, 0, 0, 1]):
        want = np.stack([states[place] for states, place in zip(everything, wanted, strict=True)])
        worst = float(np.abs(hidden_states(encoder, texts, wanted, padding) - want).max())
        assert worst < SAME, f"{wanted}: differs by {worst:.1e}"


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("padding", [0, 5, 1000])
def test_the_path_of_a_gpu_computes_what_the_host_does(name: str, padding: int) -> None:
    texts = some_texts()
    one, other = (
        hidden_states(encoder_of(CHECKPOINTS / name, host=host), texts, None, padding) for host in (True, False)
    )
    worst = float(np.abs(one - other).max()) / float(np.abs(other).mean())
    assert worst < SAME, f"differs by {worst:.1e} of the mean size"


@pytest.mark.parametrize("name", ENCODERS)
def test_neighbours_in_a_group_do_not_change_a_text(name: str) -> None:
    texts = some_texts((40, 33, 12, 11, 3))
    for host in (True, False):
        encoder = encoder_of(CHECKPOINTS / name, host=host)
        together = np.split(hidden_states(encoder, texts, None, 1000), np.cumsum([len(text) for text in texts])[:-1])
        for text, states in zip(texts, together, strict=True):
            worst = float(np.abs(states - hidden_states(encoder, [text], None, 0)).max())
            assert worst < SAME * 10, f"{len(text)} tokens, host {host}: differs by {worst:.1e}"


@pytest.mark.parametrize("host", [True, False], ids=["host", "fused"])
@pytest.mark.parametrize("name", ["official-float32", "sliding-window"])
def test_a_prefix_stands_for_the_tokens_it_was_made_of(name: str, host: bool) -> None:
    encoder, texts = encoder_of(CHECKPOINTS / name, host=host), some_texts((40, 33, 12, 11, 8))
    begun = [[*range(60, 67), *text] for text in texts]
    wanted = np.array([len(text) - 1 for text in begun], dtype=np.int32)

    def behind() -> Floats:
        import mlx.core as mx

        from chroma_mlx.models.batch import Prefix, make_batch

        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            first = np.arange(60, 67, dtype=np.int32)
            batch = make_batch([first], padding=0, wanted=np.array([6], dtype=np.int32), keep=True)
            encoder(batch)
            rows = [np.array(text, dtype=np.int32) for text in begun]
            prefix = Prefix(batch.kept or []).cut(5)
            return np.array(encoder(make_batch(rows, padding=1000, wanted=wanted, prefix=prefix)))

    worst = float(np.abs(mlx_thread.run(behind) - hidden_states(encoder, begun, wanted.tolist(), 1000)).max())
    assert worst < SAME, f"differs by {worst:.1e}"


def test_a_mask_too_large_to_be_kept_leaves_room_for_those_that_are_not() -> None:
    def check() -> None:
        from chroma_mlx.models.batch import KEPT_MASK_BYTES, Rows

        ones, made = np.ones(2, dtype=np.int32), []

        class Large:
            nbytes = KEPT_MASK_BYTES + 1

        rows = Rows(0, np.zeros_like(ones), ones, ones)
        for key, mask in (("large", Large()), ("small", np.zeros(4)), ("large", Large()), ("small", np.zeros(4))):
            rows.kept_mask(key, lambda key=key, mask=mask: (made.append(key), mask)[1])
        assert made == ["large", "small", "large"]

    mlx_thread.run(check)


LONG_TEXTS = (300, 150, 129, 128, 127, 64, 40, 7, 1)


@pytest.fixture
def by_text(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets from which product on a text is computed by itself, in small blocks."""
    from chroma_mlx.blas import load_fast_blas, own_product
    from chroma_mlx.models import host_attention

    mlx_thread.run(load_fast_blas)
    if own_product() is None:
        pytest.skip("MLX multiplies with another library than this package's own")
    monkeypatch.setattr(host_attention, "QUERIES", 32)
    monkeypatch.setattr(host_attention, "ELEMENTS", 4096)
    return lambda least: monkeypatch.setattr(host_attention, "WORTH_PRODUCT", least)


@pytest.mark.parametrize("least", [0.0, 100.0**2 * 32], ids=["all", "the long ones"])
@pytest.mark.parametrize("last", [False, True], ids=["every", "last"])
@pytest.mark.parametrize("name", ENCODERS)
def test_a_text_by_itself_through_the_blas_is_what_mlx_gives(
    name: str, last: bool, least: float, by_text: Callable[[float], None]
) -> None:
    most = 120 if name in ("bert-cls", "xlm-roberta") else 1000  # positions that it has
    texts = some_texts(tuple(min(length, most) for length in LONG_TEXTS))
    wanted = [len(text) - 1 for text in texts] if last else None
    want = hidden_states(encoder_of(CHECKPOINTS / name, host=False), texts, wanted, 5)
    by_text(least)
    got = hidden_states(encoder_of(CHECKPOINTS / name, host=True), texts, wanted, 5)
    worst = float(np.abs(got - want).max())
    assert worst < SAME, f"differs by {worst:.1e}"


@pytest.mark.parametrize("name", ["official-float32", "sliding-window"])
@pytest.mark.parametrize("prompt", [3, 40, 200])
def test_a_text_by_itself_sees_the_prefix_before_it(name: str, prompt: int, by_text: Callable[[float], None]) -> None:
    from chroma_mlx.models.batch import Prefix, make_batch

    encoder, lengths = encoder_of(CHECKPOINTS / name, host=True), [prompt + own for own in (130, 33, 32, 1)]
    before = np.array(some_texts((prompt,))[0], dtype=np.int32)
    rows = [np.concatenate([before, np.array(text, dtype=np.int32)[prompt:]]) for text in some_texts(tuple(lengths))]

    def run() -> tuple[Floats, Floats]:
        import mlx.core as mx

        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            kept = make_batch([before], padding=0, wanted=np.array([prompt - 1], dtype=np.int32), keep=True)
            mx.eval(encoder(kept))
            assert kept.kept is not None
            reused = encoder(make_batch(rows, padding=5, prefix=Prefix.of(kept.kept)))
            return np.array(encoder(make_batch(rows, padding=5))), np.array(reused)

    by_text(0.0)
    everything, reused = mlx_thread.run(run)
    own = np.concatenate([np.arange(n) >= prompt for n in lengths])
    worst = float(np.abs(everything[own] - reused).max())
    assert worst < SAME, f"differs by {worst:.1e}"
