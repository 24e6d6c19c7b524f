'use strict';

// What the exchanges of the specification leave open: calls outside of requests, concurrent calls of one request, calls
// that are cancelled, streams, and two settings.

const assert = require('node:assert');
const { after, test } = require('node:test');
const grpc = require('@grpc/grpc-js');
const { Hop } = require('./hop');
const wire = require('./wire');

const METHOD = '/test.Service/Method', raw = (bytes) => bytes;

function serve(handle, interceptors = [], kind = 'unary') {
  const server = new grpc.Server({ interceptors });
  server.register(METHOD, handle, raw, raw, kind);
  after(() => server.forceShutdown());
  return new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
      if (error) reject(error);
      else resolve(`127.0.0.1:${port}`);
    });
  });
}

function connect(address, options) {
  const client = new grpc.Client(address, grpc.credentials.createInsecure(), options);
  after(() => client.close());
  return client;
}

// start starts a call; ended is resolved with its status.
function start(client, metadata = new grpc.Metadata()) {
  const call = client.makeUnaryRequest(METHOD, raw, raw, Buffer.alloc(0), metadata, () => {});
  call.ended = new Promise((resolve) => { call.on('status', resolve); });
  return call;
}

// failing serves a target that fails, and records the tokens that it was lent.
async function failing(pushback) {
  const lent = [];
  const address = await serve((call, callback) => {
    lent.push(wire.parseContext(call.metadata.get(wire.CONTEXT)[0]).b);
    const metadata = new grpc.Metadata();
    metadata.set(wire.REPORT, '1;u=0;e=10');
    if (pushback) metadata.set(wire.PUSHBACK, pushback);
    callback({ code: grpc.status.UNAVAILABLE, details: 'the target is down', metadata });
  });
  return { address, lent };
}

test('a call outside of a request is a root', async () => {
  const hop = new Hop({ safe: [METHOD] }), { address, lent } = await failing();
  const { code } = await start(connect(address, hop.client(address))).ended;
  assert.strictEqual(code, grpc.status.UNAVAILABLE);
  assert.deepStrictEqual(lent, [5, 5, 4]);
});

test('concurrent calls share the tokens of their request', async () => {
  const hop = new Hop({ burst: 100, safe: [METHOD] }), { address, lent } = await failing();
  const client = connect(address, hop.client(address));
  const middle = await serve(async (call, callback) => {
    await Promise.all(Array.from({ length: 8 }, () => start(client).ended));
    callback(null, Buffer.alloc(0));
  }, [hop.server]);
  const metadata = new grpc.Metadata();
  metadata.set(wire.CONTEXT, '1;b=5;a=1');
  const status = await start(connect(middle), metadata).ended;
  const used = status.metadata.get(wire.REPORT).reduce((sum, value) => sum + wire.parseReport(value).u, 0);
  assert.ok(used <= 5, `${used} tokens were used`);
  assert.strictEqual(used, Math.max(0, lent.length - 8 - 1)); // the calls have earned a token
});

test('a cancelled call ends in the pause before its next attempt', async () => {
  const hop = new Hop({ safe: [METHOD] }), { address, lent } = await failing('60000');
  const call = start(connect(address, hop.client(address)));
  while (lent.length === 0) await new Promise((resolve) => { setTimeout(resolve, 10); });
  setTimeout(() => call.cancel(), 50);
  assert.strictEqual((await call.ended).code, grpc.status.CANCELLED);
  assert.strictEqual(lent.length, 1);
});

// forwarded makes a request to a service whose hop has these settings. The service's handler calls a target with the metadata
// of the request. It returns the metadata that the target has received, and the status of the request.
async function forwarded(settings) {
  const hop = new Hop(settings), metadata = new grpc.Metadata();
  let received;
  const target = await serve((call, callback) => {
    received = call.metadata;
    callback(null, Buffer.alloc(0));
  });
  const client = connect(target, hop.client(target));
  const middle = await serve(async (call, callback) => {
    await start(client, call.metadata).ended;
    callback(null, Buffer.alloc(0));
  }, [hop.server]);
  metadata.set(wire.CONTEXT, '1;b=3;a=1');
  metadata.set(wire.KEY, 'order-17');
  const status = await start(connect(middle), metadata).ended;
  return { received, status };
}

test('the tenant is a part of child keys', async () => {
  const { received } = await forwarded({ tenant: () => 'alice' });
  assert.deepStrictEqual(received.get(wire.KEY), [wire.childKey('alice', METHOD, 'order-17', METHOD, 1)]);
});

test('a call without side effects does not carry the key of its request', async () => {
  const { received } = await forwarded({ safe: [METHOD] });
  assert.deepStrictEqual(received.get(wire.KEY), []);
});

test('a hop at the edge is a root', async () => {
  const { received, status } = await forwarded({ edge: true });
  assert.strictEqual(wire.parseContext(received.get(wire.CONTEXT)[0]).b, 5);
  assert.strictEqual(wire.parseReport(status.metadata.get(wire.REPORT)[0]).u, 0);
});

test('a stream does not carry the hop-context of another call', async () => {
  const hop = new Hop(), metadata = new grpc.Metadata();
  let received;
  const address = await serve((call) => {
    received = call.metadata;
    call.end();
  }, [], 'serverStream');
  metadata.set(wire.CONTEXT, '1;b=3;a=1');
  metadata.set(wire.PREVIOUS, '1');
  metadata.set('x-other', 'kept');
  const stream = connect(address, hop.client(address)).makeServerStreamRequest(METHOD, raw, raw, Buffer.alloc(0), metadata);
  await new Promise((resolve) => { stream.on('status', resolve).resume(); });
  assert.deepStrictEqual([wire.CONTEXT, wire.PREVIOUS, 'x-other'].map((key) => received.get(key)), [[], [], ['kept']]);
});
