"""Frames of events: shared by the readers of one channel, with ids in the order of writing for readers of several."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from starling.client.event_frames import EventIds, EventStreams, IdentifyingTransport
from starling.engine.hub import SubscriberIndex
from starling.engine.unreadable_messages import UnreadableMessages
from starling.protocol.messages import Batch, Frame, Publication, Push
from starling.protocol.resume_id import parse_resume_id
from tests.support.event_reader import EventReader
from tests.support.fake_receivers import FakeReceiver
from tests.support.json_transport import JsonTransport

CHANNELS = ("a", "b", "c")


class Written(JsonTransport):
    """What was written, as a reader understands it."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = EventReader()

    def send_frame(self, frame: Frame) -> None:
        self.reader.feed(frame.payload)


def push(channel: str, offset: int) -> Push:
    return Push(channel, pub=Publication(Raw(f'"{channel}{offset}"'.encode()), offset=offset))


@given(st.lists(st.tuples(st.sampled_from(CHANNELS), st.booleans()), max_size=30))
def test_an_id_names_only_what_was_written_before_it(published: list[tuple[str, bool]]) -> None:
    """Frames of different channels may be written in another order than they were encoded, one by one or in batches."""
    streams = EventStreams(lambda channel: f"of-{channel}", 16, 2**20)
    written, waiting = Written(), {channel: list[Frame]() for channel in CHANNELS}
    transport = IdentifyingTransport(written, EventIds(CHANNELS))
    offsets = dict.fromkeys(CHANNELS, 0)

    def write(channel: str) -> None:
        frames, waiting[channel] = waiting[channel], []
        if len(frames) == 1:
            transport.send_frame(frames[0])
        elif frames:
            transport.send_batch(Batch(frames))

    for channel, now in published:
        offsets[channel] += 1
        waiting[channel].append(streams.partial.encode_push(push(channel, offsets[channel])))
        if now:
            write(channel)
    for channel in reversed(CHANNELS):
        write(channel)

    seen = dict.fromkeys(CHANNELS, 0)
    for event in written.reader.events:
        channel = event.data.strip('"')[0]
        seen[channel] += 1
        named = parse_resume_id(event.last_event_id, len(CHANNELS)).positions
        assert {CHANNELS[index]: at.offset for index, at in named.items()} == {c: n for c, n in seen.items() if n}
    assert seen == offsets


def test_readers_of_one_channel_share_each_frame_and_its_id() -> None:
    streams, index = EventStreams(lambda channel: "epoch", 16, 2**20), SubscriberIndex(UnreadableMessages())
    for _ in range(3):
        receiver = FakeReceiver()
        receiver.encoder = streams.resumable
        index.add("a", receiver)

    ((group, frame),) = index.encode(push("a", 7))

    assert len(group) == 3
    assert frame.payload == b'data: "a7"\nid: epoch:7\n\n'
