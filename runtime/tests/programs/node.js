#!/usr/bin/node
// needs: node
// Worker threads, child processes, streams, timers, local sockets and file watching without inotify.
const { Worker, isMainThread, parentPort, workerData, threadId } = require('worker_threads');
const fs = require('fs'), os = require('os'), net = require('net'), zlib = require('zlib'), crypto = require('crypto');
const { spawn, spawnSync, execFileSync, fork } = require('child_process');
if (!isMainThread) {
  const shared = new Int32Array(workerData.buffer);
  for (let i = 0; i < 10000; i++) Atomics.add(shared, 0, 1);
  Atomics.notify(shared, 0);
  parentPort.postMessage(workerData.n * workerData.n);
} else if (process.argv[2] === 'child') {
  process.on('message', (m) => { process.send(m + 1); process.disconnect(); });
} else (async () => {
  const buffer = new SharedArrayBuffer(4);
  const results = await Promise.all([1, 2, 3, 4].map((n) => new Promise((done, fail) => {
    const worker = new Worker(__filename, { workerData: { n, buffer } });
    worker.on('message', done); worker.on('error', fail);
  })));
  console.log('workers', results.join(), new Int32Array(buffer)[0]);
  console.log(execFileSync('sh', ['-c', 'echo out; echo err >&2'], { stdio: ['ignore', 'pipe', 'ignore'] }).toString().trim());
  console.log('status', spawnSync('sh', ['-c', 'exit 7']).status, spawnSync('sh', ['-c', 'kill -TERM $$']).signal);
  const cat = spawn('cat'); cat.stdin.end('through cat\n');
  for await (const chunk of cat.stdout) process.stdout.write(chunk);
  const child = fork(__filename, ['child']);
  console.log('ipc', await new Promise((done) => { child.on('message', done); child.send(41); }));
  await fs.promises.writeFile('file', 'x'.repeat(1 << 20));
  const hash = crypto.createHash('sha256');
  for await (const chunk of fs.createReadStream('file').pipe(zlib.createGzip()).pipe(zlib.createGunzip())) hash.update(chunk);
  console.log(hash.digest('hex').slice(0, 16), (await fs.promises.stat('file')).size);
  const server = net.createServer((socket) => socket.on('data', (data) => socket.end(data.toString().toUpperCase()))).listen('sock');
  await new Promise((done) => server.on('listening', done));
  const reply = await new Promise((done) => { const c = net.connect('sock', () => c.write('hello')); c.on('data', (d) => done(d.toString())); });
  console.log('socket', reply); server.close();
  const order = []; setTimeout(() => order.push('timeout'), 5); setImmediate(() => order.push('immediate')); process.nextTick(() => order.push('tick'));
  await new Promise((done) => setTimeout(done, 50)); console.log(order.sort().join());
  process.on('SIGUSR2', () => console.log('usr2')); process.kill(process.pid, 'SIGUSR2'); await new Promise((done) => setTimeout(done, 50));
  console.log(os.platform(), os.cpus().length > 0, os.totalmem() > os.freemem(), process.memoryUsage().rss > 1e6, os.userInfo().uid === process.getuid());
  const names = await fs.promises.readdir('.'); console.log(names.sort().join());
  console.log(eval(Array.from({ length: 1000 }, (_, i) => i).join('+')), [3, 1, 2].sort().join());
  process.exit(9);
})();
