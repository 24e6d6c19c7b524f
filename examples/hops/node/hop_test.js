'use strict';

// What the exchanges of the specification leave open: calls outside of requests, concurrent calls, calls and requests that
// are cancelled or closed, deadlines, copied keys, streams, and settings.

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
async function forwarded(settings, keys = ['order-17'], context = '1;b=3;a=1') {
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
  metadata.set(wire.CONTEXT, context);
  keys.forEach((key) => metadata.add(wire.KEY, key));
  const status = await start(connect(middle), metadata).ended;
  return { hop, received, status };
}

test('a copied key is not chosen by the application', async () => {
  const child = wire.childKey('', METHOD, 'order-17', METHOD, 1);
  for (const [keys, want] of [[['order-17'], [child]], [['"order-17"'], [child]], [['a,b'], []], [['a', 'b'], []]]) {
    const { received } = await forwarded({}, keys);
    assert.deepStrictEqual(received.get(wire.KEY), want, keys);
  }
});

test('only a key that is valid makes a write safe', async () => {
  for (const [keys, attempts] of [[['order-17'], 3], [['a,b'], 1], [['a', 'b'], 1], [[], 1]]) {
    const hop = new Hop(), { address, lent } = await failing(), metadata = new grpc.Metadata();
    keys.forEach((key) => metadata.add(wire.KEY, key));
    await start(connect(address, hop.client(address)), metadata).ended;
    assert.strictEqual(lent.length, attempts, keys);
  }
});

test('a deadline that gRPC cannot represent is none', async () => {
  const { received, status } = await forwarded({}, [], '1;d=9223372036854775807;s=0;c=00c0ffee00c0ffee;b=3;a=1');
  assert.strictEqual(status.code, grpc.status.OK);
  assert.strictEqual(wire.parseContext(received.get(wire.CONTEXT)[0]).d, undefined);
});

test('a caller whose tenant cannot be found is not authenticated', async () => {
  const { status } = await forwarded({ tenant: () => { throw new Error('no certificate'); } });
  assert.strictEqual(status.code, grpc.status.UNAUTHENTICATED);
  const { received } = await forwarded({ tenant: () => undefined });
  assert.deepStrictEqual(received.get(wire.KEY), [wire.childKey('', METHOD, 'order-17', METHOD, 1)]);
});

test('settings that are no numbers are an error', () => {
  for (const settings of [{ perRequest: '5' }, { ratio: NaN }, { burst: -1 }, { minPerSecond: null }]) {
    assert.throws(() => new Hop(settings), TypeError);
  }
  assert.strictEqual(new Hop({ burst: undefined }).burst, 3);
});

test('each request keeps its calls if they have waited for a connection', async () => {
  const hop = new Hop(), got = new Map();
  const target = await serve((call, callback) => {
    const [order] = call.metadata.get('x-order');
    got.set(order, [...(got.get(order) ?? []), call.metadata.get(wire.KEY)[0]]);
    callback(null, Buffer.alloc(0));
  });
  const client = connect(target, hop.client(target));
  const pay = (order, callback) => {
    const metadata = new grpc.Metadata();
    metadata.set('x-order', order);
    client.makeUnaryRequest(METHOD, raw, raw, Buffer.alloc(0), metadata, callback);
  };
  const middle = connect(await serve((call, callback) => {
    const [order] = call.metadata.get(wire.KEY);
    pay(order, () => pay(order, callback));
  }, [hop.server]));
  const orders = ['a', 'b', 'c'];
  await Promise.all(orders.map((order) => {
    const metadata = new grpc.Metadata();
    metadata.set(wire.KEY, order);
    return start(middle, metadata).ended;
  }));
  for (const order of orders) {
    assert.deepStrictEqual(got.get(order), [1, 2].map((n) => wire.childKey('', METHOD, order, METHOD, n)));
  }
});

test('a client that is closed during a pause ends its calls with the last failure', async () => {
  const hop = new Hop({ safe: [METHOD] }), { address, lent } = await failing();
  const client = connect(address, hop.client(address)), target = hop.target(address);
  target.earn = () => { // it is asked before each pause
    client.close();
    return 1;
  };
  const { code, details } = await start(client).ended;
  assert.deepStrictEqual([code, details, lent.length], [grpc.status.UNAVAILABLE, 'the target is down', 1]);
  assert.throws(() => start(client));
});

test('a call that is cancelled before it is sent is not sent', async () => {
  const hop = new Hop({ safe: [METHOD] }), { address, lent } = await failing();
  const slow = (options, next) => new grpc.InterceptingCall(next(options), {
    start: (metadata, listener, next) => setTimeout(() => next(metadata, listener), 50),
  });
  const call = start(connect(address, hop.client(address, { interceptors: [slow] })));
  call.cancel();
  assert.strictEqual((await call.ended).code, grpc.status.CANCELLED);
  await new Promise((resolve) => { setTimeout(resolve, 100); });
  assert.strictEqual(lent.length, 0);
});

test('nothing is retried for a request that is cancelled', async () => {
  const hop = new Hop({ safe: [METHOD] }), { address, lent } = await failing('2000');
  const client = connect(address, hop.client(address));
  let ended;
  const middle = await serve((call, callback) => {
    ended = start(client).ended;
    ended.then(callback);
  }, [hop.server]);
  const call = start(connect(middle));
  while (lent.length === 0) await new Promise((resolve) => { setTimeout(resolve, 5); });
  call.cancel();
  assert.strictEqual((await call.ended).code, grpc.status.CANCELLED);
  await ended;
  assert.strictEqual(lent.length, 1);
});

test('a handler is ended at the deadline', async () => {
  const hop = new Hop(), metadata = new grpc.Metadata();
  let reply;
  const middle = await serve((call, callback) => { reply = callback; }, [hop.server]);
  metadata.set(wire.CONTEXT, '1;d=50000;s=0;c=00c0ffee00c0ffee;b=3;a=1');
  const { code, metadata: trailer } = await start(connect(middle), metadata).ended;
  assert.strictEqual(code, grpc.status.DEADLINE_EXCEEDED);
  assert.ok(trailer.get(wire.DETAILS)[0].includes(wire.errorInfo('DEADLINE_EXPIRED')));
  reply(null, Buffer.alloc(0)); // nobody hears it
});

test('the reserve takes at most a fifth of the time', async () => {
  const { hop, received } = await forwarded({}, [], '1;d=60000000;s=0;c=00c0ffee00c0ffee;b=3;a=1');
  const whole = wire.parseContext(received.get(wire.CONTEXT)[0]);
  assert.ok(whole.d - whole.s > 59e6);
  let sent;
  const target = await serve((call, callback) => {
    sent = wire.parseContext(call.metadata.get(wire.CONTEXT)[0]);
    callback(null, Buffer.alloc(0));
  });
  hop.target(target).reserve = 3600e6;
  const client = connect(target, hop.client(target));
  await new Promise((resolve) => { client.makeUnaryRequest(METHOD, raw, raw, Buffer.alloc(0), { deadline: Date.now() + 60000 }, resolve); });
  assert.ok(sent.d - sent.s > 46e6 && sent.d - sent.s <= 48e6 + 1000, sent.d - sent.s);
});

test('messages of connections that cannot be told apart have no excess', () => {
  const receiver = new wire.Receiver(), message = { d: 1000000n, s: 0n, c: '00c0ffee00c0ffee' };
  assert.strictEqual(receiver.remaining(undefined, message, 0n), 1000000n);
  assert.strictEqual(receiver.remaining(undefined, message, 900000n, 2000000n), 1000000n);
  assert.strictEqual(receiver.remaining(undefined, message, 900000n, 500000n), 500000n);
  assert.strictEqual(receiver.remaining(undefined, { s: 0n, c: message.c }, 0n, 500000n), 500000n);
  const hop = new Hop(), metadata = new grpc.Metadata(), call = { getPeer: () => 'unknown', getDeadline: () => Infinity };
  for (const s of [9000000, 0]) { // the second one seems to have been on its way for nine seconds more
    metadata.set(wire.CONTEXT, `1;d=${s + 1000000};s=${s};c=00c0ffee00c0ffee;b=3;a=1`);
    const request = hop.receive(METHOD, metadata, call);
    assert.strictEqual(request.deadline - request.start, 1000000);
  }
});

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
