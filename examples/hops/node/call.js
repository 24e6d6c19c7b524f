'use strict';

// A unary call of @grpc/grpc-js with all of its attempts, as docs/wire.md specifies it. All times are in microseconds.

const { AsyncResource } = require('node:async_hooks');
const grpc = require('@grpc/grpc-js');
const { Request, SECOND } = require('./budget');
const wire = require('./wire');

const { now, CONTEXT, REPORT, KEY, DETAILS, PUSHBACK, PREVIOUS } = wire;
const { OK, ABORTED, UNAVAILABLE } = grpc.status;

// Call is a unary call with all of its attempts. To grpc-js, it is an InterceptingCall.
class Call {
  attempts = 0; backoffs = 0; credit = false; seen = false; reply = null;

  constructor(hop, target, options, nextCall) {
    Object.assign(this, { hop, target, options, nextCall, path: options.method_definition.path });
  }

  start(metadata, listener) {
    const { hop, path, options, target } = this, current = hop.requests.getStore();
    const request = current && !current.ended ? current : new Request(hop);
    request.calls++;
    request.inFlight++;
    // grpc-js calls back in the asynchronous context of another call if the connection was not ready.
    for (const f of ['attemptEnded', 'finish']) this[f] = AsyncResource.bind(this[f], 'hopbound', this);
    const deadline = Math.min(request.deadline, now() + (Number(options.deadline ?? Infinity) - Date.now()) * 1000);
    if (deadline < Infinity) this.options = { ...options, deadline: Date.now() + Math.floor((deadline - now()) / 1000) };
    Object.assign(this, { request, deadline, listener, metadata: metadata.clone() });
    const write = !hop.safe.has(path), keys = metadata.get(KEY);
    const isOwn = (key) => current?.keys.includes(key) || (current?.key !== undefined && wire.parseKey(key) === current.key);
    const forwarded = keys.every(isOwn); // a key that the handler has forwarded is not its choice
    const chosen = !forwarded && keys.length === 1 && wire.parseKey(keys[0]) !== undefined;
    const child = write && forwarded && request.key !== undefined;
    if (forwarded) this.metadata.remove(KEY);
    this.isSafe = () => !write || hop.idempotent.has(path) || chosen || (child && (hop.keyed.has(path) || target.stores.has(path)));
    this.observed = write && forwarded && request.k ? 1 : undefined;
    if (!child) return;
    request.steps.set(path, (request.steps.get(path) ?? 0) + 1);
    this.metadata.set(KEY, wire.childKey(request.tenant, request.path, request.key, path, request.steps.get(path)));
  }

  startRead() {}
  sendMessage(message) { this.message = message; }
  sendMessageWithContext(context, message) { this.message = message; }
  halfClose() { this.attempt(); }
  getPeer() { return this.current?.getPeer() ?? 'unknown'; }
  getAuthContext() { return this.current?.getAuthContext() ?? null; }

  cancelWithStatus(code, details) {
    this.cancelled = { code, details, metadata: new grpc.Metadata() };
    if (!this.pause) return this.current?.cancelWithStatus(code, details);
    clearTimeout(this.pause);
    this.refund();
    this.finish(this.cancelled, 'gave up');
  }

  // attempt makes an attempt. The argument is the status of the last one.
  attempt(last) {
    const { hop, request, metadata, target } = this, started = now(), time = hop.clock.read(), left = this.deadline - started;
    if (this.cancelled) return this.finish(this.cancelled);
    let call;
    try {
      call = this.nextCall(this.options);
    } catch (error) { // the client is closed
      this.refund();
      if (last) return this.finish(last, 'gave up');
      request.inFlight--;
      throw error;
    }
    const back = time + left - Math.min(target.reserve, Math.max(left, 0) / 5), lent = request.lend();
    metadata.set(CONTEXT, wire.format({
      d: back < Infinity ? Math.max(0, Math.ceil(back / 1000) * 1000) : undefined, s: Math.floor(time / 1000) * 1000,
      c: hop.clock.id, b: lent, a: ++this.attempts, k: this.observed, l: request.l || undefined,
    }));
    metadata.remove(PREVIOUS);
    if (this.attempts > 1) metadata.set(PREVIOUS, String(this.attempts - 1));
    const noPeer = call.getPeer(); // grpc-js names the peer once it has a connection
    Object.assign(this, { current: call, headers: undefined, reply: null });
    call.start(metadata, {
      onReceiveMetadata: (headers) => { this.headers = headers; },
      onReceiveMessage: (reply) => { this.reply = reply; },
      onReceiveStatus: (status) => this.attemptEnded(status, lent, now() - started, call.getPeer() === noPeer),
    });
    call.sendMessage(this.message);
    call.halfClose();
  }

  attemptEnded(status, lent, trip, unsent) {
    const { target, request } = this, { code, metadata } = status;
    const values = metadata.get(REPORT).flatMap((value) => value.split(', ')); // Node.js joins the values of a key
    const [largest] = values.map(wire.parseReport).filter(Boolean).sort((a, b) => b.u - a.u);
    const report = values.length > 1 && largest ? { u: largest.u } : largest;
    const lost = values.length === 0 && (target.reports || Object.keys(metadata.getMap()).length === 0);
    request.lent -= lent;
    if (report) request.used += Math.min(report.u, lent);
    else if (code !== OK && !unsent && (lost || values.length > 0)) request.used += lent;
    if (report && values.length === 1) target.learn(this.path, report, trip);
    if (code === OK) {
      target.earn(1);
      return this.finish(status);
    }
    if (lost && !unsent && lent > 0) this.credit = true;
    if (!unsent) this.payment = undefined; // it was for this attempt
    this.seen ||= !unsent;
    const pushback = metadata.get(PUSHBACK).join(), delay = wire.isDelay(pushback);
    this.backoffs = delay ? 0 : this.backoffs + 1;
    const backoff = Math.random() * Math.min(50e3 * 2 ** (this.backoffs - 1), SECOND);
    const pause = delay ? Math.min(pushback * 1000, 300 * SECOND) : backoff;
    const cause = this.refusal(status, pause, pushback !== '' && !delay && !report?.n, unsent);
    if (cause !== undefined) {
      this.refund();
      return this.finish(status, cause);
    }
    if (!unsent) this.pay(); // else the next attempt uses what this one was paid with
    this.pause = setTimeout(() => {
      this.pause = undefined;
      if (now() < request.deadline) return this.attempt(status);
      this.refund(); // the request was cancelled
      this.finish(status, 'ended');
    }, pause / 1000);
  }

  pay() {
    this.payment = { used: this.credit ? 0 : 1 };
    this.credit = false;
    this.target.tokens--;
    this.request.used += this.payment.used;
  }

  // refund returns what the next attempt was paid with.
  refund() {
    if (!this.payment) return;
    this.target.tokens++;
    this.request.used -= this.payment.used;
    this.payment = undefined;
  }

  // refusal returns the cause for which there is no other attempt, if there is one. The order is that of wire.md.
  refusal({ code, metadata }, pause, stop, unsent) {
    const { target, request } = this, deadline = Math.min(this.deadline, request.deadline);
    const t = now() + 2000; // grpc-js rounds a deadline down to whole milliseconds twice
    const running = () => ['IN_PROGRESS', 'LEASE_LOST'].some((r) => metadata.get(DETAILS)[0]?.includes(wire.errorInfo(r)));
    if (t >= deadline) return t >= request.deadline ? 'ended' : 'gave up';
    if (this.cancelled) return code;
    if (stop) return 'gave up';
    if (code !== UNAVAILABLE && !(code === ABORTED && this.metadata.get(KEY).length > 0 && running())) return code;
    if ((this.seen && !this.isSafe()) || this.attempts >= 3) return 'gave up';
    if (t + pause >= deadline) return 'gave up';
    if (unsent) return undefined;
    if (target.earn() < 1) return target.isNew() ? 'no tokens' : 'gave up';
    return this.credit || request.free > 0 ? undefined : 'no tokens';
  }

  finish(status, cause) {
    this.request.inFlight--;
    if (cause !== undefined) this.request.causes.add(cause);
    wire.without(status.metadata, REPORT, PUSHBACK); // a handler may answer with the error as it is
    if (this.headers) this.listener.onReceiveMetadata(this.headers);
    this.listener.onReceiveMessage(this.reply);
    this.listener.onReceiveStatus(status);
  }
}

module.exports = { Call };
