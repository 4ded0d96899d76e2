"""The queue between stages: bounded, in order, and an error ends both sides."""

from __future__ import annotations

import threading

import pytest

from chroma_mlx.ingestion.channel import Channel, ChannelClosed


def test_items_come_in_order_and_then_the_end() -> None:
    channel = Channel[int](3)
    for item in (1, 2, 3):
        channel.put(item)
    channel.end()
    assert list(channel) == [1, 2, 3]


def test_a_full_channel_makes_the_writer_wait() -> None:
    channel, put = Channel[int](1), list[int]()

    def write() -> None:
        for item in range(3):
            channel.put(item)
            put.append(item)
        channel.end()

    writer = threading.Thread(target=write)
    writer.start()
    items = iter(channel)
    for read in range(2):
        writer.join(0.1)  # which is long, where nothing holds it up
        assert writer.is_alive()
        assert len(put) <= read + 1
        assert next(items) == read
    assert list(items) == [2]
    writer.join()
    assert put == [0, 1, 2]


def test_after_a_failure_neither_side_goes_on() -> None:
    channel = Channel[int](1)
    channel.put(1)
    ended = list[type[BaseException]]()

    def write() -> None:
        try:
            channel.put(2)  # waits for room
        except ChannelClosed as error:
            ended.append(type(error))

    writer = threading.Thread(target=write)
    writer.start()
    channel.fail()
    writer.join()
    assert ended == [ChannelClosed]
    with pytest.raises(ChannelClosed, match="ended before"):
        next(iter(channel))
