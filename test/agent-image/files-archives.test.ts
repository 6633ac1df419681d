import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fromBufferPromise } from 'yauzl';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { paxOf, replaced, tarOf, zipOf, type TarEntry } from './archive-fixtures.js';
import { FilesFixture, readFileAnswer, type FileAnswer } from './files-client.js';
import { until } from './fixture.js';

const MB = 1024 * 1024;

let files: FilesFixture;
let scratch: string;

beforeAll(async () => {
  files = await FilesFixture.start();
  scratch = mkdtempSync(join(tmpdir(), 'fa-'));
});
beforeEach(() => {
  for (const name of readdirSync(files.inside())) rmSync(files.inside(name), { recursive: true, force: true });
});
afterAll(async () => {
  await files.close();
  rmSync(scratch, { recursive: true, force: true });
});

const get = (format: string, path = '') => files.ask('GET', `archive?format=${format}&path=${encodeURIComponent(path)}`);
const put = (format: string, body: Buffer, path = '', headers: Record<string, string> = {}): Promise<FileAnswer> =>
  files.ask('PUT', `archive?format=${format}&path=${encodeURIComponent(path)}`, body, headers);
const found = () =>
  execFileSync('find', ['.', '-mindepth', '1'], { cwd: files.inside(), encoding: 'utf8' }).split('\n').filter(Boolean).sort();
const nothingLeft = () => {
  expect(readdirSync(join(files.dataDir, '.berth/staging'))).toEqual([]);
  expect(readdirSync(join(files.dataDir, '.berth/trash'))).toEqual([]);
};

function plantTree(): void {
  mkdirSync(files.inside('src/empty'), { recursive: true });
  writeFileSync(files.inside('src/ünï 日本.txt'), 'uni');
  writeFileSync(files.inside('src/run.sh'), '#!/bin/sh\necho ran\n');
  chmodSync(files.inside('src/run.sh'), 0o6755);
  writeFileSync(files.inside(`src/${'long-'.repeat(40)}`), 'long');
  writeFileSync(files.inside('src/zero'), '');
  symlinkSync('/etc/passwd', files.inside('src/link'));
  symlinkSync('run.sh', files.inside('src/inner'));
  execFileSync('mkfifo', [files.inside('src/pipe')]);
}
const TREE = ['./empty', './run.sh', './zero', './ünï 日本.txt', `./${'long-'.repeat(40)}`].sort();

describe('downloads', () => {
  test('as tar hold files and folders, as GNU tar reads them, and no links or pipes', async () => {
    plantTree();
    const answer = await get('tar', 'src');
    expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/x-tar' } });
    const dir = mkdtempSync(join(scratch, 'x-'));
    execFileSync('tar', ['-xf', '-'], { cwd: dir, input: answer.bytes });
    expect(
      execFileSync('find', ['.', '-mindepth', '1'], { cwd: dir, encoding: 'utf8' }).split('\n').filter(Boolean).sort(),
    ).toEqual(TREE);
    expect(execFileSync('./run.sh', { cwd: dir, encoding: 'utf8' })).toBe('ran\n');
    expect(statSync(join(dir, 'run.sh')).mode & 0o7777).toBe(0o755);
    expect(readFileSync(join(dir, 'ünï 日本.txt'), 'utf8')).toBe('uni');
    expect(answer.bytes.includes('root:')).toBe(false);
  });

  test('as zip hold the same', async () => {
    plantTree();
    writeFileSync(files.inside('src/..\\..\\evil'), 'x');
    const answer = await get('zip', 'src');
    expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/zip' } });
    const zip = await fromBufferPromise(answer.bytes);
    const names: string[] = [];
    for await (const entry of zip.eachEntry()) names.push(`./${entry.fileName.replace(/\/$/, '')}`);
    expect(names.sort()).toEqual(TREE);
  });

  test('of what is not there, or no folder, are errors, and of an empty workspace are empty', async () => {
    for (const format of ['tar', 'zip']) {
      expect(await get(format, 'none')).toMatchObject({ status: 404, json: { error: { code: 'not_found' } } });
      await files.put('file', 'x');
      expect(await get(format, 'file')).toMatchObject({ status: 409, json: { error: { code: 'not_folder' } } });
      rmSync(files.inside('file'));
      expect((await get(format)).status).toBe(200);
    }
    expect(await get('rar')).toMatchObject({ status: 400, json: { error: { code: 'bad_request' } } });
    expect(await files.ask('HEAD', 'archive')).toMatchObject({ status: 200, text: '' });
  });

  test('of folders that shrink and grow meanwhile stay whole archives', async () => {
    for (let i = 0; i < 8; i++) writeFileSync(files.inside(`f${i}`), Buffer.alloc(2 * MB, 65));
    const stream = await files.fixture.berth.open('GET', '/berth/v1/agents/a/archive?format=tar');
    await once(stream, 'response');
    for (let i = 0; i < 8; i++) writeFileSync(files.inside(`f${i}`), i % 2 ? 'short' : Buffer.alloc(3 * MB, 66));
    const pieces: Buffer[] = [];
    stream.on('data', (piece: Buffer) => pieces.push(piece));
    await once(stream, 'end');
    const listed = execFileSync('tar', ['-tvf', '-'], { input: Buffer.concat(pieces), encoding: 'utf8', maxBuffer: 99 * MB });
    expect(listed.trim().split('\n').length).toBe(8);
  });

  test.each(['tar', 'zip'])('as %s that nobody reads to the end are given up', async (format) => {
    writeFileSync(files.inside('large'), randomBytes(5 * MB));
    for (let i = 0; i < 10; i++) {
      const stream = await files.fixture.berth.open('GET', `/berth/v1/agents/a/archive?format=${format}`);
      await once(stream, 'response');
      const gone = new Promise<void>((resolve) => void stream.once('close', resolve));
      stream.close(8);
      // One that was refused, since those before it are not gone yet, was through already and is open until it is read.
      stream.resume();
      await gone;
    }
    await until('there is room for others', async () => (await get(format)).status === 200);
  });
});

describe('uploads', () => {
  test.each(['tar', 'zip'])('as %s bring back what was downloaded', async (format) => {
    plantTree();
    const { bytes } = await get(format, 'src');
    const answer = await put(format, bytes, 'copy/of it');
    expect(answer).toMatchObject({ status: 200, json: { files: 4, bytes: 3 + 19 + 4 } });
    expect(
      execFileSync('find', ['.', '-mindepth', '1'], { cwd: files.inside('copy/of it'), encoding: 'utf8' })
        .split('\n')
        .filter(Boolean)
        .sort(),
    ).toEqual(TREE);
    expect(statSync(files.inside('copy/of it/run.sh')).mode & 0o7777).toBe(0o755);
    expect(statSync(files.inside('copy/of it/zero')).mode & 0o7777).toBe(0o644);
    nothingLeft();
  });

  test('take what GNU tar writes', async () => {
    const dir = mkdtempSync(join(scratch, 'y-'));
    mkdirSync(join(dir, 'd/e'), { recursive: true });
    writeFileSync(join(dir, 'd/e/ü'), 'one');
    writeFileSync(join(dir, `d/${'n'.repeat(200)}`), 'two');
    for (const format of ['gnu', 'pax', 'ustar']) {
      const tar = execFileSync('tar', [`--format=${format}`, '-cf', '-', format === 'ustar' ? './d/e' : '.'], { cwd: dir });
      expect((await put('tar', tar, format)).status).toBe(200);
      expect(readFileSync(files.inside(format, 'd/e/ü'), 'utf8')).toBe('one');
    }
    expect(readFileSync(files.inside('gnu/d', 'n'.repeat(200)), 'utf8')).toBe('two');
  });

  test('replace files, merge folders and leave the rest', async () => {
    await files.put('d/old', 'old');
    await files.put('d/both', 'old');
    const tar = tarOf([
      { name: 'd/', type: '5' },
      { name: 'd/both', body: 'new' },
      { name: 'd/new/file', body: 'new' },
    ]);
    expect(await put('tar', tar)).toMatchObject({ status: 200, json: { files: 2, bytes: 6 } });
    expect(found()).toEqual(['./d', './d/both', './d/new', './d/new/file', './d/old']);
    expect(readFileSync(files.inside('d/both'), 'utf8')).toBe('new');
    nothingLeft();
  });

  test('drop owners, setuid and setgid, and keep the permission to run', async () => {
    const entries = [
      { name: 'run', body: 'x', mode: 0o6777 },
      { name: 'plain', body: 'x', mode: 0o666 },
    ];
    await put('tar', tarOf(entries), 't');
    await put('zip', await zipOf(entries.map((entry) => ({ ...entry, mode: entry.mode | 0o100000 }))), 'z');
    for (const dir of ['t', 'z']) {
      expect(statSync(files.inside(dir, 'run')).mode & 0o7777).toBe(0o755);
      expect(statSync(files.inside(dir, 'plain')).mode & 0o7777).toBe(0o644);
    }
  });

  const hostileTars: [string, TarEntry[] | Buffer][] = [
    ['a name with ..', [{ name: '../evil', body: 'x' }]],
    ['a .. in the middle', [{ name: 'a/../../evil', body: 'x' }]],
    ['an absolute name', [{ name: '/tmp/evil', body: 'x' }]],
    ['an absolute name in an extended header', [paxOf({ path: '/tmp/evil' }), { name: 'fine', body: 'x' }]],
    ['a .. in an extended header', [paxOf({ path: '../../evil' }), { name: 'fine', body: 'x' }]],
    ['a name with a backslash', [{ name: '..\\evil', body: 'x' }]],
    ['a name with a NUL in an extended header', [paxOf({ path: 'a\0b' }), { name: 'fine', body: 'x' }]],
    ['a name that is no UTF-8', [{ name: Buffer.from([0x66, 0xff]), body: 'x' }]],
    ['an empty name', [{ name: '', body: 'x' }]],
    [
      'a link out, and a file behind it',
      [
        { name: 'l', type: '2', link: '/tmp' },
        { name: 'l/evil', body: 'x' },
      ],
    ],
    ['a link inside', [{ name: 'l', type: '2', link: 'fine' }]],
    ['a hard link', [{ name: 'l', type: '1', link: '/etc/passwd' }]],
    ['a character device', [{ name: 'null', type: '3' }]],
    ['a block device', [{ name: 'sda', type: '4' }]],
    ['a pipe', [{ name: 'pipe', type: '6' }]],
    [
      'one name twice',
      [
        { name: 'a', body: '1' },
        { name: 'a', body: '2' },
      ],
    ],
    [
      'a file where it has a folder',
      [
        { name: 'a/b', body: '1' },
        { name: 'a', body: '2' },
      ],
    ],
    [
      'a folder where it has a file',
      [
        { name: 'a', body: '1' },
        { name: 'a/b', body: '2' },
      ],
    ],
    ['folders without end', [{ name: 'd/'.repeat(45), type: '5' }, paxOf({ path: 'd/'.repeat(300) }), { name: 'x', type: '5' }]],
    ['a size that is not true', [{ name: 'a', body: 'short', size: 5000 }]],
    ['a size beyond all', [paxOf({ size: '9007199254740991' }), { name: 'a', body: 'x' }]],
    ['a size below nothing', [paxOf({ size: '-1' }), { name: 'a', body: 'x', size: 1 }, { name: 'b', body: 'x', type: '6' }]],
    ['an extended header without end', [{ name: 'PaxHeader', type: 'x', body: 'x', size: 0o77777777777 }]],
    ['a wrong checksum', replaced(tarOf([{ name: 'fine', body: 'x' }]), Buffer.from('fine'), Buffer.from('file'))],
    ['no end', tarOf([{ name: 'fine', body: 'x' }], { ended: false })],
    ['nothing of a tar', Buffer.from('this is no archive '.repeat(100))],
    ['a zip inside its clothes', Buffer.from('PK\x03\x04'.repeat(300))],
  ];
  test.each(hostileTars)('of a tar with %s change nothing', async (_what, archive) => {
    await files.put('fine', 'mine');
    const good = tarOf([{ name: 'good', body: 'x' }], { ended: false });
    const answer = await put('tar', Buffer.isBuffer(archive) ? archive : Buffer.concat([good, tarOf(archive)]));
    expect(answer).toMatchObject({ status: 400, json: { error: { code: 'bad_archive' } } });
    expect(answer.text).not.toContain('evil');
    expect(found()).toEqual(['./fine']);
    expect(readFileSync(files.inside('fine'), 'utf8')).toBe('mine');
    expect(existsSync('/tmp/evil')).toBe(false);
    nothingLeft();
  });

  const hostileZips: [string, () => Promise<Buffer>][] = [
    ['a name with ..', () => zipOf([{ name: 'xx/evil', body: 'x' }], { 'xx/evil': '../evil' })],
    ['an absolute name', () => zipOf([{ name: 'xtmp/evil', body: 'x' }], { 'xtmp/evil': '/tmp/evil' })],
    ['a name with a backslash', () => zipOf([{ name: 'xx-evil', body: 'x' }], { 'xx-evil': '..\\evil' })],
    ['a NUL in a name', () => zipOf([{ name: 'e-vil', body: 'x' }], { 'e-vil': 'e\0vil' })],
    ['a name that is said to be UTF-8 and is not', () => zipOf([{ name: 'exil', body: 'x' }], { exil: 'e\xffil' })],
    ['a link', () => zipOf([{ name: 'l', body: '/etc/passwd', mode: 0o120777 }])],
    ['a device', () => zipOf([{ name: 'd', mode: 0o20666 }])],
    [
      'one name twice',
      () =>
        zipOf([
          { name: 'a', body: '1' },
          { name: 'a', body: '2' },
        ]),
    ],
    [
      'a file where it has a folder',
      () =>
        zipOf([
          { name: 'a/', mode: 0o40755 },
          { name: 'a', body: '2' },
        ]),
    ],
    [
      'a folder where it has a file',
      () =>
        zipOf([
          { name: 'a', body: '1' },
          { name: 'a/b', body: '2' },
        ]),
    ],
    ['a size that is not true', async () => withSize(await zipOf([{ name: 'a', body: Buffer.alloc(100_000, 65) }]), 100_000, 10)],
    [
      'a wrong sum',
      async () =>
        replaced(
          await zipOf([{ name: 'a', body: 'some words', mode: 0o100644 }]),
          Buffer.from('PK\x01\x02'),
          Buffer.from('PK\x01\x03'),
        ),
    ],
    ['its end cut off', async () => (await zipOf([{ name: 'a', body: Buffer.alloc(5000, 1) }])).subarray(0, -30)],
    ['nothing of a zip', async () => Buffer.from('this is no archive '.repeat(100))],
    ['nothing at all', async () => Buffer.alloc(0)],
  ];
  test.each(hostileZips)('of a zip with %s change nothing', async (_what, make) => {
    await files.put('fine', 'mine');
    const answer = await put('zip', await make());
    expect(answer).toMatchObject({ status: 400, json: { error: { code: 'bad_archive' } } });
    expect(answer.text).not.toContain('evil');
    expect(found()).toEqual(['./fine']);
    expect(existsSync('/tmp/evil')).toBe(false);
    nothingLeft();
  });

  test('in the old code page, or in UTF-8 that does not say so, keep their names', async () => {
    const old = await zipOf([{ name: 'a-b', body: 'x' }], { 'a-b': 'a\x81b' });
    const unsaid = await zipOf([{ name: 'a--b', body: 'x' }], { 'a--b': Buffer.from('aüb').toString('latin1') });
    // The flag that says UTF-8, in the local header and in the list of contents.
    const unflagged = (zip: Buffer) => {
      zip[7] = 0;
      const at = zip.indexOf(Buffer.from('PK\x01\x02'));
      zip[at + 9] = 0;
      return zip;
    };
    await put('zip', unflagged(old), 'old');
    await put('zip', unflagged(unsaid), 'unsaid');
    expect(readdirSync(files.inside('old'))).toEqual(['aüb']);
    expect(readdirSync(files.inside('unsaid'))).toEqual(['aüb']);
  });

  test('that blow up are stopped while they do', async () => {
    const bomb = await zipOf([{ name: 'bomb', body: Buffer.alloc(50 * MB) }]);
    expect(bomb.length).toBeLessThan(60_000);
    const { bytes: used } = (await files.ask('GET', 'disk?fresh=true')).json;
    const overQuota = await put('zip', bomb, '', { 'x-berth-quota': String(used + 10 * MB) });
    expect(overQuota).toMatchObject({ status: 413, json: { error: { code: 'quota' }, limit: used + 10 * MB } });
    expect(await put('zip', bomb, '', { 'x-berth-limit': String(5 * MB) })).toMatchObject({
      status: 413,
      json: { error: { code: 'too_large' }, limit: 5 * MB },
    });
    const tar = tarOf([{ name: 'big', body: Buffer.alloc(12 * MB) }]);
    expect(await put('tar', tar, '', { 'x-berth-quota': String(used + 10 * MB) })).toMatchObject({
      status: 413,
      json: { error: { code: 'quota' } },
    });
    const nested = await zipOf([{ name: 'inner.zip', body: bomb }]);
    expect(await put('zip', nested, '', { 'x-berth-limit': String(MB) })).toMatchObject({
      status: 200,
      json: { files: 1, bytes: bomb.length },
    });
    expect(found()).toEqual(['./inner.zip']);
    expect((await files.ask('GET', 'disk')).json.bytes - used).toBeLessThan(MB);
    nothingLeft();
  });

  test('of too many entries, or folders made by names alone, are refused', async () => {
    // One folder over and over, which costs the disk nothing.
    const again = (count: number) => Array.from({ length: count }, () => ({ name: 'd/', type: '5', mode: 0o40755 }));
    const many = tarOf(again(10_001));
    const folders = tarOf([...again(9_990), { name: `${'d/'.repeat(40)}f` }]);
    for (const tar of [many, folders])
      expect(await put('tar', tar)).toMatchObject({ status: 413, json: { error: { code: 'too_many' } } });
    expect(await put('zip', await zipOf(again(10_001)))).toMatchObject({ status: 413, json: { error: { code: 'too_many' } } });
    expect(found()).toEqual([]);
    nothingLeft();
  });

  test('that do not fit to what is there change nothing', async () => {
    await files.put('a/b/file', 'mine');
    symlinkSync('a', files.inside('link'));
    for (const [name, code] of [
      ['a/b', 'is_folder'],
      ['a/b/file/c', 'not_folder'],
      ['link/c', 'not_folder'],
    ] as const) {
      const tar = tarOf([
        { name: '0first', body: 'x' },
        { name: 'a/0first', body: 'x' },
        { name, body: 'x' },
      ]);
      expect(await put('tar', tar)).toMatchObject({ status: 409, json: { error: { code } } });
    }
    expect(await put('tar', tarOf([]), 'a/b/file')).toMatchObject({ status: 409, json: { error: { code: 'not_folder' } } });
    expect(await put('tar', tarOf([]), '../b')).toMatchObject({ status: 400, json: { error: { code: 'bad_path' } } });
    expect(found()).toEqual(['./a', './a/b', './a/b/file', './link']);
    expect(readFileSync(files.inside('a/b/file'), 'utf8')).toBe('mine');
    nothingLeft();
  });

  test('into links that lead out put nothing there', async () => {
    const outside = mkdtempSync(join(scratch, 'o-'));
    symlinkSync(outside, files.inside('out'));
    expect(await put('tar', tarOf([{ name: 'x', body: 'x' }]), 'out')).toMatchObject({
      status: 400,
      json: { error: { code: 'bad_path' } },
    });
    expect((await put('tar', tarOf([{ name: 'out/x', body: 'x' }]))).status).toBe(409);
    expect((await put('tar', tarOf([{ name: 'out', body: 'mine' }]))).status).toBe(200);
    expect(readFileSync(files.inside('out'), 'utf8')).toBe('mine');
    expect(readdirSync(outside)).toEqual([]);
  });

  test.each(['tar', 'zip'])('as %s that are cut off leave nothing', async (format) => {
    const archive =
      format === 'tar'
        ? tarOf([
            { name: 'a', body: 'x' },
            { name: 'b', body: Buffer.alloc(3 * MB, 1) },
          ])
        : Buffer.alloc(3 * MB, 1);
    const stream = await files.upload(`archive?format=${format}`);
    const gone = new Promise<void>((resolve) => void stream.once('close', resolve));
    stream.write(archive.subarray(0, MB));
    await until('it is staged', () => readdirSync(join(files.dataDir, '.berth/staging')).length === 1);
    stream.close(8);
    await gone;
    await until('it is gone', () => readdirSync(join(files.dataDir, '.berth/staging')).length === 0);
    expect(found()).toEqual([]);
  });

  test('as tar by a byte at a time arrive whole', async () => {
    const stream = await files.upload('archive?format=tar');
    for (const byte of tarOf([{ name: 'dir/file', body: 'slowly' }])) stream.write(Buffer.from([byte]));
    stream.end();
    expect(await readFileAnswer(stream)).toMatchObject({ status: 200, json: { files: 1, bytes: 6 } });
    expect(readFileSync(files.inside('dir/file'), 'utf8')).toBe('slowly');
  });
});

/** The size that a zip's list of contents says. */
function withSize(zip: Buffer, from: number, to: number): Buffer {
  const said = Buffer.alloc(4);
  said.writeUInt32LE(from);
  const lie = Buffer.alloc(4);
  lie.writeUInt32LE(to);
  return replaced(zip, said, lie);
}
