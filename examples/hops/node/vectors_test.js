'use strict';

// The vectors of proto/hopbound/v1/testdata that need no network.

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const { test } = require('node:test');
const wire = require('./wire');

const read = (name) => JSON.parse(fs.readFileSync(path.join(__dirname, '../../../proto/hopbound/v1/testdata', name), 'utf8'));

// comparable returns fields as the vectors have them: 64-bit numbers as strings, and flags only if they are set.
function comparable(fields) {
  const said = Object.entries(fields).filter(([key, value]) => !(value === 0 && 'nl'.includes(key)) && !(key === 'k' && value === 0));
  return Object.fromEntries(said.map(([key, value]) => [key, typeof value === 'bigint' ? String(value) : value]));
}

for (const [key, parse] of [['hop-context', wire.parseContext], ['hop-report', wire.parseReport]]) {
  for (const vector of read('wire.json')[key]) {
    test(`${key}: ${vector.name}`, () => {
      const fields = parse(vector.value);
      assert.deepStrictEqual(fields && comparable(fields), vector.malformed ? undefined : vector.fields);
      if (vector.canonical) assert.strictEqual(wire.format(vector.fields), vector.value);
    });
  }
}

for (const vector of read('deadlines.json').deadlines) {
  test(`deadline: ${vector.name}`, () => {
    const receiver = new wire.Receiver(), number = (text) => (text === undefined ? undefined : BigInt(text));
    for (const { received, s, c, d, grpc, remaining } of vector.messages) {
      const got = receiver.remaining('connection', { d: number(d), s: number(s), c }, number(received), number(grpc));
      assert.strictEqual(got, number(remaining));
    }
  });
}
