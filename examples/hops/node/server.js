'use strict';

// A service that forwards every unary call to the first of the addresses in the metadata x-next, with the others in
// x-next. It does so as often as x-calls says, until a call fails. The tests of internal/e2e/interop run it.

const grpc = require('@grpc/grpc-js');
const { Hop } = require('./hop');

const { env } = process;
const raw = (bytes) => bytes;

// copyMark is all that a service without Hopbound needs. It returns the error of a call as the error of the service.
function copyMark(error) {
  const metadata = new grpc.Metadata();
  error.metadata.get('grpc-retry-pushback-ms').forEach((mark) => metadata.add('grpc-retry-pushback-ms', mark));
  return { code: error.code, details: error.details, metadata };
}

const settings = { safe: (env.HOP_SAFE ?? '').split(','), idempotent: (env.HOP_IDEMPOTENT ?? '').split(',') };
const variables = { perRequest: 'HOP_PER_REQUEST', burst: 'HOP_BURST', ratio: 'HOP_RATIO', minPerSecond: 'HOP_MIN_PER_SECOND' };
for (const [setting, name] of Object.entries(variables)) if (env[name] !== undefined) settings[setting] = Number(env[name]);
const hop = env.HOP_COPY_MARKS_ONLY === 'true' ? undefined : new Hop(settings);

// An application may have configured retries of its gRPC library. A hop turns them off.
const retryPolicy = {
  maxAttempts: 3, initialBackoff: '0.001s', maxBackoff: '0.001s', backoffMultiplier: 1, retryableStatusCodes: ['UNAVAILABLE'],
};
const options = env.HOP_NATIVE_RETRIES === 'true'
  ? { 'grpc.service_config': JSON.stringify({ loadBalancingConfig: [], methodConfig: [{ name: [{}], retryPolicy }] }) } : {};

const clients = new Map(); // by address
function client(address) {
  if (!clients.has(address)) {
    clients.set(address, new grpc.Client(address, grpc.credentials.createInsecure(), hop ? hop.client(address, options) : options));
  }
  return clients.get(address);
}

function forward(path, call, callback) {
  const [next, ...others] = String(call.metadata.get('x-next')[0] ?? '').split(',');
  if (next === '') return callback({ code: grpc.status.INVALID_ARGUMENT, details: 'no x-next' });
  const metadata = new grpc.Metadata();
  if (others.length > 0) metadata.set('x-next', others.join(','));
  const make = (calls) => client(next).makeUnaryRequest(path, raw, raw, call.request, metadata, {}, (error, reply) => {
    if (error) return callback(hop ? error : copyMark(error));
    return calls > 1 ? make(calls - 1) : callback(null, reply);
  });
  return make(Number(call.metadata.get('x-calls')[0] ?? 1));
}

const server = new grpc.Server({ interceptors: hop ? [hop.server] : [] });
// grpc-js has no handler for all methods. This one replaces the table in which it looks for the handler of a method.
server.handlers = {
  get: (path) => ({ path, type: 'unary', func: (call, callback) => forward(path, call, callback), serialize: raw, deserialize: raw }),
};
server.bindAsync(env.HOP_LISTEN ?? '127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(`127.0.0.1:${port}`);
});
process.stdin.on('end', () => process.exit(0)).resume();
