import { createHash } from 'node:crypto';
import { type Contents, FORMAT, type AgentSettings, type Manifest } from './archive.schema.js';

/** The members of an export, in this order. `sha256sum -c SHA256SUMS` tells whether all others are as they were. */
export const MEMBERS = ['manifest.json', 'journal.jsonl', 'state.tar', 'SHA256SUMS'] as const;
const BLOCK = 512;
const END = Buffer.alloc(2 * BLOCK);
/** From here on a size does not fit into a header's octal digits. */
const WIDE_BYTES = 0o77777777777;

/** A snapshot as it leaves Berth: a plain tar that any tool opens, and always the same one. `plain` is the journal and then the state. */
export interface Exported {
  bytes: number;
  stream(plain: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array>;
}

export function exportOf(snapshot: { name: string; takenAt: Date; settings: AgentSettings; contents: Contents }): Exported {
  const { name, takenAt, settings, contents } = snapshot;
  const manifest: Manifest = {
    format: FORMAT,
    agent: { name },
    taken_at: takenAt.toISOString(),
    settings,
    contents: pick(contents),
  };
  const head = Buffer.from(`${JSON.stringify(sorted(manifest), null, 2)}\n`);
  const sums = Buffer.from(sumsOf(sha256(head), contents));
  const sizes = [head.length, contents.journal_bytes, contents.state_bytes, sums.length];
  const mtimeS = Math.floor(takenAt.getTime() / 1000);
  const headers = MEMBERS.map((member, i) => headerOf(member, sizes[i] ?? 0, mtimeS));
  async function* stream(plain: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    const [first, journal, state, last] = headers as [Buffer, Buffer, Buffer, Buffer];
    yield Buffer.concat([first, head, padding(head.length), journal]);
    let left = contents.journal_bytes;
    if (left === 0) yield state;
    for await (const piece of plain) {
      const said = piece.subarray(0, left);
      if (said.length > 0) yield said;
      left -= said.length;
      if (said.length > 0 && left === 0) yield Buffer.concat([padding(contents.journal_bytes), state]);
      if (piece.length > said.length) yield piece.subarray(said.length);
    }
    yield Buffer.concat([padding(contents.state_bytes), last, sums, padding(sums.length), END]);
  }
  const bytes = sizes.reduce((sum, size) => sum + BLOCK + size + padding(size).length, END.length);
  return { bytes, stream };
}

/** What the last member of an export says. */
export function sumsOf(manifestSha256: string, contents: Contents): string {
  const sums = [manifestSha256, contents.journal_sha256, contents.state_sha256];
  return sums.map((sum, i) => `${sum}  ${MEMBERS[i]}\n`).join('');
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** As an export says it: what else is kept of a snapshot's contents is no part of it. */
function pick({ conversations, turns, journal_bytes, journal_sha256, files, state_bytes, state_sha256 }: Contents): Contents {
  return { conversations, turns, journal_bytes, journal_sha256, files, state_bytes, state_sha256 };
}

/** PostgreSQL gives an object's fields in an order of its own: an export must be the same wherever its parts come from. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted);
  if (typeof value !== 'object' || value === null) return value;
  const entries = Object.entries(value).filter(([, one]) => one !== undefined);
  return Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : 1)).map(([key, one]) => [key, sorted(one)]));
}

function padding(bytes: number): Buffer {
  return Buffer.alloc((BLOCK - (bytes % BLOCK)) % BLOCK);
}

/** A POSIX header of a regular file. The packer of our library keeps what its reader has not taken yet, all of it. */
function headerOf(name: string, bytes: number, mtimeS: number): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, length: number) => header.write(value.toString(8).padStart(length - 1, '0'), at);
  header.write(name, 0);
  octal(0o600, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  if (bytes <= WIDE_BYTES) octal(bytes, 124, 12);
  else {
    header[124] = 0x80;
    header.writeBigUInt64BE(BigInt(bytes), 128);
  }
  octal(mtimeS, 136, 12);
  header.write('0', 156);
  header.write('ustar\u000000', 257, 'latin1');
  header.fill(' ', 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return header;
}
