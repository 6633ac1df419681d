import { setImmediate, setTimeout } from 'node:timers/promises';
import { chunk, usageChunk, type Delta } from './chunk.js';
import {
  ProviderError,
  type ChatMessage,
  type ChatRequest,
  type Provider,
  type ProviderChunk,
  type ProviderErrorKind,
} from './provider.js';
import { textOf } from './message-text.js';

const MAX_WORDS = 1_000_000;
const MAX_PAUSE_MS = 60_000;
/** Every so many chunks the rest of the process gets its turn. */
const CHUNKS_A_TURN = 64;
const ERROR_KINDS: readonly string[] = ['auth', 'rate_limited', 'bad_request', 'upstream', 'stalled', 'cut'];

/** What the model is about to say: a word (or a piece of a tool call) with the pause before it. */
interface Piece {
  delta: Delta;
  text: string;
  pauseMs?: number;
}

/**
 * The built-in `demo/echo`: answers from what it was sent, word by word, the same each time, without any network, so that the
 * whole path from a chat to a usage row can be tried and tested. What the last message says decides:
 *
 * | last message | answer |
 * |---|---|
 * | user: any text T | `You said: T` |
 * | user: one or more lines `/tool NAME {json}` | a tool call for each line, its arguments in at least two pieces |
 * | user: `/loop` | the tool call `list_files {}`, whatever the tools answer |
 * | user: `/system` | the system prompt as it was received |
 * | user: `/count` | `I was sent N messages.` |
 * | user: `/history` | the earlier user messages, joined by ` \| ` |
 * | user: `/words N` | `w1 w2 … wN` |
 * | user: `/slow N MS` | the same, a word every MS milliseconds |
 * | user: `/error KIND [N]` | fails with that kind of `ProviderError`, after N words (default 0) |
 * | tool results | a line `Tool NAME said: …` for each since the last assistant message |
 *
 * Its usage figures count words.
 */
export class DemoProvider implements Provider {
  readonly name = 'demo';

  models(): string[] {
    return ['echo'];
  }

  async *stream(request: ChatRequest, signal: AbortSignal): AsyncIterable<ProviderChunk> {
    const head = { id: `chatcmpl-demo-${request.messages.length}`, created: Math.floor(Date.now() / 1000), model: request.model };
    const json = (delta: Delta, finish: string | null = null) =>
      JSON.stringify(chunk(head, { index: 0, delta, finish_reason: finish }));
    let chunks = 0;
    let completionTokens = 0;
    let finish = 'stop';
    for (const piece of answerTo(request.messages)) {
      signal.throwIfAborted();
      if (chunks++ === 0) yield { json: json({ role: 'assistant', content: '' }), text: '' };
      if (piece.pauseMs) await pause(piece.pauseMs, signal);
      else if (chunks % CHUNKS_A_TURN === 0) await setImmediate();
      completionTokens += wordsIn(piece.text);
      if (piece.delta.tool_calls) finish = 'tool_calls';
      yield { json: json(piece.delta), text: piece.text };
    }
    if (chunks === 0) yield { json: json({ role: 'assistant', content: '' }), text: '' };
    yield { json: json({}, finish), text: '' };
    const promptTokens = request.messages.reduce((sum, message) => sum + wordsIn(textOf(message.content)), 0);
    const usage = {
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      total_tokens: promptTokens + completionTokens,
    };
    yield { json: JSON.stringify(usageChunk(head, usage)), text: '', usage: { promptTokens, completionTokens, counted: false } };
  }
}

function* answerTo(messages: ChatMessage[]): Generator<Piece> {
  const asked = textOf(messages.findLast((message) => message.role === 'user')?.content);
  const command = asked.trim();
  if (command === '/loop') return yield* toolCalls([{ name: 'list_files', args: '{}' }], messages.length);
  if (messages.at(-1)?.role === 'tool') return yield* words(toolResults(messages));
  const calls = toolLines(command);
  if (calls) return yield* toolCalls(calls, messages.length);
  yield* byCommand(command.split(/\s+/), asked, messages);
}

function* byCommand([name, first, second]: string[], asked: string, messages: ChatMessage[]): Generator<Piece> {
  const count = Math.min(Number(first), MAX_WORDS);
  const argumentsGiven = [first, second].filter((argument) => argument !== undefined).length;
  const whole = asked.trim().split(/\s+/).length === 1 + argumentsGiven;
  if (whole && name === '/system' && argumentsGiven === 0) return yield* words(systemPrompt(messages));
  if (whole && name === '/count' && argumentsGiven === 0) return yield* words(`I was sent ${messages.length} messages.`);
  if (whole && name === '/history' && argumentsGiven === 0) return yield* words(earlierUserMessages(messages).join(' | '));
  if (whole && name === '/words' && count >= 0 && argumentsGiven === 1) return yield* numbered(count);
  if (whole && name === '/slow' && count >= 0 && Number(second) >= 0)
    return yield* numbered(count, Math.min(Number(second), MAX_PAUSE_MS));
  if (whole && name === '/error' && first) return yield* failing(first, Math.min(Number(second ?? 0) || 0, MAX_WORDS));
  yield* words(`You said: ${asked}`);
}

/** A piece for each word, the whitespace before it included, so that the pieces joined are the text. */
function* words(text: string): Generator<Piece> {
  for (const [word] of text.matchAll(/\s*\S+|\s+$/g)) yield { delta: { content: word }, text: word };
}

function* numbered(count: number, pauseMs = 0): Generator<Piece> {
  for (let i = 1; i <= count; i++) {
    const word = i === 1 ? 'w1' : ` w${i}`;
    yield { delta: { content: word }, text: word, pauseMs };
  }
}

function* failing(kind: string, afterWords: number): Generator<Piece> {
  yield* numbered(afterWords);
  const known = ERROR_KINDS.includes(kind) ? (kind as ProviderErrorKind) : 'upstream';
  throw new ProviderError(
    known,
    `The demo model was asked for the error ${known}`,
    known === 'rate_limited' ? { retryAfterS: 1 } : {},
  );
}

/** Ids tell apart the calls of a conversation: they hold the number of messages so far and the place in the answer. */
function* toolCalls(calls: { name: string; args: string }[], messageCount: number): Generator<Piece> {
  for (const [index, { name, args }] of calls.entries()) {
    const opening = { index, id: `call_${messageCount}_${index}`, type: 'function', function: { name, arguments: '' } };
    yield { delta: { tool_calls: [opening] }, text: name };
    const middle = Math.ceil(args.length / 2);
    for (const part of [args.slice(0, middle), args.slice(middle)]) {
      if (part !== '') yield { delta: { tool_calls: [{ index, function: { arguments: part } }] }, text: part };
    }
  }
}

/** The calls asked for when every line reads `/tool NAME {json}`. The JSON goes through as it stands, valid or not. */
function toolLines(command: string): { name: string; args: string }[] | undefined {
  const lines = command.split('\n').filter((line) => line.trim() !== '');
  const calls = lines.map((line) => /^\s*\/tool\s+(\S+)\s*(.*?)\s*$/.exec(line));
  if (calls.length === 0 || calls.some((call) => call === null)) return undefined;
  return calls.map((call) => ({ name: call?.[1] ?? '', args: call?.[2] || '{}' }));
}

function toolResults(messages: ChatMessage[]): string {
  const at = messages.findLastIndex((message) => message.role === 'assistant');
  const names = new Map(messages[at]?.tool_calls?.map((call) => [call.id, call.function?.name]));
  return messages
    .slice(at + 1)
    .filter((message) => message.role === 'tool')
    .map(
      (message) => `Tool ${names.get(message.tool_call_id ?? '') ?? message.name ?? 'unknown'} said: ${textOf(message.content)}`,
    )
    .join('\n');
}

function systemPrompt(messages: ChatMessage[]): string {
  const system = messages.filter((message) => message.role === 'system' || message.role === 'developer');
  return system.map((message) => textOf(message.content)).join('\n\n');
}

function earlierUserMessages(messages: ChatMessage[]): string[] {
  return messages
    .filter((message) => message.role === 'user')
    .slice(0, -1)
    .map((message) => textOf(message.content));
}

function wordsIn(text: string): number {
  return text.match(/\S+/g)?.length ?? 0;
}

async function pause(pauseMs: number, signal: AbortSignal): Promise<void> {
  await setTimeout(pauseMs, undefined, { signal }).catch((error: unknown) => {
    throw signal.aborted ? signal.reason : error;
  });
}
