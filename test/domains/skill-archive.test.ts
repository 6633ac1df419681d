import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { archiveKind, readArchive } from '../../src/domains/skills/archive.js';
import { packageOf, unpacked } from '../../src/domains/skills/package.js';
import { AppError } from '../../src/lib/errors.js';
import { skillMd, tar, type TarEntry, zip, type ZipEntry } from '../support/archives.js';

const main = { name: 'SKILL.md', bytes: skillMd('a') };

function read(bytes: Buffer) {
  return readArchive(bytes, archiveKind(bytes) ?? 'tar');
}

/** What a client is told: code and words. Anything else that is thrown fails the test. */
async function refusal(bytes: Buffer): Promise<string> {
  try {
    const files = await read(bytes);
    return `taken: ${files.map(({ path }) => path).join(' ')}`;
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    const [field] = error.fields ?? [];
    return `${error.code}: ${field ? `${field.path} ${field.message}` : error.message}`;
  }
}

describe('an archive that is as it should be', () => {
  const files = [main, { name: 'scripts/run.sh', bytes: '#!/bin/bash\necho hi\n' }, { name: 'a/b/c/ä.txt', bytes: 'x' }];

  test('gives the same package as zip, tar or tar.gz, at the root or in one folder, in any order', async () => {
    const wrapped = files.map((file) => ({ ...file, name: `weather-main/${file.name}` }));
    const digests = await Promise.all(
      [
        zip(files),
        zip(files.toReversed()),
        zip(wrapped),
        zip([{ name: 'scripts/' }, ...files]),
        tar(files),
        tar([{ name: './', type: '5' }, ...files.map((file) => ({ ...file, name: `./${file.name}` }))]),
        gzipSync(tar(wrapped)),
        zip([...files, { name: '__MACOSX/._SKILL.md', bytes: 'x' }, { name: '.DS_Store' }, { name: '.git/config', bytes: 'x' }]),
        tar([...files, { name: '.clawhub/origin.json', bytes: '{}' }]),
      ].map(async (bytes) => (await packageOf(await read(bytes))).digest),
    );
    expect(new Set(digests).size).toBe(1);
  });

  test('keeps what may be run: by its mode, or by its first line', async () => {
    const entries = [main, { name: 'a', mode: 0o100755, bytes: 'x' }, { name: 'b', mode: 0o100644, bytes: 'x' }, files[1]!];
    const { files: listed, tar: made } = await packageOf(await read(zip(entries)));
    expect(listed.filter(({ executable }) => executable).map(({ path }) => path)).toEqual(['a', 'scripts/run.sh']);
    expect((await packageOf(await unpacked(made))).tar.equals(made)).toBe(true);
  });

  test('may hold archives: they are files like others', async () => {
    const bomb = zip([{ name: 'x', bytes: Buffer.alloc(1_000_000) }]);
    expect(await refusal(zip([main, { name: 'nested.zip', bytes: bomb }]))).toBe('taken: SKILL.md nested.zip');
  });
});

describe('an archive that is not as it should be', () => {
  const LINK = 0o120777;
  const zips: [string, ZipEntry[], string][] = [
    [
      'a name that leads out',
      [main, { name: '../evil' }],
      'invalid_request: ../evil has a name that leads out of the archive (..)',
    ],
    [
      '.. in the middle',
      [main, { name: 'a/../../evil' }],
      'invalid_request: a/../../evil has a name that leads out of the archive (..)',
    ],
    ['an absolute name', [main, { name: '/etc/passwd' }], 'invalid_request: /etc/passwd has an absolute name'],
    ['a drive', [main, { name: 'C:/x' }], 'invalid_request: C:/x has an absolute name'],
    ['a backslash', [main, { name: '..\\evil' }], 'invalid_request: ..\\evil has a name with a backslash'],
    ['an empty segment', [main, { name: 'a//b' }], 'invalid_request: a//b has a name with an empty segment'],
    ['NUL in a name', [main, { name: 'a\0b' }], 'invalid_request: a?b has a name with control characters'],
    ['a name that is no text', [main, { name: Buffer.from([0x61, 0xff]) }], 'invalid_request: a? has a name that is not UTF-8'],
    [
      'a name of 300 bytes',
      [main, { name: 'x'.repeat(300) }],
      `invalid_request: ${'x'.repeat(100)} has a name that is too long (200 bytes, 100 a segment)`,
    ],
    [
      'folders within folders',
      [main, { name: `${'d/'.repeat(16)}x` }],
      `invalid_request: ${'d/'.repeat(16)}x lies more than 15 folders deep`,
    ],
    ['a link', [main, { name: 'l', mode: LINK, bytes: '/etc/passwd' }], 'invalid_request: l is a symbolic link'],
    ['a link in place of the SKILL.md', [{ ...main, mode: LINK }], 'invalid_request: SKILL.md is a symbolic link'],
    ['a device', [main, { name: 'd', mode: 0o020666 }], 'invalid_request: d is a device, a pipe or a socket'],
    ['an encrypted entry', [main, { name: 'e', flags: 1, bytes: 'x' }], 'invalid_request: e is encrypted'],
    [
      'another compression',
      [main, { name: 'z', method: 93, bytes: 'x' }],
      'invalid_request: z is compressed in a way that is not supported',
    ],
    ['one name twice', [main, { name: 'a' }, { name: 'a' }], 'invalid_request: a is there twice'],
    ['a file that is a folder too', [main, { name: 'a' }, { name: 'a/b' }], 'invalid_request: a/b is a file and a folder'],
    ['a folder that is a file too', [main, { name: 'a/b' }, { name: 'a' }], 'invalid_request: a is a file and a folder'],
    [
      'more than it says',
      [main, { name: 'a', bytes: 'x'.repeat(5_000), size: 10 }],
      'invalid_request: a is damaged, or has another size than the archive says',
    ],
    [
      'less than it says',
      [main, { name: 'a', bytes: 'x', size: 5_000 }],
      'invalid_request: a is damaged, or has another size than the archive says',
    ],
    [
      'other content than its checksum says',
      [main, { name: 'a', bytes: 'x', crc: 1 }],
      'invalid_request: a is damaged: its checksum does not hold',
    ],
    [
      'no SKILL.md',
      [{ name: 'README.md' }],
      'invalid_request: SKILL.md must be at the root of the archive, or in the one folder that everything is in',
    ],
    [
      'two folders',
      [
        { ...main, name: 'a/SKILL.md' },
        { ...main, name: 'b/SKILL.md' },
      ],
      'invalid_request: SKILL.md must be at the root of the archive, or in the one folder that everything is in',
    ],
    ['nothing', [], 'invalid_request: the archive has no files'],
    [
      '50 MB that it owns up to',
      [main, { name: 'a', bytes: Buffer.alloc(50_000_000) }],
      'payload_too_large: the archive is larger than 20000000 bytes when unpacked',
    ],
    [
      '50 MB that it denies',
      [main, { name: 'a', bytes: Buffer.alloc(50_000_000), size: 100 }],
      'invalid_request: a is damaged, or has another size than the archive says',
    ],
    [
      '1,001 files',
      [main, ...Array.from({ length: 1_000 }, (_, i) => ({ name: `f${i}` }))],
      'payload_too_large: the archive has more than 1000 files',
    ],
    [
      '5,000 folders',
      [main, ...Array.from({ length: 5_000 }, (_, i) => ({ name: `f${i}/` }))],
      'payload_too_large: the archive has more than 4000 entries',
    ],
  ];
  test.each(zips)('a zip with %s is refused in its own words', async (_, entries, words) => {
    expect(await refusal(zip(entries))).toBe(words);
  });

  test('49 KB that unpack to 50 MB, and a nested bomb at the top, are refused before they are unpacked', async () => {
    const bomb = zip([main, ...Array.from({ length: 50 }, (_, i) => ({ name: `f${i}`, bytes: Buffer.alloc(1_000_000) }))]);
    expect(bomb.length).toBeLessThan(60_000);
    const before = process.memoryUsage().arrayBuffers;
    expect(await refusal(bomb)).toBe('payload_too_large: the archive is larger than 20000000 bytes when unpacked');
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(40_000_000);
    expect(await refusal(gzipSync(gzipSync(Buffer.alloc(50_000_000))))).toBe('invalid_request: body holds no tar archive');
    expect(await refusal(gzipSync(Buffer.alloc(50_000_000)))).toBe(
      'payload_too_large: the archive is larger than 26000000 bytes when unpacked',
    );
  });

  const tars: [string, TarEntry[], string][] = [
    [
      'a name that leads out',
      [main, { name: '../evil' }],
      'invalid_request: ../evil has a name that leads out of the archive (..)',
    ],
    ['an absolute name', [main, { name: '/etc/passwd' }], 'invalid_request: /etc/passwd has an absolute name'],
    ['a link', [main, { name: 'l', type: '2', target: '/etc' }], 'invalid_request: l is a symbolic link'],
    ['a hard link', [main, { name: 'l', type: '1', target: 'SKILL.md' }], 'invalid_request: l is a hard link'],
    ['a device', [main, { name: 'd', type: '3' }], 'invalid_request: d is a device'],
    ['a block device', [main, { name: 'd', type: '4' }], 'invalid_request: d is a device'],
    ['a pipe', [main, { name: 'p', type: '6' }], 'invalid_request: p is a pipe'],
    ['one name twice', [main, { name: 'a' }, { name: 'a' }], 'invalid_request: a is there twice'],
    ['./ before one of two names', [main, { name: './SKILL.md' }], 'invalid_request: ./SKILL.md is there twice'],
    [
      'more than it says',
      [main, { name: 'a', bytes: 'x'.repeat(5_000), size: 10 }],
      'invalid_request: body is not a well-formed tar archive, or ends too early',
    ],
    [
      '8 GB that are not there',
      [main, { name: 'a', size: 8_000_000_000 }],
      'invalid_request: body is not a well-formed tar archive, or ends too early',
    ],
    [
      '1 MB that is not there',
      [main, { name: 'a', size: 1_000_000 }],
      'invalid_request: body is not a well-formed tar archive, or ends too early',
    ],
    [
      'a header of 9 MB',
      [main, { name: 'x', type: 'x', size: 9_000_000 }],
      'invalid_request: body is not a well-formed tar archive, or ends too early',
    ],
  ];
  test.each(tars)('a tar with %s is refused in its own words, gzipped or not', async (_, entries, words) => {
    expect(await refusal(tar(entries))).toBe(words);
    expect(await refusal(gzipSync(tar(entries)))).toBe(words);
  });

  test('whatever is cut off, flipped or made up is refused, never taken in part and never a failure of ours', async () => {
    const whole = {
      zip: zip([main, { name: 'b', bytes: 'x'.repeat(3_000) }]),
      gzip: gzipSync(tar([main, { name: 'b', bytes: 'y'.repeat(3_000) }])),
    };
    for (const bytes of Object.values(whole)) {
      for (let cut = 1; cut < bytes.length - 12; cut += 7) {
        const said = await refusal(bytes.subarray(0, cut));
        expect(said, `cut at ${cut}`).toMatch(/^(invalid_request|payload_too_large): /);
      }
      for (let at = 4; at < bytes.length; at += 5) {
        const flipped = Buffer.from(bytes);
        flipped[at] = (flipped[at] ?? 0) ^ 0xff;
        // A name or a time may be flipped into another one; content may not.
        expect(await refusal(flipped), `flipped at ${at}`).toMatch(/^(invalid_request|payload_too_large|taken): /);
      }
    }
  });
});
