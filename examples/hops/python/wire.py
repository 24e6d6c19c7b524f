"""The values that hops send each other, and the arithmetic of the deadline, as docs/wire.md specifies them.

Nothing here knows gRPC or threads. All times are integers, in microseconds.
"""

import hashlib
import re
import secrets
import time
import uuid
from collections import OrderedDict

# The keys of metadata.
CONTEXT, REPORT, KEY, DETAILS = "hop-context", "hop-report", "idempotency-key", "grpc-status-details-bin"
PUSHBACK, PREVIOUS = "grpc-retry-pushback-ms", "grpc-previous-rpc-attempts"

MINUTE = 60_000_000


def now():
    return time.monotonic_ns() // 1000


def values(metadata, key):
    """Returns the values of a key in metadata, which may be None."""
    return [value for k, value in metadata or () if k == key]


def without(metadata, *keys):
    """Returns metadata without some keys."""
    return tuple((key, value) for key, value in metadata or () if key not in keys)


def _number(low, high):
    return lambda text: int(text) if re.fullmatch("[0-9]{1,19}", text) and low <= int(text) <= high else None


def _id(text):
    return text.lower() if re.fullmatch("[0-9a-fA-F]{16}", text) else None


# The type of a field returns the value of a text, or None if the text is malformed.
_TIME = _number(0, 2**63 - 1)
_CONTEXT = {"d": _TIME, "s": _TIME, "c": _id, "b": _number(0, 65535), "a": _number(1, 65535), "k": _number(0, 1), "l": _number(0, 3)}
_REPORT = {"u": _number(0, 65535), "e": _TIME, "n": _number(0, 1), "k": _id}


def _parse(value, types):
    if len(value) > 256 or not re.fullmatch("1(;[a-z][a-z0-9_-]*=[!-:<-~]+)*", value):
        return None
    fields, keys = {}, set()
    for field in value.split(";")[1:]:
        key, _, text = field.partition("=")
        if key in keys:
            return None
        keys.add(key)
        if key in types:
            fields[key] = types[key](text)
            if fields[key] is None:
                return None
    return fields


def parse_context(value):
    """Returns the fields of a hop-context, or None if it is malformed."""
    fields = _parse(value, _CONTEXT)
    if fields and not {"s", "c"} <= fields.keys():  # the times say nothing without the clock, nor the clock without s
        fields = {key: field for key, field in fields.items() if key not in "dsc"}
    return fields


def parse_report(value):
    """Returns the fields of a hop-report, or None if it is malformed."""
    fields = _parse(value, _REPORT)
    return None if fields is None else {"u": 0, **fields}


def format_fields(fields):
    """Returns the value with the fields that are not None."""
    return ";".join(["1"] + [f"{key}={field}" for key, field in fields.items() if field is not None])


def parse_key(value):
    """Returns the idempotency key of a metadata value, or None if it is malformed."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    valid = re.fullmatch(r"[ !#-+\--~]{1,255}", value) and value == value.strip(" ")
    return value if valid else None


def parse_pushback(values):
    """Returns whether a pushback forbids a retry, and the delay that it asks for, or None."""
    if len(values) == 1 and re.fullmatch("0|[1-9][0-9]{0,9}", values[0]) and int(values[0]) < 2**31:
        return False, int(values[0]) * 1000
    return bool(values), None


def child_key(tenant, handler, key, method, n):
    """Returns the key of the nth call to a method, made by a handler that runs under a key."""

    def digest(*parts):
        parts = [part if isinstance(part, bytes) else part.encode() for part in parts]
        return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()

    child = bytearray(digest("child", digest("id", tenant, handler, key), key, method, f"call {n}")[:16])
    child[6] = child[6] & 0x0F | 0x80  # version 8
    child[8] = child[8] & 0x3F | 0x80  # variant 2
    return str(uuid.UUID(bytes=bytes(child)))


def store_mark(method):
    """Returns the k of the reports of a server that stores the outcomes of a method."""
    return hashlib.sha256(method.encode()).hexdigest()[:16]


def _part(tag, data):
    return bytes([tag << 3 | 2, len(data)]) + data  # a part of a protobuf message, of up to 127 bytes


def error_info(reason):
    """Returns an encoded google.rpc.ErrorInfo."""
    return _part(1, reason.encode()) + _part(2, b"hopbound")


def status_details(code, message, reason):
    """Returns an encoded google.rpc.Status with an ErrorInfo."""
    detail = _part(1, b"type.googleapis.com/google.rpc.ErrorInfo") + _part(2, error_info(reason))
    return bytes([8, code]) + _part(2, message.encode()) + _part(3, detail)


class Clock:
    """A clock that never goes back. It becomes a new clock if the machine was suspended."""

    id = None

    def read(self):
        wall, monotonic = time.time_ns() // 1000, now()
        if self.id is None or abs(wall - monotonic - self._offset) > 50_000:
            self.id, self._offset = secrets.token_hex(8), wall - monotonic
        self._offset = max(self._offset, wall - monotonic)
        return monotonic + self._offset


class Smallest:
    """The smallest value of the last minute. It keeps at most one entry a second."""

    def __init__(self):
        self._entries = []

    def add(self, at, value):
        """Adds a value, and returns when the smallest was added, and its value."""
        self._entries = [(t, v) for t, v in self._entries if at - t <= MINUTE and v < value]
        if not self._entries or at - self._entries[-1][0] >= 1_000_000:
            self._entries.append((at, value))
        return self._entries[0]


class Receiver:
    """Computes how long received messages have left."""

    def __init__(self):
        self._delays = OrderedDict()  # by connection and clock id, in the order of their use

    def remaining(self, connection, fields, received, timeout):
        """Returns the time that a message has left, or None. timeout is what remains by grpc-timeout, or None."""
        if "s" not in fields:
            return timeout
        excess = 0 if connection is None else self._excess(connection, fields, received)
        if "d" not in fields:
            return timeout
        left = fields["d"] - fields["s"] - excess
        return left if timeout is None else min(timeout, left)

    def _excess(self, connection, fields, received):
        clock, delay = (connection, fields["c"]), received - fields["s"]
        at, base = self._delays.setdefault(clock, Smallest()).add(received, delay)
        self._delays.move_to_end(clock)
        if len(self._delays) > 4096:
            self._delays.popitem(last=False)
        allowance = 1000 + (received - at) // 2000
        return min(max(delay - base - allowance, 0), MINUTE)
