"""A client that ferry did not write: gRPC's interoperability cases on Python's
grpcio. It prints the name of each case that passes, and exits 0 if all do."""

import queue
import sys

import grpc

from interop_messages import (
    INITIAL,
    SERVICE,
    TRAILING,
    decode,
    encode,
    one,
    output,
    payload,
    payload_size,
    status,
    truth,
)

SENT, WANTED = 271_828, 314_159
INPUTS, OUTPUTS = [27_182, 8, 1_828, 45_904], [31_415, 9, 2_653, 58_979]
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
WITHIN = 60


class Service:
    """The methods, by their names."""

    def __init__(self, channel):
        self.empty = channel.unary_unary(SERVICE + "EmptyCall")
        self.unary = channel.unary_unary(SERVICE + "UnaryCall")
        self.outputs = channel.unary_stream(SERVICE + "StreamingOutputCall")
        self.inputs = channel.stream_unary(SERVICE + "StreamingInputCall")
        self.duplex = channel.stream_stream(SERVICE + "FullDuplexCall")
        self.no_method = channel.unary_unary(SERVICE + "UnimplementedCall")
        self.no_service = channel.unary_unary("/grpc.testing.UnimplementedService/UnimplementedCall")


def same(got, wanted):
    if got != wanted:
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def fails(call, code, text=None):
    """`call` must end with `code`, and with `text` if given."""
    try:
        call()
    except grpc.RpcError as error:
        same(error.code(), code)
        if text is not None:
            same(error.details(), text)
    else:
        raise AssertionError(f"got an answer, wanted {code}")


def large(*more):
    return encode([(2, WANTED), (3, payload(SENT)), *more])


def empty_unary(service):
    same(service.empty(b"", timeout=WITHIN), b"")


def large_unary(service):
    same(payload_size(service.unary(large(), timeout=WITHIN)), WANTED)


def client_compressed_unary(service):
    expected = large((8, truth(True)))
    fails(lambda: service.unary(expected, timeout=WITHIN), grpc.StatusCode.INVALID_ARGUMENT)
    reply = service.unary(expected, timeout=WITHIN, compression=grpc.Compression.Gzip)
    same(payload_size(reply), WANTED)
    same(payload_size(service.unary(large((8, truth(False))), timeout=WITHIN)), WANTED)


def server_compressed_unary(service):
    for compressed in (True, False):
        reply = service.unary(large((6, truth(compressed))), timeout=WITHIN)
        same(payload_size(reply), WANTED)


def inputs(*more):
    return iter([encode([(1, payload(size)), *more]) for size in INPUTS])


def client_streaming(service):
    reply = service.inputs(inputs(), timeout=WITHIN)
    same(one(decode(reply), 1, 0), sum(INPUTS))


def client_compressed_streaming(service):
    expected = (2, truth(True))
    fails(lambda: service.inputs(inputs(expected), timeout=WITHIN), grpc.StatusCode.INVALID_ARGUMENT)
    reply = service.inputs(inputs(expected), timeout=WITHIN, compression=grpc.Compression.Gzip)
    same(one(decode(reply), 1, 0), sum(INPUTS))


def server_streaming(service):
    replies = service.outputs(output(OUTPUTS), timeout=WITHIN)
    same([payload_size(reply) for reply in replies], OUTPUTS)


def server_compressed_streaming(service):
    request = output(OUTPUTS[:2], compressed=[True, False])
    replies = service.outputs(request, timeout=WITHIN)
    same([payload_size(reply) for reply in replies], OUTPUTS[:2])


class Dialogue:
    """A bidirectional stream whose requests are said one by one."""

    def __init__(self, service, **options):
        self.said = queue.Queue()
        self.replies = service.duplex(iter(self.said.get, None), **{"timeout": WITHIN, **options})

    def say(self, request):
        self.said.put(request)

    def hear(self):
        return next(self.replies)

    def end(self):
        self.said.put(None)
        same(list(self.replies), [])


def ping_pong(service):
    dialogue = Dialogue(service)
    for sent, wanted in zip(INPUTS, OUTPUTS):
        dialogue.say(output([wanted]) + encode([(3, payload(sent))]))
        same(payload_size(dialogue.hear()), wanted)
    dialogue.end()


def empty_stream(service):
    Dialogue(service).end()


def custom_metadata(service):
    values = "test_initial_metadata_value", b"\xab\xab\xab"
    metadata = list(zip((INITIAL, TRAILING), values))
    reply, call = service.unary.with_call(large(), timeout=WITHIN, metadata=metadata)
    same(payload_size(reply), WANTED)
    dialogue = Dialogue(service, metadata=metadata)
    dialogue.say(output([WANTED]))
    same(payload_size(dialogue.hear()), WANTED)
    dialogue.end()
    for call in call, dialogue.replies:
        same(dict(call.initial_metadata()).get(INITIAL), values[0])
        same(dict(call.trailing_metadata()).get(TRAILING), values[1])


def status_code_and_message(service):
    echo, text = status(2, "test status message"), "test status message"
    request = encode([(7, echo)])
    fails(lambda: service.unary(request, timeout=WITHIN), grpc.StatusCode.UNKNOWN, text)
    dialogue = Dialogue(service)
    dialogue.say(output([], echo=echo))
    fails(dialogue.hear, grpc.StatusCode.UNKNOWN, text)
    dialogue.said.put(None)


def special_status_message(service):
    request = encode([(7, status(2, SPECIAL))])
    fails(lambda: service.unary(request, timeout=WITHIN), grpc.StatusCode.UNKNOWN, SPECIAL)


def unimplemented_method(service):
    fails(lambda: service.no_method(b"", timeout=WITHIN), grpc.StatusCode.UNIMPLEMENTED)


def unimplemented_service(service):
    fails(lambda: service.no_service(b"", timeout=WITHIN), grpc.StatusCode.UNIMPLEMENTED)


def cancel_after_begin(service):
    never = queue.Queue()
    call = service.inputs.future(iter(never.get, None), timeout=WITHIN)
    call.cancel()
    same(call.cancelled(), True)
    same(call.code(), grpc.StatusCode.CANCELLED)
    never.put(None)


def cancel_after_first_response(service):
    dialogue = Dialogue(service)
    dialogue.say(output([OUTPUTS[0]]))
    same(payload_size(dialogue.hear()), OUTPUTS[0])
    dialogue.replies.cancel()
    fails(dialogue.hear, grpc.StatusCode.CANCELLED)
    dialogue.said.put(None)


def timeout_on_sleeping_server(service):
    dialogue = Dialogue(service, timeout=0.001)
    dialogue.say(output([31_415], interval_us=5_000_000))
    try:
        dialogue.hear()
    except grpc.RpcError as error:
        # tonic's server keeps the deadline too, says so in its own words, and
        # may be first.
        if (error.code(), error.details()) != (grpc.StatusCode.CANCELLED, "Timeout expired"):
            same(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
    else:
        raise AssertionError("got an answer after the deadline")
    dialogue.said.put(None)


CASES = [
    empty_unary,
    large_unary,
    client_compressed_unary,
    server_compressed_unary,
    client_streaming,
    client_compressed_streaming,
    server_streaming,
    server_compressed_streaming,
    ping_pong,
    empty_stream,
    custom_metadata,
    status_code_and_message,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
]


def main():
    with grpc.insecure_channel(sys.argv[1]) as channel:
        service = Service(channel)
        for case in CASES:
            case(service)
            print(case.__name__, flush=True)


if __name__ == "__main__":
    main()
