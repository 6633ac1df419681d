import { execFileSync } from 'node:child_process';
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';

let fixture: Fixture;
let workspace: string;
let outside: string;

beforeAll(async () => {
  fixture = await startFixture();
  await fixture.berth.configure([agent('a'), agent('sibling')]);
  workspace = join(fixture.gateway.dataDir, 'workspaces/a');
  outside = mkdtempSync(join(tmpdir(), 'bo-'));
  writeFileSync(join(outside, 'secret.txt'), 'the secret');
  writeFileSync(join(fixture.gateway.dataDir, 'workspaces/sibling/theirs.txt'), 'the secret');
  symlinkSync(outside, join(workspace, 'link-to-folder'));
  symlinkSync(join(outside, 'secret.txt'), join(workspace, 'link-to-file'));
  symlinkSync('../sibling', join(workspace, 'link-to-sibling'));
  symlinkSync('/proc/self/environ', join(workspace, 'link-to-environ'));
  symlinkSync(join(outside, 'new.txt'), join(workspace, 'link-to-nothing'));
  symlinkSync('loop', join(workspace, 'loop'));
  mkdirSync(join(workspace, 'real'));
  symlinkSync('real', join(workspace, 'link-inside'));
  execFileSync('mkfifo', [join(workspace, 'pipe')]);
});

afterAll(async () => {
  rmSync(outside, { recursive: true, force: true });
  await fixture.close();
});

/** Runs one tool call through the whole gateway; what the model was told of it. */
async function call(name: string, args: object): Promise<{ ok: boolean; text: string }> {
  const before = fixture.berth.modelRequests.length;
  const answer = await fixture.berth.chat(say('a', `/tool ${name} ${JSON.stringify(args)}`), { 'x-berth-events': '1' });
  const messages = fixture.berth.modelRequests[before + 1]?.body.messages;
  return { ok: answer.events.find(({ event }) => event === 'tool_result')?.data.ok, text: String(messages?.at(-1)?.content) };
}

describe('the workspace', () => {
  const escapes = [
    '/etc/passwd',
    '../sibling/theirs.txt',
    'real/../../sibling/theirs.txt',
    'link-to-file',
    'link-to-folder/secret.txt',
    'link-to-sibling/theirs.txt',
    'link-to-environ',
    'link-to-nothing',
    'loop',
    'pipe',
    'a\0b',
    '',
    'x'.repeat(300),
    'y/'.repeat(600),
  ];

  test.each(escapes)('is not left by reading %j', async (path) => {
    const { ok, text } = await call('read_file', { path });
    expect(ok).toBe(false);
    expect(text).toMatch(/^Error: /);
    expect(text).not.toContain('the secret');
  });

  test.each([...escapes, 'link-to-folder/new.txt', 'link-to-folder/deep/new.txt'])('is not left by writing %j', async (path) => {
    const { ok, text } = await call('write_file', { path, content: 'mine now' });
    expect(ok).toBe(false);
    expect(text).toMatch(/^Error: /);
    expect(readdirSync(outside)).toEqual(['secret.txt']);
    expect(readFileSync(join(outside, 'secret.txt'), 'utf8')).toBe('the secret');
  });

  test('is not left by editing or listing', async () => {
    expect((await call('edit_file', { path: 'link-to-file', old_text: 'secret', new_text: 'x' })).ok).toBe(false);
    for (const path of ['..', '/', 'link-to-folder', 'link-to-sibling'])
      expect((await call('list_files', { path })).ok).toBe(false);
    expect((await call('list_files', { recursive: true })).text).not.toContain('secret.txt');
  });

  test('may hold links that stay inside', async () => {
    expect(await call('write_file', { path: 'link-inside/x.txt', content: 'in' })).toMatchObject({ ok: true });
    expect(readFileSync(join(workspace, 'real/x.txt'), 'utf8')).toBe('in');
    expect(await call('read_file', { path: 'link-inside/x.txt' })).toEqual({ ok: true, text: 'in' });
  });
});

describe('files', () => {
  test('are written, read, edited and listed', async () => {
    expect(await call('write_file', { path: 'n/ü.txt', content: 'one\ntwo\nthree\n' })).toEqual({
      ok: true,
      text: 'Wrote 14 bytes to n/ü.txt.',
    });
    expect(await call('read_file', { path: 'n/ü.txt' })).toEqual({ ok: true, text: 'one\ntwo\nthree' });
    expect((await call('read_file', { path: 'n/ü.txt', offset: 2, limit: 1 })).text).toBe(
      'two\n[… lines 3 to 3 not shown: go on with offset 3]',
    );
    expect((await call('edit_file', { path: 'n/ü.txt', old_text: 'two', new_text: '$& 2' })).text).toBe(
      'Replaced one place in n/ü.txt.',
    );
    expect((await call('list_files', { path: 'n' })).text).toBe('ü.txt\t15');
    expect(readFileSync(join(workspace, 'n/ü.txt'), 'utf8')).toBe('one\n$& 2\nthree\n');
  });

  test('become shorter when written anew', async () => {
    await call('write_file', { path: 's.txt', content: 'a long text' });
    await call('write_file', { path: 's.txt', content: 'short' });
    expect(readFileSync(join(workspace, 's.txt'), 'utf8')).toBe('short');
  });

  test('are edited only where it is clear what is meant', async () => {
    await call('write_file', { path: 'e.txt', content: 'a b a' });
    expect((await call('edit_file', { path: 'e.txt', old_text: 'a', new_text: 'c' })).text).toContain('2 times');
    expect((await call('edit_file', { path: 'e.txt', old_text: 'z', new_text: 'c' })).text).toContain('is not in the file');
    expect((await call('edit_file', { path: 'e.txt', old_text: 'a', new_text: 'c', replace_all: true })).ok).toBe(true);
    expect(readFileSync(join(workspace, 'e.txt'), 'utf8')).toBe('c b c');
  });

  test('are capped', async () => {
    expect((await call('write_file', { path: 'big.txt', content: 'x'.repeat(1024 * 1024 + 1) })).text).toBe(
      'Error: content: at most 1 MB',
    );
    writeFileSync(join(workspace, 'huge.txt'), '');
    truncateSync(join(workspace, 'huge.txt'), 8 * 1024 ** 3);
    expect((await call('read_file', { path: 'huge.txt' })).text).toContain('not a text file');
    writeFileSync(join(workspace, 'lines.txt'), 'line of text\n'.repeat(100_000));
    const { text } = await call('read_file', { path: 'lines.txt' });
    expect(text.length).toBeLessThan(31_000);
    expect(text).toContain('go on with offset 2001');
    expect(text).toContain('only the first 1 MB');
    rmSync(join(workspace, 'huge.txt'));
    mkdirSync(join(workspace, 'many'));
    for (let i = 0; i < 600; i++) writeFileSync(join(workspace, `many/${i}`), '');
    expect((await call('list_files', { path: 'many' })).text).toContain('more than 500 entries');
  });

  test('that are hard links or folders give clear answers', async () => {
    writeFileSync(join(workspace, 'h1'), 'x');
    linkSync(join(workspace, 'h1'), join(workspace, 'h2'));
    expect((await call('read_file', { path: 'h2' })).ok).toBe(true);
    expect((await call('read_file', { path: 'real' })).text).toContain('is a folder');
    expect((await call('list_files', { path: 'h1' })).text).toContain('is not a folder');
  });
});

describe('the shell', () => {
  const shell = (command: string, more: object = {}) => call('shell', { command, ...more });

  test('runs in the workspace and tells output and exit code', async () => {
    expect(await shell('pwd; echo err >&2')).toEqual({ ok: true, text: `${workspace}\nerr` });
    expect(await shell('echo out; exit 3')).toEqual({ ok: false, text: 'out\n[exit code 3]' });
    expect(await shell('true')).toEqual({ ok: true, text: '(no output)' });
    expect((await shell('cat')).ok).toBe(true);
  });

  test('has a small environment without anything of the gateway', async () => {
    const { text } = await shell('env | cut -d= -f1 | sort | tr "\\n" " "');
    const names = text.split(' ').filter((name) => !['_', 'SHLVL', 'OLDPWD'].includes(name));
    expect(names).toEqual(['BERTH_AGENT', 'BERTH_CALL', 'HOME', 'LANG', 'PATH', 'PWD', 'TERM', 'USER']);
    expect((await shell('echo $HOME')).text).toBe(join(fixture.gateway.dataDir, 'homes/a'));
  });

  test('ends what takes too long, with all it started', async () => {
    const started = performance.now();
    const { ok, text } = await shell('echo begun; (sleep 5151 & sleep 5151) & setsid sleep 5151 & sleep 5151', { timeout_s: 1 });
    expect(performance.now() - started).toBeLessThan(5000);
    expect({ ok, text }).toEqual({ ok: false, text: 'begun\n[ended after 1 s: it took too long]' });
    expect(countRunning('sleep 5151')).toBe(0);
  });

  test('leaves nothing running when the command ends by itself', async () => {
    const { ok, text } = await shell('nohup sleep 5252 >/dev/null 2>&1 & setsid nohup sleep 5252 & echo done');
    expect({ ok, text }).toMatchObject({ ok: true, text: expect.stringContaining('done') });
    expect(countRunning('sleep 5252')).toBe(0);
  });

  test('does not wait for a process that hid and holds the output', async () => {
    const started = performance.now();
    expect((await shell('env -i setsid sleep 7.75 & echo done')).text).toContain('done');
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test('ends what prints without end, and shows both ends of it', async () => {
    const { ok, text } = await shell('echo first; yes');
    expect(ok).toBe(false);
    expect(text.length).toBeLessThan(31_000);
    expect(text).toMatch(/^first\ny\n.*characters left out.*\[ended: it printed more than 1 MB\]$/s);
    await until('yes has ended', () => countRunning('yes') === 0);
  });

  test('copes with bytes that are no text and with a workspace that was removed', async () => {
    expect((await shell('head -c 1000 /dev/urandom')).ok).toBe(true);
    expect((await shell('cd ..; rm -rf a/many; printf "a\\0b"')).text).toBe('a\0b');
    expect((await shell('rm -rf "$PWD"; echo gone')).text).toContain('gone');
    expect(existsSync(workspace)).toBe(false);
    expect((await shell('pwd')).text).toBe(workspace);
  });
});

test('are left out where the environment says so', async () => {
  const bare = await startFixture({ BERTH_SHELL: 'off', BERTH_FETCH: 'off' });
  try {
    await bare.berth.configure([agent('a')]);
    await bare.berth.chat(say('a', 'hi'));
    expect(bare.berth.modelRequests[0]?.body.tools?.map((tool) => tool.function.name)).toEqual([
      'read_file',
      'write_file',
      'edit_file',
      'list_files',
      'keep_awake',
    ]);
    expect((await bare.berth.chat(say('a', '/tool shell {"command":"id"}'))).said).toContain('There is no tool of that name');
  } finally {
    await bare.close();
  }
});

function countRunning(command: string): number {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim() === command;
    } catch {
      return false;
    }
  }).length;
}
