import { boolean, object, optional, text } from './checks.js';
import { invalid } from './errors.js';
import { largeMessage, smallMessage, type TurnMessage } from './message.js';
import { parseSampling, type Sampling } from './sampling.js';

/** A chat completion asked of an agent, checked. */
export interface ChatRequest {
  /** The agent the `model` field names; undefined where the caller left it to the only one there is. */
  agentId: string | undefined;
  /** The `model` field as given, echoed in the answer. */
  model: string;
  /** The conversation, or undefined for a stateless call. */
  user: string | undefined;
  stream: boolean;
  includeUsage: boolean;
  /** Text of the `system` and `developer` messages, for the end of the system prompt. */
  system: string;
  /** The other messages in order. With `user`, only what is new of them counts. */
  messages: TurnMessage[];
  /** Model settings to pass on, by their OpenAI names. */
  sampling: Sampling;
  /** Functions that the client runs itself. */
  clientTools: { name: string; schema: unknown }[];
  toolChoice: unknown;
}

const ROLES = new Set(['system', 'developer', 'user', 'assistant', 'tool']);
const MAX_MESSAGES = 10_000;

/** Bodies beyond this size may hold messages that need care. */
const LARGE_BODY_BYTES = 256 * 1024;

/** Checks the body of `POST /v1/chat/completions`, `bytes` long. Throws 400 naming the field. */
export function parseChatRequest(value: unknown, bytes: number): ChatRequest {
  const body = object(value, 'body');
  const model = optional(body['model'], (v) => text(v, 'model', 256)) ?? 'openclaw';
  const stream = optional(body['stream'], (v) => boolean(v, 'stream')) ?? false;
  const options = optional(body['stream_options'], (v) => object(v, 'stream_options'));
  return {
    agentId: agentOf(model),
    model,
    user: optional(body['user'], (v) => text(v, 'user', 1024)),
    stream,
    includeUsage: optional(options?.['include_usage'], (v) => boolean(v, 'stream_options.include_usage')) ?? false,
    ...parseMessages(body['messages'], bytes > LARGE_BODY_BYTES ? largeMessage : smallMessage),
    sampling: parseSampling(body),
    clientTools: optional(body['tools'], parseTools) ?? [],
    toolChoice: body['tool_choice'] ?? undefined,
  };
}

/** `openclaw/<id>` and its older spellings. Throws 400 on any other model name. */
function agentOf(model: string): string | undefined {
  if (model === 'openclaw') return undefined;
  const match = /^(?:openclaw[/:]|agent:)(.+)$/.exec(model);
  if (!match) throw invalid('Invalid `model`: must be openclaw/<agent id>');
  return match[1];
}

function parseMessages(value: unknown, toTurnMessage: typeof smallMessage): Pick<ChatRequest, 'system' | 'messages'> {
  if (!Array.isArray(value)) throw invalid('messages: must be a list');
  if (value.length === 0) throw invalid('messages: must not be empty');
  if (value.length > MAX_MESSAGES) throw invalid(`messages: at most ${MAX_MESSAGES}`);
  const system: string[] = [];
  const messages: ChatRequest['messages'] = [];
  value.forEach((item: unknown, i) => {
    const message = parseMessage(item, `messages[${i}]`);
    if (message.role === 'system' || message.role === 'developer') system.push(plainText(message.content));
    else messages.push(toTurnMessage(message));
  });
  const last = messages.at(-1)?.role;
  if (last !== 'user' && last !== 'tool') throw invalid('messages: the last one must be from the user');
  return { system: system.join('\n\n'), messages };
}

interface Message {
  role: string;
  content: unknown;
  [field: string]: unknown;
}

/** Keeps the fields that a model may see and drops the rest. */
function parseMessage(value: unknown, at: string): Message {
  const given = object(value, at);
  const role = text(given['role'], `${at}.role`, 32);
  if (!ROLES.has(role)) throw invalid(`${at}.role: must be one of ${[...ROLES].join(', ')}`);
  const message: Message = { role, content: parseContent(given['content'], role, `${at}.content`) };
  if (given['name'] !== undefined && given['name'] !== null) message['name'] = text(given['name'], `${at}.name`, 256);
  if (role === 'tool') message['tool_call_id'] = text(given['tool_call_id'], `${at}.tool_call_id`, 256);
  const calls = given['tool_calls'];
  if (role === 'assistant' && calls !== undefined && calls !== null)
    message['tool_calls'] = parseCalls(calls, `${at}.tool_calls`);
  return message;
}

function parseContent(content: unknown, role: string, at: string): unknown {
  if (typeof content === 'string') return content;
  if (role === 'assistant' && (content === undefined || content === null)) return null;
  if (!Array.isArray(content)) throw invalid(`${at}: must be a string or a list of parts`);
  content.forEach((part: unknown, i) => {
    const { type, text: words } = object(part, `${at}[${i}]`);
    if (typeof type !== 'string') throw invalid(`${at}[${i}].type: must be a string`);
    if (type === 'text' && typeof words !== 'string') throw invalid(`${at}[${i}].text: must be a string`);
  });
  return content;
}

function parseCalls(value: unknown, at: string): unknown[] {
  if (!Array.isArray(value)) throw invalid(`${at}: must be a list`);
  return value.map((item: unknown, i) => {
    const call = object(item, `${at}[${i}]`);
    const fn = object(call['function'], `${at}[${i}].function`);
    const name = text(fn['name'], `${at}[${i}].function.name`, 256);
    const args = text(fn['arguments'], `${at}[${i}].function.arguments`, Number.MAX_SAFE_INTEGER, 0);
    return { id: text(call['id'], `${at}[${i}].id`, 256), type: 'function', function: { name, arguments: args } };
  });
}

function parseTools(value: unknown): ChatRequest['clientTools'] {
  if (!Array.isArray(value)) throw invalid('tools: must be a list');
  if (value.length > 128) throw invalid('tools: at most 128');
  return value.map((item: unknown, i) => {
    const tool = object(item, `tools[${i}]`);
    if (tool['type'] !== 'function') throw invalid(`tools[${i}].type: must be "function"`);
    const name = text(object(tool['function'], `tools[${i}].function`)['name'], `tools[${i}].function.name`, 64);
    return { name, schema: tool };
  });
}

function plainText(content: unknown): string {
  if (typeof content === 'string') return content;
  return (content as { type: string; text?: string }[]).map((part) => part.text ?? '').join('');
}
