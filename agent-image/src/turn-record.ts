import type { MessageJson } from './message.js';

/** What one turn adds to a conversation. */
export interface TurnRecord {
  turn: string;
  /** In order, from the user's message to the last answer, as the model gets them. */
  messages: MessageJson[];
  /** Calls of the client's own functions whose results the next request must bring. */
  pending?: string[];
}

const KEPT_RESULT_CHARS = 2000;

/**
 * A turn as it is remembered: long tool results and arguments cut, images left out; and where that does not fit either, the first
 * and the last message alone.
 */
export function shrink(record: TurnRecord, limitBytes: number): TurnRecord {
  const messages = record.messages.map(shrinkMessage);
  const bound = record.pending !== undefined || isResult(messages[0]);
  if (bound || Buffer.byteLength(messages.join(',')) <= limitBytes) return { ...record, messages };
  const ends = messages.length > 1 ? [messages[0] as string, messages.at(-1) as string] : messages;
  return { ...record, messages: ends.map((json) => cutContent(json, limitBytes / 2)) };
}

interface KeptMessage {
  role: string;
  content?: unknown;
  tool_calls?: { function: { arguments: string } }[];
}

/** Whether a message is the result of a call. */
export function isResult(json: MessageJson | undefined): boolean {
  return json !== undefined && json.startsWith('{"role":"tool"');
}

function shrinkMessage(json: MessageJson): MessageJson {
  if (json.length <= KEPT_RESULT_CHARS) return json;
  const message = JSON.parse(json) as KeptMessage;
  if (Array.isArray(message.content)) message.content = message.content.map(withoutImage);
  if (message.role === 'tool' && typeof message.content === 'string') message.content = cut(message.content, KEPT_RESULT_CHARS);
  for (const call of message.tool_calls ?? []) {
    // Arguments must stay JSON, so they cannot be cut in the middle.
    if (call.function.arguments.length > KEPT_RESULT_CHARS) call.function.arguments = '{"left_out":"too long to be kept"}';
  }
  return JSON.stringify(message);
}

function withoutImage(part: unknown): unknown {
  return (part as { type?: string }).type === 'text' ? part : { type: 'text', text: '[an attachment of an earlier message]' };
}

function cutContent(json: MessageJson, limitBytes: number): MessageJson {
  if (Buffer.byteLength(json) <= limitBytes) return json;
  const { role, content } = JSON.parse(json) as KeptMessage;
  const words = typeof content === 'string' ? content : JSON.stringify(content ?? '');
  // Escapes take room too; half of it is enough for most texts, and the limit is no exact one.
  return JSON.stringify({
    role,
    content: `${Buffer.from(words).toString('utf8', 0, limitBytes / 2)}\n[… the rest was left out]`,
  });
}

function cut(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most)}\n[… ${text.length - most} characters left out]`;
}
