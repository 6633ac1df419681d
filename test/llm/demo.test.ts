import { describe, expect, it } from 'vitest';
import { DemoProvider } from '../../src/llm/demo.js';
import type { ChatMessage, ProviderChunk } from '../../src/llm/provider.js';

const demo = new DemoProvider();

async function ask(messages: ChatMessage[], signal = new AbortController().signal): Promise<ProviderChunk[]> {
  const chunks: ProviderChunk[] = [];
  for await (const chunk of demo.stream({ model: 'echo', messages }, signal)) chunks.push(chunk);
  return chunks;
}

async function answer(...messages: ChatMessage[]): Promise<string> {
  return (await ask(messages)).map((chunk) => JSON.parse(chunk.json).choices[0]?.delta?.content ?? '').join('');
}

async function calls(...messages: ChatMessage[]) {
  const out: { id: string; name: string; args: string; deltas: number }[] = [];
  for (const { json } of await ask(messages)) {
    for (const { index, id, function: called } of JSON.parse(json).choices[0]?.delta?.tool_calls ?? []) {
      out[index] ??= { id, name: called.name, args: '', deltas: -1 };
      out[index].args += called.arguments;
      out[index].deltas++;
    }
  }
  return out;
}

const user = (content: unknown): ChatMessage => ({ role: 'user', content });

describe('the demo model', () => {
  it('echoes word by word with whitespace kept', async () => {
    const text = 'Hello  dear\n\tworld \n';
    expect(await answer(user(text))).toBe(`You said: ${text}`);
    const pieces = (await ask([user('a b c')])).map((chunk) => chunk.text).filter((piece) => piece !== '');
    expect(pieces).toEqual(['You', ' said:', ' a', ' b', ' c']);
  });

  it('reads content given in parts', async () => {
    expect(
      await answer(
        user([
          { type: 'text', text: 'one ' },
          { type: 'image_url', image_url: { url: 'x' } },
          { type: 'text', text: 'two' },
        ]),
      ),
    ).toBe('You said: one two');
  });

  it('ends with a finish reason and with usage counted in words', async () => {
    const chunks = await ask([{ role: 'system', content: 'Be kind now' }, user('hi there')]);
    expect(JSON.parse(chunks.at(-2)?.json ?? '').choices[0].finish_reason).toBe('stop');
    expect(chunks.at(-1)?.usage).toEqual({ promptTokens: 5, completionTokens: 4, counted: false });
    expect(JSON.parse(chunks.at(-1)?.json ?? '').usage).toEqual({ prompt_tokens: 5, completion_tokens: 4, total_tokens: 9 });
  });

  it('answers its commands', async () => {
    expect(
      await answer({ role: 'system', content: 'Be kind' }, { role: 'developer', content: 'Be brief' }, user('/system')),
    ).toBe('Be kind\n\nBe brief');
    expect(await answer(user('/system'))).toBe('');
    expect(await answer(user('a'), { role: 'assistant', content: 'b' }, user(' /count '))).toBe('I was sent 3 messages.');
    expect(await answer(user('a'), { role: 'assistant', content: 'b' }, user('c d'), user('/history'))).toBe('a | c d');
    expect(await answer(user('/words 4'))).toBe('w1 w2 w3 w4');
    expect(await answer(user('/slow 3 1'))).toBe('w1 w2 w3');
    expect(await answer(user('/count me'))).toBe('You said: /count me');
    expect(await answer(user('/words'))).toBe('You said: /words');
  });

  it('calls one tool or several at once, arguments in pieces', async () => {
    expect(await calls(user('/tool read_file {"path": "a b.txt"}'))).toEqual([
      { id: 'call_1_0', name: 'read_file', args: '{"path": "a b.txt"}', deltas: 2 },
    ]);
    expect(await calls(user('/tool a {}\n/tool b {"x":1}\n /tool c'))).toMatchObject([
      { name: 'a', args: '{}', deltas: 2 },
      { name: 'b', args: '{"x":1}' },
      { name: 'c', args: '{}' },
    ]);
    const chunks = await ask([user('/tool a {}')]);
    expect(JSON.parse(chunks.at(-2)?.json ?? '').choices[0].finish_reason).toBe('tool_calls');
  });

  it('reports tool results by name', async () => {
    const call = (id: string, name: string) => ({ id, type: 'function' as const, function: { name, arguments: '{}' } });
    const results: ChatMessage[] = [
      { role: 'assistant', content: null, tool_calls: [call('1', 'read'), call('2', 'list')] },
      { role: 'tool', tool_call_id: '2', content: 'two files' },
      { role: 'tool', tool_call_id: '1', content: [{ type: 'text', text: 'text' }] },
    ];
    expect(await answer(user('/tool read {}'), ...results)).toBe('Tool list said: two files\nTool read said: text');
  });

  it('loops for ever under /loop', async () => {
    const once = await calls(user('/loop'));
    const again = await calls(
      user('/loop'),
      { role: 'assistant', tool_calls: [] },
      { role: 'tool', tool_call_id: 'x', content: 'files' },
    );
    expect([once[0]?.name, once[0]?.args, again[0]?.name]).toEqual(['list_files', '{}', 'list_files']);
    expect(once[0]?.id).not.toBe(again[0]?.id);
  });

  it('fails as asked, at once or after some words', async () => {
    await expect(ask([user('/error rate_limited')])).rejects.toMatchObject({ name: 'ProviderError', kind: 'rate_limited' });
    await expect(ask([user('/error nonsense')])).rejects.toMatchObject({ kind: 'upstream' });
    const seen: string[] = [];
    const failing = async () => {
      for await (const chunk of demo.stream({ model: 'echo', messages: [user('/error cut 2')] }, new AbortController().signal))
        seen.push(chunk.text);
    };
    await expect(failing()).rejects.toMatchObject({ kind: 'cut' });
    expect(seen.join('')).toBe('w1 w2');
  });

  it('stops when aborted, in a pause too', async () => {
    const abort = new AbortController();
    const reason = new Error('enough');
    const asked = ask([user('/slow 5 60000')], abort.signal);
    setImmediate(() => abort.abort(reason));
    await expect(asked).rejects.toBe(reason);
  });
});
