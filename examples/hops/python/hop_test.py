"""What the exchanges of the specification leave open.

These are calls outside of requests, concurrent calls, calls that cannot be made, requests that are cancelled, deadlines,
copied keys, streams, and two settings.
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
        self.target, self.pushback, self.arrived = self.serve(self.fail_with_report), (), threading.Event()

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
        self.arrived.set()
        context.set_trailing_metadata(((wire.REPORT, "1;u=0;e=10"), *self.pushback))
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

    def forwarded(self, keys=("order-17",), context="1;b=3;a=1", **settings):
        """Makes a request to a service whose hop has these settings. Its handler calls a target with the request's metadata.

        It returns the metadata that the target has received, and the reply to the request.
        """
        hop, received = Hop(**settings), []

        def succeed(message, context):
            received.append(context.invocation_metadata())
            return b""

        call = self.connect(hop.channel(self.serve(succeed)))
        middle = self.serve(lambda message, context: call(message, metadata=copied(context)), hop)
        metadata = ((wire.CONTEXT, context), *((wire.KEY, key) for key in keys))
        _, reply = self.connect(grpc.insecure_channel(middle)).with_call(b"", metadata=metadata)
        return received[0], reply

    def fails(self, call, **details):
        with self.assertRaises(grpc.RpcError) as raised:
            call(b"", **details)
        return raised.exception

    def test_a_copied_key_is_not_chosen_by_the_application(self):
        child = wire.child_key("", METHOD, "order-17", METHOD, 1)
        for keys, want in ((["order-17"], [child]), (['"order-17"'], [child]), (["a,b"], []), (["a", "b"], [])):
            received, _ = self.forwarded(keys)
            self.assertEqual(wire.values(received, wire.KEY), want, keys)

    def test_only_a_key_that_is_valid_makes_a_write_safe(self):
        for keys, attempts in ((["order-17"], 3), (["a,b"], 1), (["a", "b"], 1), ([], 1)):
            self.lent.clear()
            self.fails(self.connect(Hop().channel(self.target)), metadata=[(wire.KEY, key) for key in keys])
            self.assertEqual(len(self.lent), attempts, keys)

    def test_a_deadline_that_grpc_cannot_represent_is_none(self):
        received, _ = self.forwarded([], "1;d=9223372036854775807;s=0;c=00c0ffee00c0ffee;b=3;a=1")
        self.assertNotIn("d", wire.parse_context(wire.values(received, wire.CONTEXT)[0]))
        self.fails(self.connect(self.hop.channel(self.target)), timeout=float("inf"))

    def test_a_handler_knows_how_much_time_is_left(self):
        left = []
        address = self.serve(lambda message, context: left.append(self.hop.time_remaining()) or b"", self.hop)
        call = self.connect(grpc.insecure_channel(address))
        for context in ("1;d=60000000;s=0;c=00c0ffee00c0ffee;b=3;a=1", "1;b=3;a=1"):
            call(b"", metadata=((wire.CONTEXT, context),))
        self.assertTrue(59 < left[0] <= 60, left)
        self.assertIsNone(left[1])
        self.assertIsNone(self.hop.time_remaining())

    def test_the_reserve_takes_at_most_a_fifth_of_the_time(self):
        received = []
        address = self.serve(lambda message, context: received.append(context.invocation_metadata()) or b"")
        self.hop.target(address).reserve = 3600_000_000
        self.connect(self.hop.channel(address))(b"", timeout=60)
        sent = wire.parse_context(wire.values(received[0], wire.CONTEXT)[0])
        self.assertTrue(46_000_000 < sent["d"] - sent["s"] <= 48_001_000, sent)

    def test_nothing_is_retried_for_a_request_that_is_cancelled(self):
        self.pushback, ended = ((wire.PUSHBACK, "600000"),), threading.Event()
        call = self.connect(self.hop.channel(self.target))

        def handle(message, context):
            try:
                return call(message)
            finally:
                ended.set()

        request = self.connect(grpc.insecure_channel(self.serve(handle, self.hop))).future(b"")
        self.arrived.wait()
        request.cancel()
        self.assertTrue(ended.wait(30))
        self.assertEqual(len(self.lent), 1)

    def test_a_channel_that_is_closed_during_a_pause_ends_its_calls_with_the_last_failure(self):
        channel, target = self.hop.channel(self.target), self.hop.target(self.target)
        target.earn = lambda: channel.close() or target.tokens  # it is asked before each pause
        error = self.fails(self.connect(channel))
        self.assertEqual((error.code(), len(self.lent)), (grpc.StatusCode.UNAVAILABLE, 1))
        self.assertEqual(target.tokens, 100)

    def failed(self, call):
        """Returns the error of a call that a handler makes, and the budget of its request."""
        results = []

        def handle(message, context):
            results.append((self.fails(call), self.hop.current.get()))
            return b""

        self.connect(grpc.insecure_channel(self.serve(handle, self.hop)))(b"")
        return results[0]

    def test_a_call_whose_message_cannot_be_encoded_returns_its_tokens(self):
        def broken(message):
            raise TypeError("not a message")

        channel = self.hop.channel(self.target)
        self.addCleanup(channel.close)
        error, request = self.failed(channel.unary_unary(METHOD, request_serializer=broken))
        self.assertEqual((error.code(), request.in_flight, request.lent), (grpc.StatusCode.INTERNAL, 0, 0))

    def test_a_target_without_a_connection_uses_no_tokens(self):
        for target, options in (
            ("127.0.0.1:1", ()),
            ("127.0.0.1:1", (("grpc.lb_policy_name", "round_robin"),)),
            ("dns:///none.invalid", ()),
        ):
            error, request = self.failed(self.connect(self.hop.channel(target, options=options)))
            self.assertEqual((error.code(), request.used), (grpc.StatusCode.UNAVAILABLE, 0), target)

    def test_a_failure_that_a_handler_raises_is_marked(self):
        def fail(message, context):
            context.abort(grpc.StatusCode.UNKNOWN, "the target has failed")

        call = self.connect(self.hop.channel(self.serve(fail)))
        middle = self.serve(lambda message, context: call(message), self.hop)
        error = self.fails(self.connect(grpc.insecure_channel(middle)))
        self.assertEqual(wire.values(error.trailing_metadata(), wire.PUSHBACK), ["-1"])

    def test_messages_of_connections_that_cannot_be_told_apart_have_no_excess(self):
        receiver, message = wire.Receiver(), {"d": 1_000_000, "s": 0, "c": "00c0ffee00c0ffee"}
        self.assertEqual(receiver.remaining(None, message, 0, None), 1_000_000)
        self.assertEqual(receiver.remaining(None, message, 900_000, 2_000_000), 1_000_000)
        self.assertEqual(receiver.remaining(None, message, 900_000, 500_000), 500_000)
        self.assertEqual(receiver.remaining(None, {"s": 0, "c": "00c0ffee00c0ffee"}, 0, 500_000), 500_000)

    def test_the_tenant_is_a_part_of_child_keys(self):
        received, _ = self.forwarded(tenant=lambda context: None)
        self.assertEqual(wire.values(received, wire.KEY), [wire.child_key("", METHOD, "order-17", METHOD, 1)])
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
