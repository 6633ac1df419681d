import { appendFileSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { readStreamed } from './berth.js';
import { begin, chunk, demoModel, finish, sendCalls } from './demo-model.js';
import { agent, say, startFixture, until, type Fixture } from './fixture.js';

let fixture: Fixture;
let berth: Fixture['berth'];

beforeAll(async () => {
  fixture = await startFixture();
  berth = fixture.berth;
  await berth.configure([agent('a'), agent('b', { maxSteps: 3 })]);
});
beforeEach(() => {
  berth.model = demoModel;
  berth.modelRequests = [];
});
afterAll(() => fixture.close());

describe('tool calls', () => {
  test('are run and their results fed back, with events where asked', async () => {
    const answer = await berth.chat(
      say('a', '/tool write_file {"path":"d/n.txt","content":"hi"}', { stream_options: { include_usage: true } }),
      {
        'x-berth-events': '1',
      },
    );
    expect(answer).toMatchObject({ said: 'Tool said: Wrote 2 bytes to d/n.txt.', finish: 'stop', done: true });
    expect(answer.events.filter(({ event }) => event !== undefined)).toEqual([
      { event: 'tool_call', data: { id: 'call_0', name: 'write_file', arguments: '{"path":"d/n.txt","content":"hi"}' } },
      {
        event: 'tool_result',
        data: {
          id: 'call_0',
          name: 'write_file',
          ok: true,
          preview: 'Wrote 2 bytes to d/n.txt.',
          duration_ms: expect.any(Number),
        },
      },
    ]);
    expect(answer.usage).toEqual({ prompt_tokens: 20, completion_tokens: 10, total_tokens: 30 });
    expect(berth.modelRequests[1]?.body.messages.slice(-2)).toEqual([
      {
        role: 'assistant',
        content: null,
        tool_calls: [
          { id: 'call_0', type: 'function', function: { name: 'write_file', arguments: '{"path":"d/n.txt","content":"hi"}' } },
        ],
      },
      { role: 'tool', content: 'Wrote 2 bytes to d/n.txt.', tool_call_id: 'call_0' },
    ]);
  });

  test('stay out of the stream unless asked for', async () => {
    const answer = await berth.chat(say('a', '/tool list_files'));
    expect(answer.events.filter(({ event }) => event !== undefined)).toEqual([]);
    expect(answer.text).not.toContain('tool_call');
  });

  test('of one step run side by side, results in the order of the calls', async () => {
    // Each waits for the next one's file, the last for none: only side by side do they all end.
    const commands = [
      'until [ -e second ]; do sleep 0.01; done; echo one',
      'until [ -e third ]; do sleep 0.01; done; touch second; echo two',
      'touch third; echo three',
    ];
    const { said } = await berth.chat(
      say('a', commands.map((command) => `/tool shell ${JSON.stringify({ command, timeout_s: 10 })}`).join('\n')),
    );
    expect(said).toBe('Tool said: one\nTool said: two\nTool said: three');
  });

  test.each([
    ['an unknown tool', '/tool dance {}', 'There is no tool of that name'],
    ['bad JSON', '/tool read_file {"path":', 'not a JSON object'],
    ['arguments that are no object', '/tool read_file [1]', 'not a JSON object'],
    ['a missing argument', '/tool read_file {}', 'path: must be a string'],
    ['a wrong type', '/tool shell {"command":"true","timeout_s":"long"}', 'timeout_s: must be a whole number'],
    ['a file that is not there', '/tool read_file {"path":"none.txt"}', 'none.txt: there is no such file'],
  ])('tell the model of %s', async (_what, message, words) => {
    const answer = await berth.chat(say('a', message), { 'x-berth-events': '1' });
    expect(answer.said).toContain('Tool said: Error: ');
    expect(answer.said).toContain(words);
    expect(answer.events.find(({ event }) => event === 'tool_result')?.data.ok).toBe(false);
  });

  test('end at the step cap with words, not with an error', async () => {
    const answer = await berth.chat(say('b', '/loop', { user: 'cap' }));
    expect(answer).toMatchObject({ finish: 'length', error: undefined, done: true });
    expect(answer.said).toContain('reached its limit of 3 steps');
    expect(berth.modelRequests).toHaveLength(3);
    // The conversation can go on from there: no call without its result.
    await berth.chat(say('b', 'go on', { user: 'cap' }));
    const sent = berth.modelRequests.at(-1)?.body.messages ?? [];
    expect(sent.map(({ role }) => role)).toEqual([
      'system',
      'user',
      'assistant',
      'tool',
      'assistant',
      'tool',
      'assistant',
      'user',
    ]);
  });

  test('without ids, or twice the same id, still get results of their own', async () => {
    berth.model = ({ body }, response) => {
      if (body.messages.at(-1)?.role === 'tool') return void demoModel({ body } as never, response);
      begin(response);
      const call = { id: 'same', type: 'function', function: { name: 'list_files', arguments: '{}' } };
      chunk(response, {
        tool_calls: [
          { index: 0, ...call },
          { index: 1, ...call },
          { index: 2, ...call, id: undefined },
        ],
      });
      finish(response, 'stop');
    };
    await berth.chat(say('a', 'x'));
    const ids = berth.modelRequests[1]?.body.messages
      .filter(({ role }) => role === 'tool')
      .map((message) => message.tool_call_id);
    expect(new Set(ids).size).toBe(3);
  });

  test('keep the words of different steps apart', async () => {
    berth.model = ({ body }, response) => {
      begin(response);
      if (body.messages.at(-1)?.role === 'tool') {
        chunk(response, { content: 'Done.' });
        return finish(response);
      }
      chunk(response, { content: 'Let me look.' });
      chunk(response, { tool_calls: [{ index: 0, id: 'c', function: { name: 'list_files', arguments: '' } }] });
      finish(response, 'tool_calls');
    };
    expect((await berth.chat(say('a', 'x'))).said).toBe('Let me look.\n\nDone.');
  });
});

describe('functions of the client', () => {
  const tools = [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object' } } }];

  test('are called by the client and go on with their results', async () => {
    const first = await berth.chat(say('a', '/tool get_weather {"city":"Ulm"}', { user: 'w', tools }));
    expect(first.finish).toBe('tool_calls');
    expect(first.events.find(({ data }) => data.choices[0]?.delta.tool_calls)?.data.choices[0].delta.tool_calls).toEqual([
      { index: 0, id: 'call_0', type: 'function', function: { name: 'get_weather', arguments: '{"city":"Ulm"}' } },
    ]);
    const messages = [{ role: 'tool', tool_call_id: 'call_0', content: 'sunny' }];
    const second = await berth.chat({ model: 'openclaw/a', user: 'w', messages, tools });
    expect(second).toMatchObject({ said: 'Tool said: sunny', finish: 'stop' });
    expect(berth.modelRequests[1]?.body.messages.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'tool']);
  });

  test('that were never answered leave the conversation sound', async () => {
    await berth.chat(say('a', '/tool get_weather {}', { user: 'never', tools }));
    await berth.chat(say('a', 'forget it', { user: 'never', tools }));
    const sent = berth.modelRequests[1]?.body.messages ?? [];
    expect(sent.map(({ role }) => role)).toEqual(['system', 'user', 'assistant', 'tool', 'user']);
  });

  test('cannot be answered when none was called', async () => {
    const messages = [{ role: 'tool', tool_call_id: 'x', content: 'y' }];
    const answer = await berth.request('POST', '/v1/chat/completions', { model: 'openclaw/a', user: 'stray', messages });
    expect(answer.status).toBe(400);
  });
});

describe('conversations', () => {
  test('are kept by user, and not at all without one', async () => {
    await berth.chat(say('a', 'first', { user: 'u1' }));
    await berth.chat(say('a', 'second', { user: 'u1' }));
    expect((await berth.chat(say('a', '/history', { user: 'u1' }))).said).toBe('first | second');
    expect((await berth.chat(say('a', '/history', { user: 'u2' }))).said).toBe('');
    expect((await berth.chat(say('b', '/history', { user: 'u1' }))).said).toBe('');
    expect((await berth.chat(say('a', '/history'))).said).toBe('');
  });

  test('take the whole history from a request without user', async () => {
    const messages = [
      { role: 'user', content: 'old' },
      { role: 'assistant', content: 'answer' },
      { role: 'user', content: '/history' },
    ];
    expect((await berth.chat({ model: 'openclaw/a', messages })).said).toBe('old');
    // With user, only the last message is new.
    expect((await berth.chat({ model: 'openclaw/a', messages, user: 'u3' })).said).toBe('');
  });

  test('outlive the gateway', async () => {
    await berth.chat(say('a', 'remember the milk', { user: 'kept' }));
    expect(await fixture.gateway.stop()).toBe(0);
    const link = berth.nextLink();
    fixture.gateway.start();
    await link;
    expect((await berth.request('GET', '/readyz')).status).toBe(503);
    await berth.configure([agent('a'), agent('b', { maxSteps: 3 })]);
    expect((await berth.chat(say('a', '/history', { user: 'kept' }))).said).toBe('remember the milk');
  });

  test('outlive a killed gateway with a line cut in the middle', async () => {
    await berth.chat(say('a', 'before the crash', { user: 'crash' }));
    await fixture.gateway.stop('SIGKILL');
    const dir = join(fixture.gateway.dataDir, '.berth/agents/a/conversations');
    for (const name of readdirSync(dir)) appendFileSync(join(dir, name), '{"turn":"trn_x","messages":[{"role":"us');
    const link = berth.nextLink();
    fixture.gateway.start();
    await link;
    await berth.configure([agent('a'), agent('b', { maxSteps: 3 })]);
    expect((await berth.chat(say('a', '/history', { user: 'crash' }))).said).toBe('before the crash');
    await berth.chat(say('a', 'after the crash', { user: 'crash' }));
    expect((await berth.chat(say('a', '/history', { user: 'crash' }))).said).toContain('before the crash');
  });

  test('run their turns one after the other, in order', async () => {
    const turns = ['one', 'two', 'three'].map((word) => berth.chat(say('a', word, { user: 'queue' })));
    await Promise.all(turns);
    expect((await berth.chat(say('a', '/history', { user: 'queue' }))).said).toBe('one | two | three');
    expect(berth.modelRequests.map(({ body }) => body.messages.filter(({ role }) => role === 'user').length)).toEqual([
      1, 2, 3, 4,
    ]);
  });

  test('let different users run side by side', async () => {
    let open = 0;
    let most = 0;
    berth.model = async (call, response) => {
      most = Math.max(most, ++open);
      await until('both are here', () => most === 2);
      open -= 1;
      await demoModel(call, response);
    };
    await Promise.all([berth.chat(say('a', 'x', { user: 'left' })), berth.chat(say('a', 'y', { user: 'right' }))]);
    expect(most).toBe(2);
  });

  test('keep no turn of which nothing came', async () => {
    berth.model = (_call, response) => void response.writeHead(500).end();
    await berth.chat(say('a', 'lost', { user: 'retry' }));
    berth.model = demoModel;
    await berth.chat(say('a', 'lost', { user: 'retry' }));
    expect((await berth.chat(say('a', '/history', { user: 'retry' }))).said).toBe('lost');
  });

  test('mark an answer that broke off', async () => {
    berth.model = (_call, response) => {
      begin(response);
      chunk(response, { content: 'The answer is' });
      response.end();
    };
    await berth.chat(say('a', 'question', { user: 'broken' }));
    berth.model = demoModel;
    await berth.chat(say('a', 'again', { user: 'broken' }));
    expect(berth.modelRequests.at(-1)?.body.messages[2]).toEqual({
      role: 'assistant',
      content: 'The answer is\n[This answer was interrupted.]',
    });
  });

  test('leave images of earlier turns out', async () => {
    const image = { type: 'image_url', image_url: { url: `data:image/png;base64,${'A'.repeat(100_000)}` } };
    await berth.chat(say('a', [{ type: 'text', text: 'look' }, image], { user: 'img' }));
    expect(berth.modelRequests[0]?.bytes).toBeGreaterThan(100_000);
    await berth.chat(say('a', 'and?', { user: 'img' }));
    expect(berth.modelRequests[1]?.bytes).toBeLessThan(20_000);
  });
});

describe('cancelling', () => {
  test('ends the model call', async () => {
    let closed = false;
    berth.model = (_call, response) => {
      begin(response);
      response.on('close', () => (closed = true));
      chunk(response, { content: 'and so on' });
    };
    const stream = await berth.open('POST', '/v1/chat/completions', say('a', 'x', { stream: true }));
    await until('the model is asked', () => berth.modelRequests.length === 1);
    stream.close(8);
    await until('the model call has ended', () => closed);
  });

  test('of a plain call too', async () => {
    let closed = false;
    berth.model = (_call, response) => {
      begin(response);
      response.on('close', () => (closed = true));
    };
    const stream = await berth.open('POST', '/v1/chat/completions', say('a', 'x'));
    await until('the model is asked', () => berth.modelRequests.length === 1);
    stream.close(8);
    await until('the model call has ended', () => closed);
  });

  test('kills the shells of the turn', async () => {
    const stream = await berth.open(
      'POST',
      '/v1/chat/completions',
      say('a', '/tool shell {"command":"sleep 4242"}', { stream: true }),
    );
    await until('the shell runs', () => running('sleep 4242'));
    stream.close(8);
    await until('it is gone', () => !running('sleep 4242'));
  });

  test('of a turn that waits lets the next one in', async () => {
    let release!: () => void;
    const gate = new Promise<void>((resolve) => (release = resolve));
    berth.model = async (call, response) => {
      await gate;
      await demoModel(call, response);
    };
    const first = berth.chat(say('a', 'first', { user: 'line' }));
    await until('the first is asked', () => berth.modelRequests.length === 1);
    const second = await berth.open('POST', '/v1/chat/completions', say('a', 'second', { user: 'line', stream: true }));
    second.resume();
    const third = berth.chat(say('a', 'third', { user: 'line' }));
    second.close(8);
    release();
    await Promise.all([first, third]);
    expect((await berth.chat(say('a', '/history', { user: 'line' }))).said).toBe('first | third');
  });

  test('is not what a lost link does', async () => {
    let finishNow!: () => void;
    berth.model = async (_call, response) => {
      begin(response);
      chunk(response, { content: 'half, ' });
      await new Promise<void>((resolve) => (finishNow = resolve));
      chunk(response, { content: 'whole' });
      finish(response);
    };
    const stream = await berth.open('POST', '/v1/chat/completions', say('a', 'long work', { user: 'lost', stream: true }));
    stream.on('error', () => undefined);
    await until('the model is asked', () => berth.modelRequests.length === 1);
    const link = berth.nextLink();
    berth.session?.destroy();
    await link;
    finishNow();
    berth.model = demoModel;
    await berth.chat(say('a', 'next', { user: 'lost' }));
    expect(berth.modelRequests.at(-1)?.body.messages[2]).toEqual({ role: 'assistant', content: 'half, whole' });
  });
});

test('a reader that stops holds the model back, not the memory', async () => {
  let sent = 0;
  let ended = false;
  berth.model = async (_call, response) => {
    begin(response);
    const closed = new Promise<void>((resolve) => response.on('close', resolve)).then(() => (ended = true));
    const content = 'x'.repeat(16 * 1024);
    while (sent < 64 * 1024 * 1024 && !ended) {
      sent += content.length;
      if (!chunk(response, { content })) await Promise.race([closed, new Promise((resolve) => response.once('drain', resolve))]);
    }
    finish(response);
  };
  const stream = await berth.open('POST', '/v1/chat/completions', say('a', 'x', { stream: true }));
  await until('the first bytes', () => sent > 0);
  let before = -1;
  await until('the model is held back', async () => {
    const stands = sent === before;
    before = sent;
    await sleep(200);
    return stands;
  });
  expect(sent).toBeLessThan(4 * 1024 * 1024);
  stream.close(8);
  await until('the model call has ended', () => ended);
});

test('a stream of a megabyte in one delta comes in pieces, whole', async () => {
  const text = 'ä😀'.repeat(150_000);
  berth.model = (_call, response) => {
    begin(response);
    chunk(response, { content: text });
    finish(response);
  };
  const answer = await readStreamed(await berth.open('POST', '/v1/chat/completions', say('a', 'x', { stream: true })));
  expect(answer.said).toBe(text);
  expect(answer.events.length).toBeGreaterThan(3);
});

test('sixty-four calls at once are run, more are refused one by one', async () => {
  berth.model = (call, response) => {
    if (call.body.messages.at(-1)?.role === 'tool') return demoModel(call, response);
    sendCalls(
      response,
      Array.from({ length: 70 }, () => ({ name: 'list_files', arguments: '{}' })),
    );
  };
  const { said } = await berth.chat(say('a', 'x'));
  expect(said.match(/At most 64 calls at once/g)).toHaveLength(6);
});

function running(command: string): boolean {
  return readdirSync('/proc').some((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim() === command;
    } catch {
      return false;
    }
  });
}
