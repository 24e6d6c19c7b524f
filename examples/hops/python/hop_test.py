"""What the exchanges of the specification leave open: calls outside of requests, and concurrent calls of one request."""

import contextvars
import threading
import unittest
from concurrent import futures

import grpc

import wire
from hop import Hop

METHOD = "/test.Service/Method"


class Handler(grpc.GenericRpcHandler):
    def __init__(self, handle):
        self._handle = handle

    def service(self, handler_call_details):
        return grpc.unary_unary_rpc_method_handler(self._handle)


class HopTest(unittest.TestCase):
    def setUp(self):
        self.hop, self.lent, self.lock = Hop(burst=100, safe=[METHOD]), [], threading.Lock()
        self.target = self.serve(self.fail_with_report)

    def serve(self, handle, *interceptors):
        server = grpc.server(futures.ThreadPoolExecutor(16), [Handler(handle)], interceptors)
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


if __name__ == "__main__":
    unittest.main()
