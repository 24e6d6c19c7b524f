'use strict';

// A hop of Hopbound for the unary calls of @grpc/grpc-js, as docs/wire.md specifies it.

const { AsyncLocalStorage } = require('node:async_hooks');
const grpc = require('@grpc/grpc-js');
const { Request, Target } = require('./budget');
const { Call } = require('./call');
const wire = require('./wire');

const YEAR = BigInt(365 * 86400 * 1e6); // longer deadlines count as none, because grpc-js cannot represent them
const { now, CONTEXT, REPORT, KEY, DETAILS, PUSHBACK, PREVIOUS } = wire;

// Hop makes a service a hop. README.md describes its settings.
class Hop {
  requests = new AsyncLocalStorage();
  receiver = new wire.Receiver();
  clock = new wire.Clock();
  targets = new Map();
  successes = 0;

  constructor(settings = {}) {
    const given = Object.entries(settings).filter(([, value]) => value !== undefined);
    const numbers = { perRequest: 10, burst: 3, ratio: 0.2, minPerSecond: 0.02 };
    Object.assign(this, numbers, { edge: false, tenant: () => '' }, Object.fromEntries(given));
    for (const name of Object.keys(numbers)) {
      if (!Number.isFinite(this[name]) || this[name] < 0) throw new TypeError(`${name} must be a finite number and must not be negative`);
    }
    for (const methods of ['safe', 'idempotent', 'keyed']) this[methods] = new Set(settings[methods]);
  }

  // client returns the options of a gRPC client for an address. gRPC's own retries are off, because they have no budget.
  client(address, options = {}) {
    const intercept = (callOptions, nextCall) => {
      const { requestStream, responseStream } = callOptions.method_definition;
      if (!requestStream && !responseStream) return new Call(this, this.target(address), callOptions, nextCall);
      return new grpc.InterceptingCall(nextCall(callOptions), { // a stream takes no tokens, and must not carry another call's
        start: (metadata, listener, next) => next(wire.without(metadata, CONTEXT, PREVIOUS), listener),
      });
    };
    return { ...options, 'grpc.enable_retries': 0, interceptors: [...(options.interceptors ?? []), intercept] };
  }

  target(address) {
    if (!this.targets.has(address)) this.targets.set(address, new Target(this));
    return this.targets.get(address);
  }

  // server is an interceptor of a gRPC server.
  server = (method, call) => {
    if (method.requestStream || method.responseStream) return new grpc.ServerInterceptingCall(call);
    let request, end;
    const expire = () => intercepted.sendStatus(failure('DEADLINE_EXCEEDED', 'the deadline passed', 'DEADLINE_EXPIRED'));
    const intercepted = new grpc.ServerInterceptingCall(call, {
      start: (next) => next({
        onReceiveMetadata: (metadata, next) => {
          try {
            request = this.receive(method.path, metadata, call);
          } catch { // tenant, a function of the application, has failed
            return intercepted.sendStatus(failure('UNAUTHENTICATED', 'the caller has no tenant'));
          }
          const left = (request.deadline - now()) / 1000;
          if (left <= 0) return expire();
          if (left < 2 ** 31) end = setTimeout(expire, left);
          return next(metadata);
        },
        onReceiveHalfClose: (next) => this.requests.run(request, next),
        onCancel: () => {
          clearTimeout(end);
          if (request) request.deadline = 0; // nobody waits for its calls
        },
      }),
      sendStatus: (status, next) => {
        clearTimeout(end);
        next(request && !request.ended ? answer(request, status) : status);
      },
    });
    return intercepted;
  };

  receive(path, metadata, call) {
    const start = now(), [value, ...more] = metadata.get(CONTEXT), keys = metadata.get(KEY);
    const fields = (!this.edge && value !== undefined && more.length === 0 && wire.parseContext(value)) || {};
    const timeout = call.getDeadline() === Infinity ? undefined : BigInt(Math.round((call.getDeadline() - Date.now()) * 1000));
    const peer = /:[0-9]+$/.test(call.getPeer()) ? call.getPeer() : undefined; // all connections of a Unix socket have the same peer
    const left = this.receiver.remaining(peer, fields, BigInt(start), timeout);
    return new Request(this, fields, {
      path, start, deadline: left === undefined || left > YEAR ? Infinity : start + Number(left), tenant: String(this.tenant(call) ?? ''),
      key: keys.length === 1 ? wire.parseKey(keys[0]) : undefined, keys,
    });
  }
}

function failure(name, details, reason) {
  const code = grpc.status[name], metadata = new grpc.Metadata();
  if (reason) metadata.set(DETAILS, wire.statusDetails(code, details, reason));
  return { code, details, metadata };
}

// answer adds the report and the mark of a request to its status.
function answer(request, status) {
  const metadata = wire.without(status.metadata?.clone() ?? new grpc.Metadata(), REPORT);
  const { report, mark } = request.end(status.code, metadata.get(PUSHBACK).some((value) => !wire.isDelay(value)));
  if (report) metadata.set(REPORT, report);
  if (mark) metadata.set(PUSHBACK, '-1');
  return { ...status, metadata };
}

module.exports = { Hop };
