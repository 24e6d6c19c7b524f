"""A hop of Hopbound for the unary calls of grpcio, as docs/wire.md specifies it."""

import contextvars
import re
import threading

import grpc

import wire
from budget import NEVER, SECOND, YEAR, Request, Target
from call import Call, CallDetails
from wire import CONTEXT, DETAILS, KEY, PREVIOUS, PUSHBACK, REPORT, now, values, without


class _Client(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def __init__(self, hop, target):
        self._hop, self._target = hop, target

    def intercept_unary_unary(self, continuation, details, message):
        return Call(self._hop, self._hop.target(self._target), details).run(continuation, message)

    def intercept_unary_stream(self, continuation, details, message):
        metadata = without(details.metadata, CONTEXT, PREVIOUS)  # a stream must not carry those of another call
        return continuation(CallDetails(*details._replace(metadata=metadata)), message)

    intercept_stream_unary = intercept_stream_stream = intercept_unary_stream


class Hop(grpc.ServerInterceptor):
    """Makes a service a hop. It is an interceptor of the server. README.md describes its settings."""

    def __init__(
        self, per_request=10, burst=3, ratio=0.2, min_per_second=0.02, safe=(), idempotent=(), keyed=(), edge=False, tenant=None
    ):
        self.per_request, self.burst, self.ratio, self.min_per_second = per_request, burst, ratio, min_per_second
        self.safe, self.idempotent, self.keyed = set(safe), set(idempotent), set(keyed)
        self._edge, self._tenant = edge, tenant or (lambda context: "")
        self.lock, self.clock, self._receiver, self._targets = threading.Lock(), wire.Clock(), wire.Receiver(), {}
        self.current, self.successes = contextvars.ContextVar("request"), 0

    def channel(self, target, credentials=None, options=()):
        """Returns a channel to a target. gRPC's own retries are off, because they have no budget."""
        options = [option for option in options if option[0] != "grpc.enable_retries"] + [("grpc.enable_retries", 0)]
        channel = grpc.secure_channel(target, credentials, options) if credentials else grpc.insecure_channel(target, options)
        return grpc.intercept_channel(channel, _Client(self, target))

    def target(self, target):
        with self.lock:
            if target not in self._targets:
                self._targets[target] = Target(self)
            return self._targets[target]

    def time_remaining(self):
        """Returns the seconds that the request of the current handler has left, or None. A handler should end within it."""
        request = self.current.get(None)
        return None if request is None or request.deadline == NEVER else max(0, request.deadline - now()) / SECOND

    def intercept_service(self, continuation, details):
        received, handler = now(), continuation(details)
        if handler is None or handler.request_streaming or handler.response_streaming:
            return handler

        def run(message, context):
            request, failed = self._receive(details, received, context), True
            if not context.add_callback(request.over.set):
                request.over.set()  # the caller has gone
            reset = self.current.set(request)
            try:
                if now() >= request.deadline:
                    self._reject(context)
                reply = handler.unary_unary(message, context)
                failed = context.code() not in (None, grpc.StatusCode.OK)
                return reply
            finally:
                self.current.reset(reset)
                self._answer(request, context, failed)

        return grpc.unary_unary_rpc_method_handler(run, handler.request_deserializer, handler.response_serializer)

    def _receive(self, details, received, context):
        contexts, keys = (values(details.invocation_metadata, key) for key in (CONTEXT, KEY))
        fields = not self._edge and len(contexts) == 1 and wire.parse_context(contexts[0]) or {}
        timeout = context.time_remaining()  # centuries if there is no deadline
        timeout = None if timeout is None or timeout * SECOND > YEAR else int(timeout * SECOND) + now() - received
        peer = context.peer() if re.search(":[0-9]+$", context.peer()) else None  # all connections of a Unix socket have the same peer
        with self.lock:
            left = self._receiver.remaining(peer, fields, received, timeout)
        deadline = NEVER if left is None or left > YEAR else received + left
        return Request(self, fields, details.method, self._tenant(context) or "", keys, received, deadline)

    def _reject(self, context):
        code, message = grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed"
        context.set_trailing_metadata(((DETAILS, wire.status_details(code.value[0], message, "DEADLINE_EXPIRED")),))
        context.abort(code, message)

    def _answer(self, request, context, failed):
        metadata = without(context.trailing_metadata(), REPORT)
        own, _ = wire.parse_pushback(values(metadata, PUSHBACK))
        code = context.code() or grpc.StatusCode.UNKNOWN  # an exception in a handler becomes UNKNOWN
        with self.lock:
            report, mark = request.end(code, failed, own)
        if mark:
            metadata = without(metadata, PUSHBACK) + ((PUSHBACK, "-1"),)
        if report is not None:
            metadata += ((REPORT, report),)
        context.set_trailing_metadata(metadata)
