"""What the exchanges of the specification leave open.

These are calls outside of requests, concurrent calls of one request, streams, and two settings.
"""

import contextvars
import threading
import unittest
from concurrent import futures

import grpc

import wire
from hop import Hop

METHOD = "/test.Service/Method"


class Handler(grpc.GenericRpcHandler):
    def __init__(self, handle, make):
        self._handle, self._make = handle, make

    def service(self, handler_call_details):
        return self._make(self._handle)


class HopTest(unittest.TestCase):
    def setUp(self):
        self.hop, self.lent, self.lock = Hop(burst=100, safe=[METHOD]), [], threading.Lock()
        self.target = self.serve(self.fail_with_report)

    def serve(self, handle, *interceptors, make=grpc.unary_unary_rpc_method_handler):
        server = grpc.server(futures.ThreadPoolExecutor(16), [Handler(handle, make)], interceptors)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        self.addCleanup(lambda: server.stop(0).wait())
        return address

    def fail_with_report(self, message, context):
        (value,) = wire.values(context.invocation_metadata(), wire.CONTEXT)
        with self.lock:
            self.lent.append(wire.parse_context(value)["b"])
        context.set_trailing_metadata(((wire.REPORT, "1;u=0;e=10"),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "the target is down")

    def connect(self, channel):
        self.addCleanup(channel.close)
        return channel.unary_unary(METHOD)

    def test_a_call_outside_of_a_request_is_a_root(self):
        call = self.connect(self.hop.channel(self.target))
        for start in (call, lambda message: call.future(message).result()):
            self.lent.clear()
            with self.assertRaises(grpc.RpcError):
                start(b"")
            self.assertEqual(self.lent, [5, 5, 4])

    def test_concurrent_calls_share_the_tokens_of_their_request(self):
        call = self.connect(self.hop.channel(self.target))

        def attempt():
            with self.assertRaises(grpc.RpcError):
                call(b"")

        def handle(message, context):
            threads = [threading.Thread(target=contextvars.copy_context().run, args=(attempt,)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return b""

        first = self.connect(grpc.insecure_channel(self.serve(handle, self.hop)))
        _, reply = first.with_call(b"", metadata=((wire.CONTEXT, "1;b=5;a=1"),))
        used = sum(wire.parse_report(value)["u"] for value in wire.values(reply.trailing_metadata(), wire.REPORT))
        self.assertLessEqual(used, 5)
        self.assertLessEqual(len(self.lent), 8 + 5 + 1)  # the calls, the tokens of the caller, and one that they have earned
        self.assertEqual(used, max(0, len(self.lent) - 8 - 1))

    def forwarded(self, **settings):
        """Makes a request to a service whose hop has these settings. Its handler calls a target with the request's metadata.

        It returns the metadata that the target has received, and the reply to the request.
        """
        hop, received = Hop(**settings), []

        def succeed(message, context):
            received.append(context.invocation_metadata())
            return b""

        call = self.connect(hop.channel(self.serve(succeed)))
        middle = self.serve(lambda message, context: call(message, metadata=copied(context)), hop)
        metadata = ((wire.CONTEXT, "1;b=3;a=1"), (wire.KEY, "order-17"))
        _, reply = self.connect(grpc.insecure_channel(middle)).with_call(b"", metadata=metadata)
        return received[0], reply

    def test_the_tenant_is_a_part_of_child_keys(self):
        received, _ = self.forwarded(tenant=lambda context: "alice")
        self.assertEqual(wire.values(received, wire.KEY), [wire.child_key("alice", METHOD, "order-17", METHOD, 1)])

    def test_a_call_without_side_effects_does_not_carry_the_key_of_its_request(self):
        received, _ = self.forwarded(safe=[METHOD])
        self.assertEqual(wire.values(received, wire.KEY), [])

    def test_a_hop_at_the_edge_is_a_root(self):
        received, reply = self.forwarded(edge=True)
        self.assertEqual(wire.parse_context(wire.values(received, wire.CONTEXT)[0])["b"], 5)
        self.assertEqual(wire.parse_report(wire.values(reply.trailing_metadata(), wire.REPORT)[0])["u"], 0)

    def test_a_stream_does_not_carry_the_hop_context_of_another_call(self):
        received = []

        def stream(message, context):
            received.append(context.invocation_metadata())
            return iter(())

        channel = self.hop.channel(self.serve(stream, make=grpc.unary_stream_rpc_method_handler))
        self.addCleanup(channel.close)
        metadata = ((wire.CONTEXT, "1;b=3;a=1"), (wire.PREVIOUS, "1"), ("x-other", "kept"))
        list(channel.unary_stream(METHOD)(b"", metadata=metadata))
        got = [wire.values(received[0], key) for key in (wire.CONTEXT, wire.PREVIOUS, "x-other")]
        self.assertEqual(got, [[], [], ["kept"]])


def copied(context):
    """Returns the metadata of a request, without what gRPC sends itself."""
    return tuple((key, value) for key, value in context.invocation_metadata() if key != "user-agent")


if __name__ == "__main__":
    unittest.main()
