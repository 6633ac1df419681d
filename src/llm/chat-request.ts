import type { ChatRequest } from './provider.js';
import { RequestError } from './openai-error.js';

/** A body that was validated: `model` still with its provider's prefix. */
export interface ValidChat {
  request: ChatRequest;
  stream: boolean;
}

const ROLES: readonly unknown[] = ['system', 'developer', 'user', 'assistant', 'tool'];

/**
 * Checks what Berth itself relies on; all else is the upstream's to judge. Throws a `RequestError` that names the field and never
 * echoes its value.
 */
export function parseChat(body: string): ValidChat {
  const parsed = parseObject(body);
  const { model, messages, tools, stream, stream_options: options } = parsed;
  if (typeof model !== 'string' || model === '' || model.length > 200) fail('model', 'must be a string of 1 to 200 characters');
  if (!Array.isArray(messages) || messages.length === 0) fail('messages', 'must be an array of at least one message');
  for (const [index, message] of (messages as unknown[]).entries()) checkMessage(message, `messages[${index}]`);
  if (tools !== undefined && tools !== null) checkTools(tools);
  if (stream !== undefined && stream !== null && typeof stream !== 'boolean') fail('stream', 'must be true or false');
  if (options !== undefined && options !== null && !isObject(options)) fail('stream_options', 'must be an object');
  return { request: parsed as ChatRequest, stream: stream === true };
}

function parseObject(body: string): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = JSON.parse(body);
  } catch {
    // The parser's words quote the body, which is message content.
    throw new RequestError(400, 'The body is not valid JSON', { code: 'invalid_json' });
  }
  if (!isObject(parsed)) throw new RequestError(400, 'The body must be a JSON object', { code: 'invalid_json' });
  return parsed;
}

function checkMessage(message: unknown, param: string): void {
  if (!isObject(message)) fail(param, 'must be an object');
  const { role, content, tool_calls: calls, tool_call_id: callId } = message;
  if (!ROLES.includes(role)) fail(`${param}.role`, `must be one of ${ROLES.join(', ')}`);
  const noContent = content === undefined || content === null;
  if (!noContent && typeof content !== 'string' && !Array.isArray(content))
    fail(`${param}.content`, 'must be a string or an array of parts');
  if (noContent && role !== 'assistant') fail(`${param}.content`, `is required in a message of role ${String(role)}`);
  if (Array.isArray(content) && !content.every(isObject)) fail(`${param}.content`, 'must hold objects only');
  if (role === 'tool' && (typeof callId !== 'string' || callId === ''))
    fail(`${param}.tool_call_id`, 'is required in a message of role tool');
  if (calls !== undefined && calls !== null) checkToolCalls(calls, `${param}.tool_calls`);
}

function checkToolCalls(calls: unknown, param: string): void {
  if (!Array.isArray(calls)) fail(param, 'must be an array');
  for (const [index, call] of calls.entries()) {
    const at = `${param}[${index}]`;
    if (!isObject(call) || typeof call['id'] !== 'string') fail(`${at}.id`, 'must be a string');
    const called = call['function'];
    if (!isObject(called) || typeof called['name'] !== 'string') fail(`${at}.function.name`, 'must be a string');
    if (typeof called['arguments'] !== 'string') fail(`${at}.function.arguments`, 'must be a string of JSON');
  }
}

function checkTools(tools: unknown): void {
  if (!Array.isArray(tools)) fail('tools', 'must be an array');
  for (const [index, tool] of tools.entries()) if (!isObject(tool)) fail(`tools[${index}]`, 'must be an object');
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function fail(param: string, rule: string): never {
  throw new RequestError(400, `${param} ${rule}`, { param, code: 'invalid_value' });
}
