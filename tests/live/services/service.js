// SPDX-License-Identifier: GPL-2.0-or-later
// A service with worker threads: GET /N answers "N SUM", SUM of a fresh buffer filled for that number.
'use strict';
const { Worker, isMainThread, parentPort } = require('node:worker_threads');

if (isMainThread) {
    const waiting = new Map();
    let next = 0;
    const workers = Array.from({ length: 3 }, () => new Worker(__filename));
    for (const worker of workers) {
        worker.on('message', ({ id, text }) => {
            waiting.get(id).end(text);
            waiting.delete(id);
        });
    }
    require('node:http').createServer((request, response) => {
        const id = next++;
        waiting.set(id, response);
        workers[id % workers.length].postMessage({ id, n: Number(request.url.slice(1)) });
    }).listen(Number(process.argv[2]), '127.0.0.1');
} else {
    parentPort.on('message', ({ id, n }) => {
        const buffer = Buffer.alloc(n * 7919 % 600000, n % 251);
        let sum = 0;
        for (const byte of buffer) sum += byte;
        parentPort.postMessage({ id, text: `${n} ${sum}` });
    });
}
