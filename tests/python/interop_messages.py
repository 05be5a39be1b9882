"""gRPC's interoperability messages, encoded by hand.

So nothing is generated and nothing but grpcio is installed. A message is a
dict from field number to a list of values: numbers for varints, bytes for all
else.
"""

VARINT, BYTES = 0, 2

SERVICE = "/grpc.testing.TestService/"
INITIAL, TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode(fields):
    """The bytes of a message, its fields in the order given."""
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3 | VARINT) + varint(value)
        else:
            out += varint(number << 3 | BYTES) + varint(len(value)) + value
    return bytes(out)


def decode(message):
    """The fields of a message that has numbers, bytes and messages only."""
    at, fields = 0, {}

    def read():
        nonlocal at
        number = shift = 0
        while True:
            byte = message[at]
            at, number, shift = at + 1, number | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return number

    while at < len(message):
        tag = read()
        value = read()
        if tag & 7 == BYTES:
            value, at = message[at : at + value], at + value
        elif tag & 7 != VARINT:
            raise ValueError(f"wire type {tag & 7} is not spoken here")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def one(fields, number, default):
    """A field that may stand once."""
    return fields.get(number, [default])[-1]


def payload(size):
    """A Payload of zeroes."""
    return encode([(2, bytes(size))])


def payload_size(message, number=1):
    """The length of the body of the Payload in field `number`."""
    return len(one(decode(one(decode(message), number, b"")), 2, b""))


def truth(value):
    """A BoolValue."""
    return encode([(1, 1)] if value else [])


def status(code, text):
    """An EchoStatus."""
    return encode([(1, code), (2, text.encode())])


def output(sizes, compressed=None, echo=None, interval_us=0):
    """A StreamingOutputCallRequest."""
    fields = []
    for place, size in enumerate(sizes):
        parameters = [(1, size), (2, interval_us)]
        if compressed is not None:
            parameters.append((3, truth(compressed[place])))
        fields.append((2, encode(parameters)))
    return encode(fields + ([(7, echo)] if echo else []))
