// The internet of the egress tests: name server, web servers and forbidden addresses, in a network namespace of their own.
// argv: key file, certificate file, and a folder to serve, if any. Says `ready`, then one JSON line for every connection that reaches it.
import dgram from 'node:dgram';
import { readFileSync, statSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import tls from 'node:tls';

const SITE = '93.184.216.34';
const NAMES = {
  'site.test': { A: [SITE] },
  'www.site.test': { A: [SITE] },
  'git.test': { A: [SITE] },
  'npm.test': { A: [SITE] },
  'other.test': { A: ['93.184.216.35'] },
  'six.test': { AAAA: ['2606:2800::34'] },
  'both.test': { A: ['93.184.216.99', SITE], AAAA: ['2606:2800::34'] },
  'private.test': { A: ['10.0.0.5'] },
  'metadata.test': { A: ['169.254.169.254'] },
  'cgnat.test': { A: ['100.64.0.5'] },
  'loopback.test': { A: ['127.0.0.1'], AAAA: ['::1'] },
  'mapped.test': { AAAA: ['::ffff:10.0.0.5'] },
  'nat64.test': { AAAA: ['64:ff9b::a00:5'] },
  'sixtofour.test': { AAAA: ['2002:a00:5::1'] },
  'mixed.test': { A: ['10.0.0.5', SITE, '169.254.169.254'] },
  'self.test': { A: ['45.33.1.1'] },
  'anyip.test': { A: ['45.77.0.9'] },
  'denied.test': { A: ['93.184.217.1'] },
  'none.test': {},
  'many.test': { A: Array.from({ length: 25 }, (_, i) => (i < 20 ? `10.0.1.${i}` : SITE)) },
};
let rebinds = 0;

function answersTo(name, type) {
  if (name === 'slow.test') return undefined;
  // The second look-up of a checked name gives a private address.
  if (name === 'rebind.test') return type === 'A' ? [rebinds++ === 0 ? SITE : '10.0.0.5'] : [];
  return NAMES[name]?.[type] ?? (NAMES[name] ? [] : null);
}

const dns = dgram.createSocket('udp4', (query, from) => {
  const labels = [];
  let at = 12;
  while (query[at] > 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]));
    at += query[at] + 1;
  }
  const type = query.readUInt16BE(at + 1) === 28 ? 'AAAA' : 'A';
  const found = answersTo(labels.join('.').toLowerCase(), type);
  if (found === undefined) return;
  const header = Buffer.alloc(12);
  query.copy(header, 0, 0, 2);
  header.writeUInt16BE(found === null ? 0x8183 : 0x8180, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(found?.length ?? 0, 6);
  const records = (found ?? []).map((address) => {
    const data = type === 'A' ? Buffer.from(address.split('.').map(Number)) : v6(address);
    const record = Buffer.alloc(12);
    record.writeUInt16BE(0xc00c, 0);
    record.writeUInt16BE(type === 'A' ? 1 : 28, 2);
    record.writeUInt16BE(1, 4);
    record.writeUInt32BE(1, 6);
    record.writeUInt16BE(data.length, 10);
    return Buffer.concat([record, data]);
  });
  dns.send(Buffer.concat([header, query.subarray(12, at + 5), ...records]), from.port, from.address);
});

function v6(address) {
  const [left, right = ''] = address
    .replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_, a, b, c, d) => `${hex(a, b)}:${hex(c, d)}`)
    .split('::');
  const groups = (text) => (text === '' ? [] : text.split(':').map((group) => parseInt(group, 16)));
  const head = groups(left);
  const tail = groups(right);
  const all = [...head, ...Array(8 - head.length - tail.length).fill(0), ...tail];
  return Buffer.from(all.flatMap((group) => [group >> 8, group & 255]));
}
const hex = (high, low) => (Number(high) * 256 + Number(low)).toString(16);

function told(server) {
  server.on('connection', (socket) => {
    const { localAddress: address, localPort: port, remoteAddress: from } = socket;
    console.log(JSON.stringify({ address, port, from }));
    socket.on('error', () => {});
  });
  return server;
}

function answer(request, response) {
  if (request.url === '/big') {
    response.writeHead(200, { 'content-length': 8 * 1024 * 1024 });
    for (let i = 0; i < 128; i++) response.write(Buffer.alloc(64 * 1024, 'b'));
    return response.end();
  }
  if (request.url === '/smuggle')
    return response.socket.end('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhi');
  if (request.url === '/hang') return;
  const away = /^\/redirect\?to=(.*)$/.exec(request.url)?.[1];
  if (away !== undefined) return void response.writeHead(302, { location: decodeURIComponent(away) }).end();
  const file = fileAt(request.url);
  if (file !== undefined) return void response.end(readFileSync(file));
  const hash = [];
  request.on('data', (chunk) => hash.push(chunk.length));
  request.on('end', () => {
    const seen = {
      url: request.url,
      method: request.method,
      headers: request.headers,
      bytes: hash.reduce((sum, length) => sum + length, 0),
    };
    response.writeHead(200, {
      'content-type': 'application/json',
      connection: 'close, x-hop',
      'x-hop': '1',
      'set-cookie': ['a=1', 'b=2'],
    });
    response.end(JSON.stringify(seen));
  });
}

/** The file that a path names in the folder that is served; of a folder its index.json. */
function fileAt(url) {
  if (folder === undefined) return undefined;
  const place = path.join(folder, path.normalize(new URL(url, 'http://x').pathname));
  const found = statSync(place, { throwIfNoEntry: false });
  if (found?.isFile()) return place;
  const index = path.join(place, 'index.json');
  return found && statSync(index, { throwIfNoEntry: false }) ? index : undefined;
}

const [keyFile, certificateFile, folder] = process.argv.slice(2);
told(http.createServer(answer)).listen(80, '::');
told(http.createServer(answer)).listen(8080, '::');
told(net.createServer((socket) => socket.end('220 hello\r\n'))).listen(2525, '::');
const secure = http.createServer(answer);
const terminator = tls.createServer({ key: readFileSync(keyFile), cert: readFileSync(certificateFile) }, (socket) =>
  secure.emit('connection', socket),
);
terminator.on('tlsClientError', () => {});
told(terminator).listen(443, '::', () => dns.bind(53, '9.9.9.9', () => console.log('ready')));
