"""A unary call of grpcio with all of its attempts, as docs/wire.md specifies it. All times are in microseconds."""

import random
from collections import namedtuple

import grpc

import wire
from budget import NEVER, SECOND, YEAR, Request
from wire import CONTEXT, DETAILS, KEY, PREVIOUS, PUSHBACK, REPORT, now, values, without


class CallDetails(
    namedtuple("CallDetails", "method timeout metadata credentials wait_for_ready compression"), grpc.ClientCallDetails
):
    """The details of a client's call, which interceptors may replace."""


class Call:
    """A unary call with all of its attempts."""

    def __init__(self, hop, target, details):
        self._hop, self._target, self._details = hop, target, details
        self._attempts, self._backoffs, self._lent, self._credit, self._seen, self._paid = 0, 0, 0, False, False, None
        with hop.lock:
            current = hop.current.get(None)
            request = current if current and not current.ended else Request(hop, {})  # work outside of requests is a root
            request.calls += 1
            request.in_flight += 1
            own = NEVER if details.timeout is None or details.timeout * SECOND > YEAR else now() + int(details.timeout * SECOND)
            self._request, self._deadline = request, min(own, request.deadline)
            self._choose_key(values(details.metadata, KEY), current.keys if current else [])

    def _choose_key(self, sent, received):
        hop, request, method = self._hop, self._request, self._details.method
        write = method not in hop.safe
        own = {*received, *({f'"{request.key}"', request.key} if request.key else ())}
        forwarded = set(sent) <= own  # a key that the handler has forwarded is not its choice
        chosen = not forwarded and len(sent) == 1 and wire.parse_key(sent[0]) is not None
        child = write and forwarded and request.key is not None
        self._keys = [] if forwarded else sent
        if child:
            request.steps[method] = request.steps.get(method, 0) + 1
            self._keys = [wire.child_key(request.tenant, request.method, request.key, method, request.steps[method])]
        repeatable = not write or method in hop.idempotent or chosen
        self._is_safe = lambda: repeatable or child and (method in hop.keyed or method in self._target.stores)
        self._observed = (request.observed if write and forwarded else None) or None

    def run(self, continuation, message):
        request, last, cause = self._request, None, None
        try:
            while True:
                details, started = self._attempt()
                outcome = continuation(details, message)
                error = outcome.exception()  # waits for a future
                if error is not None and not isinstance(error, grpc.RpcError):  # the channel is closed
                    cause = "gave up"
                    return outcome if last is None else last
                last = outcome
                with self._hop.lock:
                    pause, cause = self._attempt_ended(outcome, outcome.code(), now() - started)
                if pause is None:
                    return last
                if request.over.wait(pause / SECOND):
                    cause = "ended"
                    return last
        finally:
            with self._hop.lock:
                request.in_flight -= 1
                request.lent -= self._lent
                request.causes |= {cause} - {None}
                if self._paid is not None:  # for an attempt that no server has seen
                    self._target.tokens += 1
                    request.used -= self._paid

    def _attempt(self):
        hop, request, details = self._hop, self._request, self._details
        with hop.lock:
            self._attempts += 1
            self._lent, started, sent = request.lend(), now(), hop.clock.read()
            fields = {"d": None, "s": sent // 1000 * 1000, "c": hop.clock.id, "b": self._lent, "a": self._attempts}
            timeout = None
            if self._deadline < NEVER:
                timeout = max(self._deadline - started, 0)
                back = sent + timeout - min(self._target.reserve, timeout // 5)
                fields["d"] = max(-(-back // 1000) * 1000, 0)
            fields.update(k=self._observed, l=request.level or None)
        metadata = without(details.metadata, CONTEXT, PREVIOUS, KEY) + ((CONTEXT, wire.format_fields(fields)),)
        metadata += tuple((KEY, key) for key in self._keys)
        if self._attempts > 1:
            metadata += ((PREVIOUS, str(self._attempts - 1)),)
        timeout = None if timeout is None else timeout / SECOND
        attempt = CallDetails(details.method, timeout, metadata, details.credentials, details.wait_for_ready, details.compression)
        return attempt, started

    def _attempt_ended(self, outcome, code, trip):
        """Settles the tokens. It returns the pause before the next attempt, or None and the cause of the failure."""
        request, target, metadata = self._request, self._target, outcome.trailing_metadata() or ()
        failed = code is not grpc.StatusCode.OK
        unsent = failed and _unsent(outcome)
        sent = values(metadata, REPORT)
        reports = [report for report in map(wire.parse_report, sent) if report is not None]
        report = max(reports, key=lambda r: r["u"], default=None)
        if report is not None and len(sent) > 1:
            report = {"u": report["u"]}
        lost = failed and not unsent and not sent and (target.reports or not metadata)
        lent, self._lent = self._lent, 0
        request.lent -= lent
        if report is not None:
            request.used += min(report["u"], lent)
            if len(sent) == 1:
                target.learn(self._details.method, report, trip)
        elif failed and not unsent and (lost or sent):
            request.used += lent
        if not unsent:
            self._paid = None  # it was for this attempt
        if not failed:
            target.earn(1)
            return None, None
        self._credit = lost and lent > 0
        self._seen = self._seen or not unsent
        stop, delay = wire.parse_pushback(values(metadata, PUSHBACK))
        self._backoffs = self._backoffs + 1 if delay is None else 0
        pause = random.random() * min(50_000 * 2 ** max(self._backoffs - 1, 0), SECOND)
        pause = pause if delay is None else min(delay, 300 * SECOND)
        stop = stop and not (report and report.get("n"))
        cause = self._refusal(code, metadata, pause, stop, unsent)
        if cause is None and not unsent:  # else the next attempt uses what this one was paid with
            self._paid = 0 if self._credit else 1
            target.tokens -= 1
            request.used += self._paid
        return (pause, None) if cause is None else (None, cause)

    def _is_running(self, code, metadata):
        """Says whether another attempt with the same key still runs."""
        info = b"".join(values(metadata, DETAILS))
        running = wire.error_info("IN_PROGRESS") in info or wire.error_info("LEASE_LOST") in info
        return code is grpc.StatusCode.ABORTED and bool(self._keys) and running

    def _refusal(self, code, metadata, pause, stop, unsent):
        """Returns the cause for which there is no other attempt, or None. The order is that of wire.md."""
        t, request = now() + 1000, self._request  # gRPC's timers have a resolution of a millisecond
        if request.over.is_set():
            return "ended"
        if t >= self._deadline:
            return "ended" if t >= request.deadline else "gave up"
        if stop:
            return "gave up"
        if code is not grpc.StatusCode.UNAVAILABLE and not self._is_running(code, metadata):
            return code
        if self._seen and not self._is_safe() or self._attempts >= 3:
            return "gave up"
        if t + pause >= self._deadline:
            return "gave up"
        if unsent:
            return None
        if self._target.earn() < 1:
            return "no tokens" if self._target.is_new() else "gave up"
        return None if self._credit or request.free() > 0 else "no tokens"


_UNSENT = tuple(
    "UNKNOWN:" + text
    for text in ("failed to connect to all addresses", "connections to all backends failing", "DNS resolution failed")
)


def _unsent(outcome):
    """Says whether no connection was picked. grpcio shows this only in the debug text, which begins with one of _UNSENT."""
    describe = getattr(outcome, "debug_error_string", str)
    return (describe() or "").startswith(_UNSENT)
