import { crc32, deflateRawSync } from 'node:zlib';

/** An entry of a zip, with what a hostile one may say besides the truth. */
export interface ZipEntry {
  name: string | Buffer;
  bytes?: Buffer | string;
  /** Unix mode with the type's bits, such as 0o120777 for a link. */
  mode?: number;
  /** General purpose flags: 1 is "encrypted". */
  flags?: number;
  method?: number;
  /** What the directory says of the unpacked size and the checksum. */
  size?: number;
  crc?: number;
}

/** A zip, byte by byte: no library would write what these tests need. */
export function zip(entries: ZipEntry[], comment = ''): Buffer {
  const bodies: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const entry of entries) {
    const content = Buffer.from(entry.bytes ?? '');
    const method = entry.method ?? 8;
    const packed = method === 8 ? deflateRawSync(content) : content;
    const name = Buffer.from(entry.name);
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt16LE((entry.flags ?? 0) | 0x800, 2);
    common.writeUInt16LE(method, 4);
    common.writeUInt32LE(entry.crc ?? crc32(content), 10);
    common.writeUInt32LE(packed.length, 14);
    common.writeUInt32LE(entry.size ?? content.length, 18);
    common.writeUInt16LE(name.length, 22);
    const local = Buffer.concat([Buffer.from('PK\u0003\u0004', 'latin1'), common, name, packed]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(((entry.mode ?? 0) << 16) >>> 0, 6);
    tail.writeUInt32LE(offset, 10);
    const madeBy = Buffer.from([20, entry.mode === undefined ? 0 : 3]);
    directory.push(Buffer.concat([Buffer.from('PK\u0001\u0002', 'latin1'), madeBy, common, tail, name]));
    bodies.push(local);
    offset += local.length;
  }
  const listed = Buffer.concat(directory);
  const end = Buffer.alloc(18);
  end.writeUInt16LE(entries.length, 4);
  end.writeUInt16LE(entries.length, 6);
  end.writeUInt32LE(listed.length, 8);
  end.writeUInt32LE(offset, 12);
  end.writeUInt16LE(comment.length, 16);
  return Buffer.concat([...bodies, listed, Buffer.from('PK\u0005\u0006', 'latin1'), end, Buffer.from(comment)]);
}

export interface TarEntry {
  name: string;
  bytes?: Buffer | string;
  /** The type's character: 0 file, 1 hard link, 2 link, 3 and 4 devices, 5 folder, 6 pipe. */
  type?: string;
  target?: string;
  mode?: number;
  /** What the header says of the size. */
  size?: number;
}

/** A tar, byte by byte, for the same reason. */
export function tar(entries: TarEntry[], end = Buffer.alloc(1024)): Buffer {
  const parts = entries.flatMap((entry) => {
    const content = Buffer.from(entry.bytes ?? '');
    const head = Buffer.alloc(512);
    const octal = (value: number, at: number, length: number) =>
      head.write(value.toString(8).padStart(length - 1, '0'), at, length - 1, 'latin1');
    head.write(entry.name, 0, 100);
    octal(entry.mode ?? 0o644, 100, 8);
    octal(0, 108, 8);
    octal(0, 116, 8);
    octal(entry.size ?? content.length, 124, 12);
    octal(0, 136, 12);
    head.write(entry.type ?? '0', 156);
    head.write(entry.target ?? '', 157);
    head.write('ustar\u000000', 257, 'latin1');
    head.fill(' ', 148, 156);
    head.write(
      `${head
        .reduce((sum, byte) => sum + byte, 0)
        .toString(8)
        .padStart(6, '0')}\0 `,
      148,
      'latin1',
    );
    return [head, content, Buffer.alloc(-content.length & 511)];
  });
  return Buffer.concat([...parts, end]);
}

/** A SKILL.md that nothing is wrong with. */
export function skillMd(name: string, more = '', body = 'Do as it says.'): string {
  return `---\nname: ${name}\ndescription: What ${name} is for\n${more}---\n\n# ${name}\n\n${body}\n`;
}
