import type { ClientHttp2Stream } from 'node:http2';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type Answer, BerthStandIn, readStreamed, understand } from './berth.js';
import { begin, chunk, demoModel, finish } from './demo-model.js';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';

let fixture: Fixture;
let berth: Fixture['berth'];
let turns = 0;

beforeAll(async () => {
  fixture = await startFixture();
  berth = fixture.berth;
  await berth.configure([agent('a'), agent('b')]);
});
beforeEach(() => {
  berth.model = demoModel;
  berth.modelRequests = [];
});
afterAll(() => fixture.close());

const newTurn = () => `trn_kept${(turns += 1)}`;
const keep = (turn: string) => ({ 'x-berth-keep': '1', 'x-berth-events': '1', 'x-berth-turn': turn });
const begun = (turn: string, content: string, by = berth) =>
  by.open('POST', '/v1/chat/completions', { ...say('a', content), stream: true }, keep(turn));
const follow = (turn: string, after: number, by = berth) => by.request('GET', `/berth/v1/turns/${turn}?after=${after}`);
const idsIn = ({ text }: Answer) => [...text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id));

/** Says one word each time it is told to. */
function wordByWord() {
  const waiting: (() => void)[] = [];
  let words = 0;
  berth.model = async (_, response) => {
    begin(response);
    for (; words < 4; words++) {
      await new Promise<void>((resolve) => waiting.push(resolve));
      chunk(response, { content: `w${words} ` });
    }
    finish(response);
  };
  return {
    next: async () => {
      await until('the model to have something to say', () => waiting.length > 0);
      waiting.shift()?.();
    },
  };
}

async function read(stream: ClientHttp2Stream, until_: string): Promise<string> {
  stream.setEncoding('utf8');
  let text = '';
  for await (const piece of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<string>) {
    text += piece;
    if (text.includes(until_)) break;
  }
  return text;
}

describe('a kept turn', () => {
  test('numbers its events, and is told again from any of them on, byte for byte', async () => {
    const turn = newTurn();
    const whole = await readStreamed(await begun(turn, '/tool list_files'));
    const ids = idsIn(whole);
    expect(ids).toEqual(ids.map((_, i) => i + 1));
    expect(ids.length).toBeGreaterThan(4);
    for (const id of [0, ...ids]) {
      const rest = await follow(turn, id);
      const at = id === 0 ? 0 : whole.text.indexOf(`id: ${id + 1}\n`);
      expect(rest.text).toBe(at === -1 ? 'data: [DONE]\n\n' : whole.text.slice(at));
    }
  });

  test('goes on when its reader hangs up, and when nobody reads', async () => {
    const turn = newTurn();
    const model = wordByWord();
    const stream = await begun(turn, 'x');
    await model.next();
    await read(stream, 'w0');
    stream.close();
    for (let i = 0; i < 3; i++) await model.next();
    const rest = understand(await follow(turn, 0));
    expect([rest.said, rest.done]).toEqual(['w0 w1 w2 w3 ', true]);
  });

  test('is read by several at once, each from where it was', async () => {
    const turn = newTurn();
    const model = wordByWord();
    const first = begun(turn, 'x').then(readStreamed);
    await model.next();
    await until(
      'the turn to be known',
      async () => (await berth.request('PUT', `/berth/v1/turns/${turn}/written`, { seq: 0 })).status === 200,
    );
    const others = [follow(turn, 0), follow(turn, 1)];
    for (let i = 0; i < 3; i++) await model.next();
    const all = [await first, ...(await Promise.all(others)).map(understand)];
    expect(all.map(({ said }) => said)).toEqual(Array(3).fill('w0 w1 w2 w3 '));
    expect(all[2]?.text).not.toContain('"role"');
  });

  test('asked for twice runs once', async () => {
    const turn = newTurn();
    const answers = await Promise.all([begun(turn, 'x'), begun(turn, 'x')].map(async (one) => readStreamed(await one)));
    expect(answers.map(({ said }) => said)).toEqual([answers[0]?.said, answers[0]?.said]);
    expect(berth.modelRequests).toHaveLength(1);
  });

  test('is forgotten as far as Berth has written it down, and wholly at its end', async () => {
    const turn = newTurn();
    const whole = await readStreamed(await begun(turn, 'x'));
    const last = idsIn(whole).at(-1)!;
    expect((await berth.request('PUT', `/berth/v1/turns/${turn}/written`, { seq: 2 })).json).toEqual({ last });
    expect((await follow(turn, 1)).json.error.code).toBe('gone');
    expect(idsIn(await follow(turn, 2))).toEqual(idsIn(whole).slice(2));
    expect((await follow(turn, last + 1)).status).toBe(410);
    expect((await follow(turn, -1)).status).toBe(410);
    await berth.request('PUT', `/berth/v1/turns/${turn}/written`, { seq: last });
    expect((await follow(turn, last)).status).toBe(404);
    expect((await berth.request('PUT', `/berth/v1/turns/${turn}/written`, { seq: last })).status).toBe(404);
  });

  test('waits where nobody writes down what it says, and goes on when somebody does', async () => {
    const turn = newTurn();
    const piece = 'x'.repeat(50_000);
    const MOST = 40;
    let said = 0;
    berth.model = async (_, response) => {
      begin(response);
      for (; said < MOST; said++) {
        if (!chunk(response, { content: piece })) await new Promise((resolve) => response.once('drain', resolve));
      }
      finish(response);
    };
    const stream = (await begun(turn, 'x')).setEncoding('utf8');
    let text = '';
    stream.on('data', (more: string) => (text += more));
    const ask = async (seq: number) =>
      (await berth.request('PUT', `/berth/v1/turns/${turn}/written`, { seq })).json.last as number;
    const read = () => Number([...text.matchAll(/^id: (\d+)\n.*\n\n/gm)].at(-1)?.[1] ?? 0);
    await until('the turn to have said as much as it may', () => read() === 22);
    expect([await ask(0), await ask(0), said]).toEqual([22, 22, expect.any(Number)]);
    expect(said).toBeLessThan(MOST);
    await until('the turn to end', async () => text.endsWith('[DONE]\n\n') || (await ask(read())) < 0);
    expect(text.match(/x{50000}/g)).toHaveLength(MOST);
  });

  test('is cancelled by its id, whoever reads it', async () => {
    const turn = newTurn();
    const model = wordByWord();
    const reading = begun(turn, 'x').then(readStreamed);
    await model.next();
    await until(
      'the turn to be known',
      async () => (await berth.request('POST', `/berth/v1/turns/${turn}/cancel`)).status === 202,
    );
    const answer = await reading;
    expect([answer.error?.code, answer.done]).toEqual(['cancelled', true]);
    await until('it to be over', async () => (await berth.request('POST', `/berth/v1/turns/${turn}/cancel`)).status === 404);
    expect((await follow(turn, 0)).text).toBe(answer.text);
  });

  test('whose model call is lost with the Berth process makes it again through another, and says what is void', async () => {
    const other = await new BerthStandIn(fixture.folder, 'other').listen();
    await other.link();
    const turn = newTurn();
    other.model = async (call, response) => {
      if (call.body.messages.at(-1)?.role !== 'tool') return demoModel(call, response);
      begin(response);
      chunk(response, { content: 'half an ans' });
    };
    const stream = await begun(turn, '/tool list_files', other);
    expect(await read(stream, 'half an ans')).toContain('tool_result');
    await other.close();
    const whole = understand(await follow(turn, 0));
    const restarted = whole.events.find(({ event }) => event === 'restarted');
    const result = whole.text.slice(0, whole.text.indexOf('event: tool_result')).lastIndexOf('id: ');
    expect(restarted?.data).toEqual({ step: 2, attempt: 2, void_after: Number.parseInt(whole.text.slice(result + 4), 10) });
    expect(whole.said).toMatch(/^half an ansTool said: /);
    expect([whole.finish, whole.done]).toEqual(['stop', true]);
    expect(berth.modelRequests.map(({ headers }) => headers['x-berth-attempt'])).toEqual(['2']);
  });
});

test('a conversation is forgotten when Berth says so, after its turns', async () => {
  const chat = async (content: string) => (await berth.chat({ ...say('b', content), user: 'cnv_x' })).said;
  await chat('one');
  expect(await chat('/history')).toBe('one');
  const slow = chat('/slow 3 50');
  await until('it to run', () => berth.modelRequests.some(({ body }) => body.messages.at(-1)?.content === '/slow 3 50'));
  const forgotten = await berth.request('DELETE', '/berth/v1/agents/b/conversations/cnv_x');
  expect([forgotten.status, await slow]).toEqual([200, 'w1 w2 w3']);
  expect(await chat('/history')).toBe('');
  expect((await berth.request('DELETE', '/berth/v1/agents/b/conversations/cnv_never')).status).toBe(200);
  expect((await berth.request('DELETE', '/berth/v1/agents/nobody/conversations/cnv_x')).status).toBe(404);
});
