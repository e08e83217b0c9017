// SPDX-License-Identifier: GPL-2.0-or-later
// Four workers that allocate, one after the other's end; the main thread waits in the middle, they go on.
'use strict';
const fs = require('fs');
const { Worker, isMainThread } = require('worker_threads');

function work() {
  const kept = [];
  for (let i = 0; i < 200; i++) kept.push(Buffer.alloc(30000 + i, i));
  const table = {};
  for (let i = 0; i < 60000; i++) table['k' + i] = { i };
  let f = (x) => x;
  for (let i = 0; i < 20; i++) f = new Function('x', `let s = ${i}; for (let i = 0; i < 3000; i++) s += x * i; return s`);
  for (let i = 0; i < 300; i++) f(i);
  return kept.length + Object.keys(table).length;
}

function workers(count, then) {
  let left = count;
  for (let i = 0; i < count; i++) new Worker(__filename).on('exit', () => { if (--left === 0) then(); });
}

if (!isMainThread) {
  work();
} else {
  work();
  workers(2, () => {
    workers(2, () => {});
    fs.writeSync(1, 'half\n');
    fs.readSync(0, Buffer.alloc(1));
    work();
  });
}
