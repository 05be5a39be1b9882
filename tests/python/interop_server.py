"""A server that ferry did not write: gRPC's interoperability service on
Python's grpcio. It prints its port and serves until its input ends."""

import sys
import time
from concurrent import futures

import grpc

from interop_messages import INITIAL, SERVICE, TRAILING, decode, encode, one, payload, payload_size


def echo_metadata(context):
    """Back to the caller what it wants to see again."""
    sent = dict(context.invocation_metadata())
    # Sent at once: there are clients that say nothing before they hear it.
    context.send_initial_metadata([(INITIAL, sent[INITIAL])] if INITIAL in sent else [])
    if TRAILING in sent:
        context.set_trailing_metadata([(TRAILING, sent[TRAILING])])


def end_as_asked(request, context):
    """Ends the call with the status that it asks for, if any."""
    asked = one(request, 7, None)
    if asked is not None:
        asked = decode(asked)
        code = {code.value[0]: code for code in grpc.StatusCode}[one(asked, 1, 0)]
        context.abort(code, one(asked, 2, b"").decode())


def compress_if_asked(wanted, context):
    """Chooses the call's encoding, by a BoolValue."""
    if one(decode(wanted), 1, 0):
        context.set_compression(grpc.Compression.Gzip)


def empty_call(_, context):
    echo_metadata(context)
    return b""


def unary_call(message, context):
    request = decode(message)
    compress_if_asked(one(request, 6, b""), context)
    echo_metadata(context)
    end_as_asked(request, context)
    return encode([(1, payload(one(request, 2, 0)))])


def outputs(request, context):
    for parameters in map(decode, request.get(2, [])):
        time.sleep(one(parameters, 2, 0) / 1e6)
        if not one(decode(one(parameters, 3, b"")), 1, 0):
            context.disable_next_message_compression()
        yield encode([(1, payload(one(parameters, 1, 0)))])


def streaming_output(message, context):
    request = decode(message)
    if request.get(2):
        # An encoding is a call's, whether a message has it is the message's.
        compress_if_asked(one(decode(request[2][0]), 3, b""), context)
    yield from outputs(request, context)
    end_as_asked(request, context)


def streaming_input(messages, _):
    return encode([(1, sum(payload_size(message) for message in messages))])


def full_duplex(messages, context):
    echo_metadata(context)
    for message in messages:
        request = decode(message)
        end_as_asked(request, context)
        yield from outputs(request, context)


def main():
    methods = {
        "EmptyCall": grpc.unary_unary_rpc_method_handler(empty_call),
        "UnaryCall": grpc.unary_unary_rpc_method_handler(unary_call),
        "StreamingOutputCall": grpc.unary_stream_rpc_method_handler(streaming_output),
        "StreamingInputCall": grpc.stream_unary_rpc_method_handler(streaming_input),
        "FullDuplexCall": grpc.stream_stream_rpc_method_handler(full_duplex),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    service = grpc.method_handlers_generic_handler(SERVICE.strip("/"), methods)
    server.add_generic_rpc_handlers((service,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


if __name__ == "__main__":
    main()
