'use strict';

// The values that hops send each other, and the arithmetic of the deadline, as docs/wire.md specifies them. Nothing here
// knows gRPC. All times are in microseconds.

const { createHash, randomBytes } = require('node:crypto');

// The keys of metadata.
const keys = {
  CONTEXT: 'hop-context', REPORT: 'hop-report', KEY: 'idempotency-key', DETAILS: 'grpc-status-details-bin',
  PUSHBACK: 'grpc-retry-pushback-ms', PREVIOUS: 'grpc-previous-rpc-attempts',
};

const MINUTE = 60e6;
const now = () => Math.floor(performance.now() * 1000);
const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts.map((part) => Buffer.from(part)))).digest();
const clamp = (value, min, max) => (value < min ? min : value > max ? max : value);

// The type of a field returns the value of a text, or undefined if the text is malformed. d, s and e may exceed 2^53.
const bigint = (text) => (/^[0-9]{1,19}$/.test(text) && BigInt(text) < 2n ** 63n ? BigInt(text) : undefined);
const number = (min, max) => (text) => (bigint(text) >= min && bigint(text) <= max ? Number(text) : undefined);
const id = (text) => (/^[0-9a-f]{16}$/i.test(text) ? text.toLowerCase() : undefined);
const contextFields = {
  d: bigint, s: bigint, c: id, b: number(0, 65535), a: number(1, 65535), k: number(0, 1), l: number(0, 3),
};
const reportFields = { u: number(0, 65535), e: bigint, n: number(0, 1), k: id };

// parse returns the fields of a value, or undefined if the value is malformed.
function parse(value, types) {
  if (value.length > 256 || !/^1(;[a-z][a-z0-9_-]*=[!-:<-~]+)*$/.test(value)) return undefined;
  const fields = {}, keys = new Set();
  for (const field of value.split(';').slice(1)) {
    const [, key, text] = field.match(/^([^=]*)=(.*)$/);
    if (keys.has(key)) return undefined;
    keys.add(key);
    if (!Object.hasOwn(types, key)) continue;
    fields[key] = types[key](text);
    if (fields[key] === undefined) return undefined;
  }
  return fields;
}

// parseContext returns the fields of hop-context. The times say nothing without the clock, nor the clock without s.
function parseContext(value) {
  const fields = parse(value, contextFields);
  if (fields && (fields.s === undefined || fields.c === undefined)) for (const key of ['d', 's', 'c']) delete fields[key];
  return fields;
}

// parseReport returns the fields of hop-report.
function parseReport(value) {
  const fields = parse(value, reportFields);
  return fields && { u: 0, ...fields };
}

// format returns the value with the fields that are not undefined.
function format(fields) {
  const present = Object.entries(fields).filter(([, value]) => value !== undefined);
  return ['1', ...present.map(([key, value]) => `${key}=${value}`)].join(';');
}

// parseKey returns the idempotency key of a metadata value, or undefined if it is malformed.
function parseKey(value) {
  const key = value.replace(/^"(.*)"$/, '$1');
  return /^(?! )[ !#-+\--~]{1,255}$/.test(key) && !key.endsWith(' ') ? key : undefined;
}

// isDelay says whether a pushback allows a retry.
const isDelay = (pushback) => /^(0|[1-9][0-9]{0,9})$/.test(pushback) && pushback < 2 ** 31;

// without removes keys from metadata.
function without(metadata, ...removed) {
  removed.forEach((key) => metadata.remove(key));
  return metadata;
}

// childKey returns the key of the nth call to a method, made by a handler that runs under a key.
function childKey(tenant, handler, key, method, n) {
  const length = (part) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(Buffer.byteLength(part)));
    return bytes;
  };
  const hash = (...parts) => sha256(...parts.flatMap((part) => [length(part), part]));
  const child = hash('child', hash('id', tenant, handler, key), key, method, `call ${n}`);
  child[6] = (child[6] & 0x0f) | 0x80; // version 8
  child[8] = (child[8] & 0x3f) | 0x80; // variant 2
  return child.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

// storeMark returns the k of the reports of a server that stores the outcomes of a method.
const storeMark = (method) => sha256(method).toString('hex', 0, 8);

// errorInfo encodes a google.rpc.ErrorInfo, and statusDetails the google.rpc.Status with it. Each part has up to 127 bytes.
const part = (tag, bytes) => Buffer.from([(tag << 3) | 2, Buffer.byteLength(bytes), ...Buffer.from(bytes)]);
const errorInfo = (reason) => Buffer.concat([part(1, reason), part(2, 'hopbound')]);
function statusDetails(code, text, reason) {
  const any = Buffer.concat([part(1, 'type.googleapis.com/google.rpc.ErrorInfo'), part(2, errorInfo(reason))]);
  return Buffer.concat([Buffer.from([8, code]), part(2, text), part(3, any)]);
}

// Clock is a clock that never goes back. It becomes a new clock if the machine was suspended.
class Clock {
  read() {
    const wall = Date.now() * 1000;
    const ahead = wall - now() - this.offset; // NaN at first
    if (Math.abs(ahead) <= 50e3) this.offset += Math.max(ahead, 0);
    else Object.assign(this, { offset: wall - now(), id: randomBytes(8).toString('hex') });
    return now() + this.offset;
  }
}

// Smallest knows the smallest value of the last minute. It keeps at most one entry a second.
class Smallest {
  entries = [];

  add(at, value) {
    this.entries = this.entries.filter((e) => at - e.at <= MINUTE && e.value < value);
    if (this.entries.length === 0 || at - this.entries.at(-1).at >= 1e6) this.entries.push({ at, value });
    return this.entries[0];
  }
}

// Receiver computes how long received messages have left. Its numbers are BigInts.
class Receiver {
  delays = new Map(); // by connection and clock id, in the order of their use

  remaining(connection, { d, s, c }, received, timeout) {
    const earlier = (left) => (timeout < left ? timeout : left);
    if (s === undefined) return timeout;
    if (connection === undefined) return d === undefined ? timeout : earlier(d - s);
    const clock = `${connection} ${c}`;
    const delays = this.delays.get(clock) ?? new Smallest();
    this.delays.delete(clock);
    this.delays.set(clock, delays);
    if (this.delays.size > 4096) this.delays.delete(this.delays.keys().next().value);
    const base = delays.add(received, received - s);
    if (d === undefined) return timeout;
    const allowance = 1000n + (received - base.at) / 2000n;
    return earlier(d - s - clamp(received - s - base.value - allowance, 0n, BigInt(MINUTE)));
  }
}

module.exports = {
  ...keys, now, clamp, parseContext, parseReport, format, parseKey, isDelay, without, childKey, storeMark, errorInfo, statusDetails,
  Clock, Smallest, Receiver,
};
