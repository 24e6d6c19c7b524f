'use strict';

// The budgets of a hop, as docs/wire.md specifies them. Nothing here knows gRPC. All times are in microseconds.

const { clamp, format, now, storeMark, Smallest } = require('./wire');

const SECOND = 1e6, MINUTE = 60e6;

// Target is what all calls to a target share: the target budget, the reserve, and what its reports have said.
class Target {
  successes = 0; current = 0; previous = 0; reports = false; stores = new Set(); trips = new Smallest(); reserve = 0;

  constructor({ burst, ratio, minPerSecond }) {
    Object.assign(this, { burst, ratio, minPerSecond, tokens: burst, created: now(), filled: now(), second: now() });
  }

  // earn adds tokens for time and successes, drops those above the limit, and returns the number of tokens.
  earn(successes = 0) {
    const t = now(), seconds = (t - this.second) / SECOND;
    if (seconds >= 1) Object.assign(this, { previous: seconds < 2 ? this.current : 0, current: 0, second: t });
    this.current += successes;
    this.successes += successes;
    this.tokens += this.ratio * successes + (this.minPerSecond * (t - this.filled)) / SECOND;
    this.tokens = Math.min(this.tokens, Math.max(this.burst, this.ratio * Math.max(this.current, this.previous)));
    this.filled = t;
    return this.tokens;
  }

  isNew() { return now() - this.created < SECOND && this.successes < 200; }

  // learn remembers what a report says. The only sample of a minute is not used: it may have waited for the connection.
  learn(method, { e, k }, trip) {
    this.reports = true;
    if (k === storeMark(method)) this.stores.add(method);
    else this.stores.delete(method);
    if (e === undefined) return;
    const smallest = this.trips.add(now(), trip - Number(e));
    this.reserve = now() - this.sampled <= MINUTE ? Math.max(smallest.value, 0) : 0;
    this.sampled = now();
  }
}

// Request is the request budget, and what else the calls of a request share.
class Request {
  calls = 0; inFlight = 0; lent = 0; used = 0; ended = false; causes = new Set(); steps = new Map(); keys = [];

  constructor(hop, { b, k, l } = {}, more = {}) {
    Object.assign(this, { hop, k, l, root: b === undefined, tokens: b ?? hop.perRequest });
    Object.assign(this, { start: now(), deadline: Infinity }, more);
  }

  get earned() { return Math.floor(this.hop.ratio * this.calls); }

  // The tokens go back to the caller when the request ends, except for those that are lent.
  get free() { return this.ended ? 0 : this.tokens + this.earned - this.lent - this.used; }

  lend() {
    const keep = this.inFlight > 1 ? 1 + Math.floor(this.hop.ratio * (this.inFlight - 1)) : 0;
    const tokens = clamp(Math.min(Math.max(2, Math.ceil(this.free / 2)), this.free - keep), 0, 65535);
    this.lent += tokens;
    return tokens;
  }

  // end returns the report and the mark of a request that ends with a code. marked says that the server has its own mark.
  end(code, marked) {
    this.ended = true;
    const failed = code !== 0, noTokens = this.causes.has('no tokens');
    const gaveUp = marked || this.causes.has('gave up') || this.causes.has(code);
    const used = this.root ? 0 : Math.max(0, this.used + this.lent - this.earned);
    const report = { u: used, e: now() - this.start, n: failed && noTokens && !gaveUp ? 1 : undefined };
    const reported = failed || used > 0 || this.hop.successes++ % 16 === 0; // one in 16 successes is reported
    return { report: reported ? format(report) : undefined, mark: failed && (gaveUp || noTokens) };
  }
}

module.exports = { Request, Target, SECOND };
