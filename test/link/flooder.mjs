// A process of its own that floods a link, so that the flood and its victim do not share a thread.
// argv: socket path, token, kind. Prints `up`, then `cut <bytes sent>` when the other side hangs up.
import net from 'node:net';

const [socketPath, token, kind] = process.argv.slice(2);

function frame(type, flags, streamId, payload = Buffer.alloc(0)) {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(streamId, 5);
  return Buffer.concat([header, payload]);
}

const one = {
  priority: frame(2, 0, 1, Buffer.from([0, 0, 0, 3, 16])),
  altsvc: frame(10, 0, 0, Buffer.from('\0\x01ah2=":1"', 'latin1')),
  origin: frame(12, 0, 0, Buffer.from('\0\x08http://a', 'latin1')),
  unknown: frame(0xee, 0, 0),
  ping: frame(6, 0, 0, Buffer.alloc(8)),
  pong: frame(6, 1, 0, Buffer.alloc(8)),
  settings: frame(4, 0, 0),
  window: frame(8, 0, 0, Buffer.from([0, 0, 0, 1])),
  emptydata: frame(0, 0, 1),
  tinydata: frame(0, 0, 1, Buffer.from('x')),
  headers: frame(1, 4, 1, Buffer.from([0x88])),
  continuation: frame(9, 0, 1, Buffer.from([0x88])),
  push: frame(5, 4, 1, Buffer.from([0, 0, 0, 2, 0x82])),
  rst: frame(3, 0, 1, Buffer.from([0, 0, 0, 8])),
  http: Buffer.from(`POST /x HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer ${token}\r\nContent-Length: 0\r\n\r\n`),
  chunks: Buffer.from('1\r\nx\r\n'),
}[kind];
const piece = Buffer.concat(Array(Math.ceil(65536 / one.length)).fill(one));

let sent = 0;
let isFlooding = false;
const socket = net.connect(socketPath);
socket.on('error', () => {});
socket.on('close', () => {
  console.log(`cut ${sent}`);
  process.exit(0);
});
const flood = () => {
  if (socket.destroyed) return;
  sent += piece.length;
  if (socket.write(piece)) setImmediate(flood);
  else socket.once('drain', flood);
};
const begin = () => {
  if (isFlooding) return;
  isFlooding = true;
  console.log('up');
  flood();
};

if (kind === 'http') {
  begin();
} else if (kind === 'chunks') {
  socket.write(`POST /x HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer ${token}\r\nTransfer-Encoding: chunked\r\n\r\n`);
  begin();
} else {
  socket.write(
    'GET /link HTTP/1.1\r\nHost: berth\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n' +
      `X-Berth-Protocol: 1\r\nAuthorization: Bearer ${token}\r\n\r\n`,
  );
}
const needsStream = ['emptydata', 'tinydata', 'headers', 'continuation', 'push', 'rst', 'priority'].includes(kind);
let seen = Buffer.alloc(0);
let isUp = false;
socket.on('data', (chunk) => {
  if (kind === 'http' || kind === 'chunks') return;
  seen = Buffer.concat([seen, chunk]).subarray(-65536);
  if (!isUp && seen.includes('\r\n\r\n')) {
    isUp = true;
    socket.write(Buffer.concat([frame(4, 0, 0), frame(4, 1, 0)]));
    if (!needsStream) begin();
  }
  // A HEADERS frame for stream 1 has come: `type 1`, then flags, then the id.
  if (isUp && !isFlooding && needsStream) {
    for (let i = 3; i + 6 <= seen.length; i++) {
      if (seen[i] === 1 && seen.readUInt32BE(i + 2) === 1 && seen[i - 3] === 0) {
        if (kind !== 'headers') socket.write(frame(1, 4, 1, Buffer.from([0x88])));
        begin();
        break;
      }
    }
  }
});
