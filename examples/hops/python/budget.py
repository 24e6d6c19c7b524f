"""The budgets of a hop, as docs/wire.md specifies them.

Nothing here knows gRPC. The hop holds its lock when it uses them. All times are in microseconds.
"""

import threading

from wire import MINUTE, Smallest, format_fields, now, parse_key, store_mark

SECOND = 1_000_000
YEAR = 365 * 86_400 * SECOND  # longer deadlines count as none, because gRPC cannot wait for them
NEVER = float("inf")


class Target:
    """What all calls to a target share: the target budget, the reserve, and what its reports have said."""

    def __init__(self, hop):
        self._hop, self.tokens, self._created, self._filled, self._second = hop, hop.burst, now(), now(), now()
        self._successes = self._current = self._previous = 0
        self.reports, self.stores, self.reserve, self._trips, self._sampled = False, set(), 0, Smallest(), None

    def earn(self, successes=0):
        """Adds tokens for time and successes, drops those above the limit, and returns the number of tokens."""
        t, hop = now(), self._hop
        if t - self._second >= SECOND:
            self._previous = self._current if t - self._second < 2 * SECOND else 0
            self._current, self._second = 0, t
        self._current += successes
        self._successes += successes
        self.tokens += hop.ratio * successes + hop.min_per_second * (t - self._filled) / SECOND
        self.tokens = min(self.tokens, max(hop.burst, hop.ratio * max(self._current, self._previous)))
        self._filled = t
        return self.tokens

    def is_new(self):
        return now() - self._created < SECOND and self._successes < 200

    def learn(self, method, report, trip):
        """Remembers what a report says. The only sample of a minute is not used: it may have waited for the connection."""
        self.reports = True
        if report.get("k") == store_mark(method):
            self.stores.add(method)
        else:
            self.stores.discard(method)
        if "e" in report:
            t, (_, smallest) = now(), self._trips.add(now(), trip - report["e"])
            recent = self._sampled is not None and t - self._sampled <= MINUTE
            self.reserve, self._sampled = max(smallest, 0) if recent else 0, t


class Request:
    """The request budget, and what else the calls of a request share."""

    def __init__(self, hop, fields, method="", tenant="", keys=(), received=None, deadline=NEVER):
        self._hop, self._root, self._tokens = hop, "b" not in fields, fields.get("b", hop.per_request)
        self.observed, self.level = fields.get("k"), fields.get("l")
        self.method, self.tenant, self.keys, self.deadline = method, tenant, keys, deadline
        self.key = parse_key(keys[0]) if len(keys) == 1 else None
        self._received, self.ended = now() if received is None else received, False
        self.calls = self.in_flight = self.lent = self.used = 0
        self.causes, self.steps, self.over = set(), {}, threading.Event()

    def _earned(self):
        return int(self._hop.ratio * self.calls)

    def free(self):
        """Returns the free tokens. They go back to the caller when the request ends."""
        return 0 if self.ended else self._tokens + self._earned() - self.lent - self.used

    def lend(self):
        keep = 1 + int(self._hop.ratio * (self.in_flight - 1)) if self.in_flight > 1 else 0
        tokens = max(0, min(max(2, (self.free() + 1) // 2), self.free() - keep, 65535))
        self.lent += tokens
        return tokens

    def end(self, code, failed, marked):
        """Returns the report, or None, and whether there is a mark. marked says that the server has its own."""
        self.ended = True
        no_tokens = "no tokens" in self.causes
        gave_up = marked or "gave up" in self.causes or code in self.causes
        used = 0 if self._root else max(0, self.used + self.lent - self._earned())
        report = {"u": used, "e": now() - self._received, "n": 1 if failed and no_tokens and not gave_up else None}
        if not failed:
            self._hop.successes += 1  # one in 16 is reported
        reported = failed or used > 0 or self._hop.successes % 16 == 1
        return format_fields(report) if reported else None, failed and (gave_up or no_tokens)
