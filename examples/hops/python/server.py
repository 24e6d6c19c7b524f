"""A service that forwards every unary call to the first of the addresses in the metadata x-next, with the others in x-next.

It does so as often as x-calls says, until a call fails. The tests of internal/e2e/interop run it.
"""

import json
import os
import sys
import threading
from concurrent import futures

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC would print the malformed values that the tests send

import grpc  # noqa: E402

from hop import Hop  # noqa: E402

NATIVE_RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.001s",
                "maxBackoff": "0.001s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def copy_mark(error, context):
    """Ends the request with the error of a call and its mark. A service without Hopbound needs nothing else."""
    mark = [(key, value) for key, value in error.trailing_metadata() or () if key == "grpc-retry-pushback-ms"]
    context.set_trailing_metadata(mark)
    context.abort(error.code(), error.details())


class Forwarder(grpc.GenericRpcHandler):
    def __init__(self, hop, options):
        self._hop, self._options = hop, options
        self._lock, self._channels = threading.Lock(), {}

    def service(self, handler_call_details):
        method, metadata = handler_call_details.method, dict(handler_call_details.invocation_metadata)
        return grpc.unary_unary_rpc_method_handler(lambda message, context: self._forward(method, metadata, message, context))

    def _forward(self, method, metadata, message, context):
        following, _, others = metadata.get("x-next", "").partition(",")
        if not following:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no x-next")
        call = self._channel(following).unary_unary(method)
        try:
            for _ in range(int(metadata.get("x-calls", 1))):
                reply = call(message, metadata=[("x-next", others)] if others else None)
            return reply
        except grpc.RpcError as error:
            if self._hop is None:
                copy_mark(error, context)
            context.abort(error.code(), error.details())

    def _channel(self, address):
        with self._lock:
            if address not in self._channels:
                connect = grpc.insecure_channel if self._hop is None else self._hop.channel
                self._channels[address] = connect(address, options=self._options)
            return self._channels[address]


def settings():
    names = {"per_request": int, "burst": int, "ratio": float, "min_per_second": float}
    present = {name: read for name, read in names.items() if "HOP_" + name.upper() in os.environ}
    given = {name: read(os.environ["HOP_" + name.upper()]) for name, read in present.items()}
    methods = {name: os.environ.get("HOP_" + name.upper(), "").split(",") for name in ("safe", "idempotent")}
    return {**methods, **given}


def main():
    hop = None if os.environ.get("HOP_COPY_MARKS_ONLY") == "true" else Hop(**settings())
    # An application may have configured retries of its gRPC library. A hop turns them off.
    native = os.environ.get("HOP_NATIVE_RETRIES") == "true"
    options = [("grpc.service_config", json.dumps(NATIVE_RETRIES))] if native else []
    server = grpc.server(futures.ThreadPoolExecutor(32), [Forwarder(hop, options)], [hop] if hop else [])
    port = server.add_insecure_port(os.environ.get("HOP_LISTEN", "127.0.0.1:0"))
    server.start()
    print(f"127.0.0.1:{port}", flush=True)
    sys.stdin.read()
    os._exit(0)  # a handler may sleep before its next attempt


if __name__ == "__main__":
    main()
