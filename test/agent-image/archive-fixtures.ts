import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { ZipFile } from 'yazl';

export interface TarEntry {
  name: string | Buffer;
  /** The header's type flag: `0` file, `1` hard link, `2` link, `3` and `4` devices, `5` folder, `6` pipe, … */
  type?: string;
  body?: string | Buffer;
  mode?: number;
  link?: string;
  /** What the header says, where that is not the body's length. */
  size?: number;
}

/** A tar of whatever entries, byte by byte: no program would write most of them. */
export function tarOf(entries: TarEntry[], { ended = true } = {}): Buffer {
  const parts = entries.flatMap(({ name, type = '0', body = '', mode = 0o644, link = '', size }) => {
    const bytes = Buffer.from(body as string);
    const header = Buffer.alloc(512);
    const put = (text: string | Buffer, at: number) => header.set(Buffer.from(text as string), at);
    put(name, 0);
    put(`${mode.toString(8).padStart(7, '0')}\0`, 100);
    put('0000000\0', 108);
    put('0000000\0', 116);
    put(`${(size ?? bytes.length).toString(8).padStart(11, '0')}\0`, 124);
    put('14000000000\0', 136);
    put(type, 156);
    put(link, 157);
    put('ustar\x0000', 257);
    put(' '.repeat(8), 148);
    put(
      `${[...header]
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
    );
    return [header, bytes, Buffer.alloc((512 - (bytes.length % 512)) % 512)];
  });
  return Buffer.concat([...parts, ...(ended ? [Buffer.alloc(1024)] : [])]);
}

/** An extended header with records that need not be true. */
export function paxOf(records: Record<string, string>): TarEntry {
  const body = Object.entries(records)
    .map(([key, value]) => {
      const rest = ` ${key}=${value}\n`;
      const length = Buffer.byteLength(rest);
      return `${length + String(length + String(length).length).length}${rest}`;
    })
    .join('');
  return { name: 'PaxHeader', type: 'x', body };
}

export interface ZipEntry {
  name: string;
  body?: string | Buffer;
  mode?: number;
}

/** A zip; names in `renamed` are changed to others of the same length, which no program would write. */
export async function zipOf(entries: ZipEntry[], renamed: Record<string, string> = {}): Promise<Buffer> {
  const zip = new ZipFile();
  for (const { name, body = '', mode = 0o100644 } of entries) {
    if (name.endsWith('/')) zip.addEmptyDirectory(name, { mode });
    else zip.addBuffer(Buffer.from(body as string), name, { mode });
  }
  zip.end();
  const pieces: Buffer[] = [];
  (zip.outputStream as Readable).on('data', (piece: Buffer) => pieces.push(piece));
  await once(zip.outputStream, 'end');
  let bytes: Buffer = Buffer.concat(pieces);
  for (const [from, to] of Object.entries(renamed)) bytes = replaced(bytes, Buffer.from(from), Buffer.from(to, 'latin1'));
  return bytes;
}

/** All of one sequence made another of the same length. */
export function replaced(bytes: Buffer, from: Buffer, to: Buffer): Buffer {
  if (from.length !== to.length) throw new Error('must be of the same length');
  const copy = Buffer.from(bytes);
  for (let at = copy.indexOf(from); at >= 0; at = copy.indexOf(from, at + to.length)) copy.set(to, at);
  return copy;
}
