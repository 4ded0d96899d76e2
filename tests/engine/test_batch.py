"""A batch's list of tokens and its rows: nothing is computed twice, for padding, or lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CHECKPOINTS

from chroma_mlx.engine.mlx_thread import mlx_thread
from chroma_mlx.engine.model import Model, load_model

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
        assert batch.ids.size == len(batch.places) == total + batch.spare
        np.testing.assert_array_equal(np.array(batch.ids)[:total], np.concatenate(own))
        np.testing.assert_array_equal(batch.places[:total], np.concatenate([text[before:] % 100 for text in texts]))
        listed, padded = batch.ids[:, None].astype(mx.float32), 0
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
        merged = batch.join([group.every.merge(group.every.heads(listed, 1)) for group in batch.groups], last=False)
        assert merged.shape == listed.shape
        np.testing.assert_array_equal(np.array(merged)[:total], np.array(listed)[:total])

    mlx_thread.run(check)


@given(LENGTHS, st.integers(0, 40))
def test_a_group_ends_only_where_the_next_text_needs_too_much_padding(lengths: list[int], padding: int) -> None:
    from chroma_mlx.models.batch import plan_groups

    groups = plan_groups(lengths, padding)
    assert [index for group in groups for index in range(group.start, group.stop)] == list(range(len(lengths)))
    for group in groups[:-1]:
        longer = lengths[group.start : group.stop + 1]
        assert max(longer) * len(longer) - sum(longer) > padding


def hidden_states(model: Model, texts: list[list[int]], places: list[int] | None, padding: int) -> np.ndarray:
    def run() -> np.ndarray:
        import mlx.core as mx

        from chroma_mlx.models.batch import make_batch

        rows = [np.array(text, dtype=np.int32) for text in texts]
        chosen = None if places is None else np.array(places, dtype=np.int32)
        with mx.stream(mx.Device(mx.DeviceType.cpu)):
            return np.array(model.encoder(make_batch(rows, padding=padding, places=chosen)))

    return mlx_thread.run(run)


@pytest.mark.parametrize("name", ["official-float32", "sliding-window", "gemma-official", "bert-cls", "xlm-roberta"])
@pytest.mark.parametrize("padding", [0, 5, 1000])
def test_the_last_layer_gives_the_wanted_tokens_what_it_gives_all(name: str, padding: int) -> None:
    model = load_model(CHECKPOINTS / name, device="cpu")
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 250, length).tolist() for length in (40, 39, 12, 1, 3)]
    everything = np.split(hidden_states(model, texts, None, padding), np.cumsum([len(text) for text in texts])[:-1])
    for places in ([39, 38, 11, 0, 2], [0] * 5, [7, 38, 0, 0, 1]):
        want = np.stack([states[place] for states, place in zip(everything, places, strict=True)])
        worst = float(np.abs(hidden_states(model, texts, places, padding) - want).max())
        assert worst < SAME, f"{places}: differs by {worst:.1e}"
