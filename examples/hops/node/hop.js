'use strict';

// A hop of Hopbound for the unary calls of @grpc/grpc-js, as docs/wire.md specifies it.

const { AsyncLocalStorage } = require('node:async_hooks');
const grpc = require('@grpc/grpc-js');
const { Request, Target } = require('./budget');
const { Call } = require('./call');
const wire = require('./wire');

const { now, CONTEXT, REPORT, KEY, DETAILS, PUSHBACK, PREVIOUS } = wire;

// Hop makes a service a hop. README.md describes its settings.
class Hop {
  requests = new AsyncLocalStorage();
  receiver = new wire.Receiver();
  clock = new wire.Clock();
  targets = new Map();
  successes = 0;

  constructor(settings = {}) {
    Object.assign(this, { perRequest: 10, burst: 3, ratio: 0.2, minPerSecond: 0.02, edge: false, tenant: () => '' }, settings);
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
    let request;
    const intercepted = new grpc.ServerInterceptingCall(call, {
      start: (next) => next({
        onReceiveMetadata: (metadata, next) => {
          request = this.receive(method.path, metadata, call);
          if (now() < request.deadline) return next(metadata);
          return intercepted.sendStatus(expired());
        },
        onReceiveHalfClose: (next) => this.requests.run(request, next),
      }),
      sendStatus: (status, next) => next(request ? answer(request, status) : status),
    });
    return intercepted;
  };

  receive(path, metadata, call) {
    const start = now(), [value, ...more] = metadata.get(CONTEXT), [key, ...keys] = metadata.get(KEY);
    const fields = (!this.edge && value !== undefined && more.length === 0 && wire.parseContext(value)) || {};
    const timeout = call.getDeadline() === Infinity ? undefined : BigInt(Math.round((call.getDeadline() - Date.now()) * 1000));
    const left = this.receiver.remaining(call.getPeer(), fields, BigInt(start), timeout);
    return new Request(this, fields, {
      path, start, deadline: left === undefined ? Infinity : start + Number(left), tenant: this.tenant(call),
      key: key !== undefined && keys.length === 0 ? wire.parseKey(key) : undefined,
    });
  }
}

function expired() {
  const code = grpc.status.DEADLINE_EXCEEDED, details = 'the deadline passed before the call could run';
  const metadata = new grpc.Metadata();
  metadata.set(DETAILS, wire.statusDetails(code, details, 'DEADLINE_EXPIRED'));
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
