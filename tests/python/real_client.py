"""A client that ferry did not write: Python's grpcio, sending the old form.

It makes many concurrent CreateSession calls of one session each, as a client
up to v0.3.2 does, wants OK for every one, and reads the sessions back: all in
one stream, and a sample one by one. Then it does the same, in the single form,
with subscriptions, consumer offsets and values. It exits 0 only if every byte is
there.

The few protobuf fields are encoded by hand, so that nothing is generated and
nothing but grpcio is installed.
"""

import argparse
import asyncio
import collections
import hashlib
import sys
import time

import grpc
import grpc.aio

SERVICE = "/meta.service.mqtt.MqttService/"
LENGTH_DELIMITED = 2
CALL_SECONDS = 60


def varint(number):
    """Seven bits a byte, lowest first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """A string or bytes field."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value


def create_request(client_id, session):
    """The old single form: client_id=2, session=3."""
    return field(2, client_id.encode()) + field(3, session)


def list_request(client_id):
    """client_id=2; without it, every session."""
    return field(2, client_id.encode()) if client_id else b""


def read_varint(message, at):
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def session_of(message):
    """session=1, the reply's only field; absent when it is empty."""
    if not message:
        return b""
    tag, at = read_varint(message, 0)
    length, at = read_varint(message, at)
    if tag != 1 << 3 | LENGTH_DELIMITED or at + length != len(message):
        raise SystemExit(f"ListSession: a reply that is no session: {message[:40]!r}")
    return message[at : at + length]


def session_for(client_id):
    """Bytes that no other client has, of many lengths, some needing two
    bytes of length prefix; not valid UTF-8, so nothing may treat it as text."""
    seed = hashlib.sha256(client_id.encode()).digest()
    return b"\xff" + seed * (1 + seed[0] % 16) + client_id.encode()


class Client:
    """The session service over several connections, calls spread evenly."""

    def __init__(self, target, connections):
        # Without a pool of its own, equal channels would share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels = [
            grpc.aio.insecure_channel(target, options=options) for _ in range(connections)
        ]
        self.creates = [c.unary_unary(SERVICE + "CreateSession") for c in self.channels]
        self.lists = [c.unary_stream(SERVICE + "ListSession") for c in self.channels]

    async def create(self, number, client_id):
        """None, or why the call failed."""
        call = self.creates[number % len(self.creates)]
        try:
            reply = await call(
                create_request(client_id, session_for(client_id)), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        return None if reply == b"" else f"a reply that should be empty: {reply[:40]!r}"

    async def sessions(self, number, client_id):
        call = self.lists[number % len(self.lists)]
        stream = call(list_request(client_id), timeout=CALL_SECONDS)
        return [session_of(message) async for message in stream]

    async def close(self):
        for channel in self.channels:
            await channel.close()


async def other_writes(target, count):
    """Old single forms of the other hot writes, at once; all of them OK."""
    common = "/meta.service.common.MetaServiceService/"
    async with grpc.aio.insecure_channel(target) as channel:

        async def call(path, request):
            return await channel.unary_unary(path)(request, timeout=CALL_SECONDS)

        def text(number, value):
            return field(number, value.encode())

        def subscribe(number):
            return call(
                SERVICE + "SetSubscribe",
                text(1, f"c{number}") + text(2, "a/#") + field(3, f"sub {number}".encode()),
            )

        def offset(number):
            # shard_name=2, offset=3; in an entry of group=1, tenant=3.
            record = text(2, f"s{number}") + varint(3 << 3) + varint(number)
            entry = text(1, "g") + field(2, record) + text(3, "t")
            return call(common + "SaveOffsetData", field(2, entry))

        def value(number):
            return call(common + "Set", text(1, f"k/{number:05}") + text(2, f"value {number:05}"))

        for name, write, want in (
            ("SetSubscribe", subscribe, b""),
            ("SaveOffsetData", offset, b"\x08\x01"),
            ("Set", value, b""),
        ):
            replies = await asyncio.gather(*(write(number) for number in range(count)))
            if set(replies) != {want}:
                raise SystemExit(f"{name}: replies {set(replies)!r}, want {want!r} of each")

        stream = channel.unary_stream(SERVICE + "ListSubscribe")(b"", timeout=CALL_SECONDS)
        listed = {session_of(message) async for message in stream}
        if listed != {f"sub {number}".encode() for number in range(count)}:
            raise SystemExit(f"ListSubscribe: {len(listed)} of {count} subscriptions, or others")
        got = await call(common + "GetPrefix", text(1, "k/"))
        if got != b"".join(text(1, f"value {number:05}") for number in range(count)):
            raise SystemExit("GetPrefix: the values differ from what was acknowledged")
        kept = await call(common + "GetOffsetData", text(1, "t") + text(2, "g"))
        if kept.count(b"\x12") < count:
            raise SystemExit(f"GetOffsetData: fewer than {count} offsets")


async def run(args):
    client_ids = [f"{args.prefix}-{number}" for number in range(args.count)]
    client = Client(args.target, args.connections)
    try:
        begun = time.monotonic()
        answers = await asyncio.gather(
            *(client.create(number, client_id) for number, client_id in enumerate(client_ids))
        )
        seconds = time.monotonic() - begun
        failures = collections.Counter(answer for answer in answers if answer)
        if failures:
            why, times = failures.most_common(1)[0]
            raise SystemExit(
                f"CreateSession: {failures.total()} of {args.count} calls failed; {times} with {why}"
            )

        listed = collections.Counter(await client.sessions(0, None))
        wrong = [c for c in client_ids if listed[session_for(c)] != 1]
        if wrong:
            raise SystemExit(
                f"ListSession of all: {len(wrong)} of {args.count} acknowledged sessions"
                f" are not there once, byte for byte; the first is {wrong[0]}"
            )

        sample = client_ids[:: max(1, args.count // args.sample)][: args.sample]
        found = await asyncio.gather(
            *(client.sessions(number, client_id) for number, client_id in enumerate(sample))
        )
        for client_id, sessions in zip(sample, found):
            if sessions != [session_for(client_id)]:
                raise SystemExit(
                    f"ListSession of {client_id}: want its one session, got {len(sessions)}"
                    " that differ from what was acknowledged"
                )
    except grpc.aio.AioRpcError as error:
        raise SystemExit(f"ListSession: {error.code().name}: {error.details()}") from error
    finally:
        await client.close()
    try:
        await other_writes(args.target, args.others)
    except grpc.aio.AioRpcError as error:
        raise SystemExit(f"another write: {error.code().name}: {error.details()}") from error
    print(
        f"{args.count} created in {seconds:.2f} s, all read back,"
        f" {len(sample)} of them one by one: every byte equal;"
        f" {args.others} subscriptions, offsets and values likewise"
    )


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be at least 1")
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--count", type=positive, default=2000, help="concurrent calls")
    parser.add_argument("--connections", type=positive, default=8)
    parser.add_argument("--sample", type=positive, default=100, help="read one by one")
    parser.add_argument("--others", type=positive, default=300, help="calls of each other write")
    parser.add_argument("--prefix", default="python", help="of every client_id")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    sys.exit(main())
