// A process of its own that does to one instance's socket what it is told, so that attack and victim share no thread.
// argv: socket path, token, what. Prints one line: how often each thing happened.
import http from 'node:http';
import net from 'node:net';

const [socketPath, token, what] = process.argv.slice(2);
const counts = {};
const count = (thing) => (counts[thing] = (counts[thing] ?? 0) + 1);

/** Opens a connection, writes, and waits until the other side closes it; what it said first is counted. */
function connection(text, { endless, times = 1 } = {}) {
  return new Promise((resolve) => {
    let said = '';
    const socket = net.connect(socketPath);
    const timer = endless && setInterval(() => socket.writable && socket.write(endless), 1);
    socket.on('connect', () => {
      for (let n = 0; n < times; n++) if (socket.writable) socket.write(text);
    });
    socket.on('data', (bytes) => (said += bytes.toString('latin1')));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearInterval(timer);
      count(/^HTTP\/1\.1 (\d+)/.exec(said)?.[1] ?? 'closed');
      resolve();
    });
  });
}

function post(path, headers, body) {
  return new Promise((resolve) => {
    const request = http.request({
      socketPath,
      path,
      method: 'POST',
      agent: false,
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json', ...headers },
    });
    request.on('response', (response) => {
      count(String(response.statusCode));
      response.resume().on('close', resolve);
    });
    request.on('error', () => (count('closed'), resolve()));
    request.end(body);
  });
}

/** `total` runs of `one`, `width` at a time. */
async function many(total, width, one) {
  let next = 0;
  const worker = async () => {
    while (next++ < total) await one();
  };
  await Promise.all(Array.from({ length: width }, worker));
}

const auth = `Authorization: Bearer ${token}\r\n`;
const chat = (content) => JSON.stringify({ model: 'demo/echo', stream: true, messages: [{ role: 'user', content }] });

const ATTACKS = {
  garbage: () => many(400, 20, () => connection(Buffer.from([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0xff]))),
  'a header without end': () => many(64, 64, () => connection(`GET /link HTTP/1.1\r\n${auth}`, { endless: 'X-A: b\r\n' })),
  '10,000 connections': () => many(10_000, 200, () => connection('x\r\n\r\n')),
  '1,000 chats': () => many(1_000, 60, () => post('/v1/chat/completions', {}, chat('hi'))),
  'many tunnels': () =>
    many(2_000, 60, () => connection(`CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\nProxy-${auth}\r\n`)),
  'bodies of 25 MB': () => many(20, 10, () => post('/v1/chat/completions', {}, Buffer.alloc(25_000_000, 0x20))),
  'deep bodies': () => many(10, 5, () => post('/v1/chat/completions', {}, '['.repeat(5_000_000))),
};

await ATTACKS[what]();
console.log(JSON.stringify(counts));
