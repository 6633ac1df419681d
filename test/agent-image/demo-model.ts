import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ModelRequest } from './berth.js';

/** A deterministic model: answers from what it was sent, and calls tools when it is told to (`/tool NAME {json}`). */
export async function demoModel({ body }: ModelRequest, response: ServerResponse): Promise<void> {
  const turn = body.messages.filter(({ role }) => role !== 'system');
  const last = turn.at(-1) as ModelRequest['body']['messages'][number];
  const asked = String(turn.findLast(({ role }) => role === 'user')?.content).trim();
  if (asked === '/loop') return sendCalls(response, [{ name: 'list_files', arguments: '{}' }]);
  if (last.role === 'tool') return sendText(response, resultsOf(turn));
  if (asked.startsWith('/tool ')) return sendCalls(response, asked.split('\n').map(readCall));
  const words = /^\/words (\d+)$/.exec(asked);
  if (words) return sendText(response, Array.from({ length: Number(words[1]) }, (_, i) => `w${i + 1}`).join(' '));
  const slow = /^\/slow (\d+) (\d+)$/.exec(asked);
  if (slow) return sendText(response, Array.from({ length: Number(slow[1]) }, (_, i) => `w${i + 1}`).join(' '), Number(slow[2]));
  if (asked === '/system') return sendText(response, String(body.messages.find(({ role }) => role === 'system')?.content));
  if (asked === '/count') return sendText(response, `I was sent ${body.messages.length} messages.`);
  if (asked === '/history')
    return sendText(
      response,
      turn
        .slice(0, -1)
        .filter(({ role }) => role === 'user')
        .map(({ content }) => content)
        .join(' | '),
    );
  return sendText(response, `You said: ${asked}`);
}

function readCall(line: string): { name: string; arguments: string } {
  const [, name, args] = /^\/tool (\S+) ?(.*)$/.exec(line.trim()) as RegExpExecArray;
  return { name: name as string, arguments: args || '{}' };
}

function resultsOf(turn: ModelRequest['body']['messages']): string {
  const from = turn.findLastIndex(({ role }) => role === 'assistant');
  return turn
    .slice(from + 1)
    .map(({ content }) => `Tool said: ${String(content)}`)
    .join('\n');
}

export function begin(response: ServerResponse): void {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
}

export function chunk(response: ServerResponse, delta: object, finish: string | null = null): boolean {
  return response.write(`data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`);
}

export function finish(response: ServerResponse, reason = 'stop'): void {
  chunk(response, {}, reason);
  response.write('data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}\n\n');
  response.end('data: [DONE]\n\n');
}

async function sendText(response: ServerResponse, text: string, everyMs = 0): Promise<void> {
  begin(response);
  for (const word of text.match(/\S+\s*|\s+/g) ?? []) {
    if (response.destroyed) return;
    chunk(response, { content: word });
    if (everyMs > 0) await sleep(everyMs);
  }
  finish(response);
}

/** Each call's arguments come in three pieces, as real models send them. */
export function sendCalls(response: ServerResponse, calls: { name: string; arguments: string }[]): void {
  begin(response);
  calls.forEach((call, index) => {
    const third = Math.ceil(call.arguments.length / 3);
    chunk(response, {
      tool_calls: [{ index, id: `call_${index}`, type: 'function', function: { name: call.name, arguments: '' } }],
    });
    for (let i = 0; i < call.arguments.length; i += third) {
      chunk(response, { tool_calls: [{ index, function: { arguments: call.arguments.slice(i, i + third) } }] });
    }
  });
  finish(response, 'tool_calls');
}
