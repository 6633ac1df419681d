import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { tarOf } from './archive-fixtures.js';
import { FilesFixture, readFileAnswer } from './files-client.js';
import { agent, say, until } from './fixture.js';

let files: FilesFixture;
let berth: FilesFixture['fixture']['berth'];
let state: Buffer;
let version = 1;

beforeAll(async () => {
  files = await FilesFixture.start();
  berth = files.fixture.berth;
  await berth.chat(say('a', 'remember this', { user: 'u1' }));
  writeFileSync(files.inside('notes.md'), 'mine');
  mkdirSync(files.inside('node_modules/.bin'), { recursive: true });
  symlinkSync('../../notes.md', files.inside('node_modules/.bin/tool'));
  symlinkSync('/etc/passwd', files.inside('out'));
  symlinkSync('../../../homes/a/.profile', files.inside('node_modules/.bin/across'));
  writeFileSync(join(files.dataDir, 'homes/a/.profile'), 'export X=1');
  const answer = await files.ask('GET', 'state');
  expect(answer).toMatchObject({ status: 200, headers: { 'content-type': 'application/x-tar' } });
  state = answer.bytes;
});
afterAll(() => files.close());

const configure = (...agents: object[]) => berth.configure(agents, ++version);
const here = (id: string, ...path: string[]) => join(files.dataDir, 'workspaces', id, ...path);
async function putFor(id: string, body: Buffer, incarnation = 'i9') {
  const stream = await berth.open('PUT', `/berth/v1/agents/${id}/state?incarnation=${incarnation}`, body);
  return readFileAnswer(stream);
}

test('an agent begins with the state that came for it: files, home, conversations, and links that stay within', async () => {
  expect(await putFor('c', state)).toMatchObject({ status: 201, json: { files: 3 } });
  // Nothing is where agents are until one is.
  expect(existsSync(here('c'))).toBe(false);
  await configure(agent('a'), agent('b'), agent('c', { incarnation: 'i9' }));
  expect(readFileSync(here('c', 'notes.md'), 'utf8')).toBe('mine');
  expect(readlinkSync(here('c', 'node_modules/.bin/tool'))).toBe('../../notes.md');
  expect(existsSync(here('c', 'out'))).toBe(false);
  expect(() => lstatSync(here('c', 'node_modules/.bin/across'))).toThrow('ENOENT');
  expect(readFileSync(join(files.dataDir, 'homes/c/.profile'), 'utf8')).toBe('export X=1');
  expect((await berth.chat(say('c', '/history', { user: 'u1' }))).said).toBe('remember this');
  expect(readdirSync(join(files.dataDir, '.berth/arrivals'))).toEqual([]);
});

test('it may come twice, survives other configs and a restart meanwhile, and is nobody else’s', async () => {
  await putFor('d', tarOf([{ name: 'workspace/old', body: 'x' }]));
  expect((await putFor('d', state)).status).toBe(201);
  await configure(agent('a'), agent('b'));
  await files.fixture.gateway.stop('SIGKILL');
  const back = berth.nextLink();
  files.fixture.gateway.start();
  await back;
  version = 1;
  await configure(agent('a'), agent('b'), agent('d', { incarnation: 'i9' }));
  expect(readdirSync(here('d')).sort()).toEqual(['node_modules', 'notes.md']);
  await putFor('e', state, 'other');
  await configure(agent('a'), agent('b'), agent('e', { incarnation: 'i9' }));
  expect(readdirSync(here('e'))).toEqual([]);
  await until('it is thrown away', () => readdirSync(join(files.dataDir, '.berth/arrivals')).length === 0);
});

test('one that broke off while it was put in place goes on', async () => {
  await putFor('f', state);
  // As a process leaves it that dies after the first of three moves.
  mkdirSync(here('f', '..'), { recursive: true });
  const arrival = join(files.dataDir, '.berth/arrivals/f');
  rmSync(here('f'), { recursive: true, force: true });
  renameSync(join(arrival, 'workspace'), here('f'));
  await configure(agent('a'), agent('b'), agent('f', { incarnation: 'i9' }));
  expect(readFileSync(here('f', 'notes.md'), 'utf8')).toBe('mine');
  expect(readFileSync(join(files.dataDir, 'homes/f/.profile'), 'utf8')).toBe('export X=1');
});

test('what is no state, or is for an agent that has it already, is refused', async () => {
  expect(await putFor('a', state, 'i1')).toMatchObject({ status: 409, json: { error: { code: 'exists' } } });
  expect(await putFor('g', state, '')).toMatchObject({ status: 400, json: { error: { code: 'bad_request' } } });
  expect(await putFor('..%2Fg', state)).toMatchObject({ status: 400, json: { error: { code: 'bad_request' } } });
  for (const entries of [
    [{ name: 'other/x', body: 'x' }],
    [{ name: 'workspace', body: 'x' }],
    [{ name: 'incarnation', body: 'i9' }],
    [{ name: 'workspace/x', type: '1', link: '/etc/passwd' }],
    [
      { name: 'workspace/l', type: '2', link: 'x' },
      { name: 'workspace/l/y', body: 'x' },
    ],
    [{ name: '../x', body: 'x' }],
  ])
    expect(await putFor('g', tarOf(entries))).toMatchObject({ status: 400, json: { error: { code: 'bad_archive' } } });
  expect(await files.ask('GET', 'state')).toMatchObject({ status: 200 });
  expect((await berth.request('GET', '/berth/v1/agents/ghost/state')).status).toBe(404);
  expect(readdirSync(join(files.dataDir, '.berth/arrivals'))).toEqual([]);
  expect(readdirSync(join(files.dataDir, '.berth/staging'))).toEqual([]);
});

test('a state is given away when the running turn has ended', async () => {
  const turn = berth.chat(say('a', '/slow 20 30', { user: 'u2' }));
  await until('the turn runs', () => berth.modelRequests.some(({ body }) => JSON.stringify(body).includes('/slow')));
  const { bytes } = await files.ask('GET', 'state');
  expect((await turn).done).toBe(true);
  expect(bytes.toString('latin1')).toContain('/slow 20 30');
});

test('an agent that is here gets another state at the config that names it so, whole, and keeps its own until then', async () => {
  await configure(agent('a'), agent('b'));
  await berth.chat(say('b', 'to be forgotten', { user: 'u1' }));
  writeFileSync(here('b', 'of-b.md'), 'b');
  expect((await putFor('b', state, 'back')).status).toBe(201);
  // What others are told meanwhile does not touch what came.
  await configure(agent('a', { instructions: 'Be brief.' }), agent('b'));
  expect(readFileSync(here('b', 'of-b.md'), 'utf8')).toBe('b');
  const turn = berth.chat(say('b', '/slow 200 50', { user: 'u3' }));
  await until('the turn runs', () => berth.modelRequests.some(({ body }) => JSON.stringify(body).includes('/slow 200')));
  await configure(agent('a'), agent('b', { incarnation: 'back' }));
  expect(JSON.stringify(await turn)).toContain('put back to an earlier state');
  expect(existsSync(here('b', 'of-b.md'))).toBe(false);
  expect(readFileSync(here('b', 'notes.md'), 'utf8')).toBe('mine');
  expect((await berth.chat(say('b', '/history', { user: 'u1' }))).said).toBe('remember this');
});

test('the state of an agent that goes is kept where that is asked for, until it is not, and its name is free at once', async () => {
  await configure(agent('a'), agent('k', { incarnation: 'k1' }));
  writeFileSync(here('k', 'mine.md'), 'of the first');
  const kept = (more: string[], ...agents: object[]) =>
    berth.request('PUT', '/berth/v1/config', { version: ++version, agents: [agent('a'), ...agents], kept: more });
  expect((await kept(['k1'], agent('k', { incarnation: 'k2' }))).status).toBe(200);
  expect(readdirSync(here('k'))).toEqual([]);
  const read = async (incarnation: string) =>
    readFileAnswer(await berth.open('GET', `/berth/v1/agents/k/state?incarnation=${incarnation}`));
  const { status, bytes } = await read('k1');
  expect({ status, has: bytes.toString('latin1').includes('of the first') }).toEqual({ status: 200, has: true });
  expect((await read('k2')).status).toBe(200);
  for (const other of ['k3', '..', '../departed/k1', '']) expect((await read(other)).status).toBe(404);
  await kept([], agent('k', { incarnation: 'k2' }));
  expect((await read('k1')).status).toBe(404);
  expect(readdirSync(join(files.dataDir, '.berth/departed'))).toEqual([]);
  expect((await kept(['../x'])).status).toBe(400);
});
