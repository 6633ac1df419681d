import { textOf } from './message-text.js';
import { ProviderError, type ChatMessage, type ChatRequest } from './provider.js';

type Block = Record<string, unknown> & { type: string };

interface Turn {
  role: 'user' | 'assistant';
  content: Block[];
}

/** A body of Anthropic's `POST /v1/messages`. */
export interface AnthropicBody {
  model: string;
  max_tokens: number;
  messages: Turn[];
  stream: true;
  system?: Block[];
  tools?: object[];
  tool_choice?: object;
  stop_sequences?: string[];
  temperature?: number;
  top_p?: number;
  metadata?: { user_id: string };
}

/** Marks the end of what a later request will repeat; Anthropic bills it at a tenth when it comes again within five minutes. */
const CACHE_HERE = { cache_control: { type: 'ephemeral' } };

/**
 * An OpenAI request in Anthropic's terms. System and developer messages, wherever they stand, become `system`; tool results join
 * the user's turn; turns of one role in a row are joined. With tools, which is what an agent's loop sends, the prompt is marked
 * for caching. Fields that Anthropic has no word for (`n`, `seed`, `response_format`, penalties, …) are left out. Throws
 * `ProviderError('bad_request')` for content of a kind that cannot be said there, such as audio.
 */
export function anthropicRequest(request: ChatRequest, defaultMaxTokens: number): AnthropicBody {
  const body: AnthropicBody = {
    model: request.model,
    max_tokens: numberOf(request['max_completion_tokens']) ?? numberOf(request['max_tokens']) ?? defaultMaxTokens,
    messages: turnsOf(request.messages),
    stream: true,
  };
  const system = request.messages
    .filter(isSystem)
    .map((message) => textOf(message.content))
    .filter((text) => text.trim() !== '');
  if (system.length > 0) body.system = [{ type: 'text', text: system.join('\n\n') }];
  addTools(body, request);
  addSampling(body, request);
  if (typeof request['user'] === 'string' && request['user'] !== '') body.metadata = { user_id: request['user'].slice(0, 256) };
  if (body.tools) markForCaching(body);
  return body;
}

function isSystem(message: ChatMessage): boolean {
  return message.role === 'system' || message.role === 'developer';
}

function turnsOf(messages: ChatMessage[]): Turn[] {
  const turns: Turn[] = [];
  for (const message of messages) {
    if (isSystem(message)) continue;
    const role = message.role === 'assistant' ? 'assistant' : 'user';
    const content = blocksOf(message);
    const last = turns.at(-1);
    if (content.length === 0) continue;
    if (last?.role === role) last.content.push(...content);
    else turns.push({ role, content });
  }
  // An answer that was begun for the model may not end in white space.
  const last = turns.at(-1);
  const end = last?.content.at(-1);
  if (last?.role === 'assistant' && end?.type === 'text') end['text'] = String(end['text']).trimEnd();
  return turns;
}

function blocksOf(message: ChatMessage): Block[] {
  const content = contentBlocks(message.content);
  if (message.role === 'tool') {
    return [{ type: 'tool_result', tool_use_id: message.tool_call_id, ...(content.length > 0 ? { content } : {}) }];
  }
  if (message.role !== 'assistant') return content;
  const calls = (message.tool_calls ?? []).map((call) => ({
    type: 'tool_use',
    id: call.id,
    name: call.function.name,
    input: inputOf(call.function.arguments),
  }));
  return [...content, ...calls];
}

/** Arguments that the model once wrote wrongly are kept as they are: the tool's error that follows speaks of them. */
function inputOf(text: string): object {
  if (text.trim() === '') return {};
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed;
  } catch {
    // Said below.
  }
  return { invalid_json: text };
}

/** Blocks without text are refused by Anthropic, so empty ones are left out. */
function contentBlocks(content: unknown): Block[] {
  if (!Array.isArray(content))
    return typeof content === 'string' && content.trim() !== '' ? [{ type: 'text', text: content }] : [];
  return content.map((part: unknown) => blockOfPart(part)).filter((block) => block !== undefined);
}

function blockOfPart(part: unknown): Block | undefined {
  const { type, text, image_url: image, file, refusal } = (part ?? {}) as Record<string, unknown>;
  if (type === 'text') return typeof text === 'string' && text.trim() !== '' ? { type, text } : undefined;
  if (type === 'refusal') return { type: 'text', text: String(refusal) };
  if (type === 'image_url')
    return { type: 'image', source: sourceOf((image as { url?: unknown } | undefined)?.url, 'image_url.url') };
  if (type === 'file')
    return { type: 'document', source: sourceOf((file as { file_data?: unknown } | undefined)?.file_data, 'file.file_data') };
  throw new ProviderError('bad_request', 'Anthropic models take content parts of type text, image_url and file only');
}

function sourceOf(url: unknown, field: string): object {
  const data = typeof url === 'string' ? /^data:([^;,]+);base64,/.exec(url) : null;
  if (data && typeof url === 'string') return { type: 'base64', media_type: data[1], data: url.slice(data[0].length) };
  if (typeof url === 'string' && /^https?:\/\//.test(url)) return { type: 'url', url };
  throw new ProviderError('bad_request', `${field} must be a base64 data URL or an http(s) URL`);
}

interface FunctionTool {
  function?: { name?: unknown; description?: unknown; parameters?: unknown };
}

function addTools(body: AnthropicBody, request: ChatRequest): void {
  if (!request.tools?.length) return;
  body.tools = (request.tools as FunctionTool[]).map(({ function: tool }) => {
    if (typeof tool?.name !== 'string')
      throw new ProviderError('bad_request', 'Anthropic models take tools of type function only');
    const described = typeof tool.description === 'string' ? { description: tool.description } : {};
    return { name: tool.name, ...described, input_schema: tool.parameters ?? { type: 'object', properties: {} } };
  });
  const choice = toolChoice(request['tool_choice']);
  const single = request['parallel_tool_calls'] === false && choice?.type !== 'none';
  if (choice || single) body.tool_choice = { type: 'auto', ...choice, ...(single ? { disable_parallel_tool_use: true } : {}) };
}

function toolChoice(choice: unknown): { type: string; name?: string } | undefined {
  if (choice === 'auto' || choice === 'none') return { type: choice };
  if (choice === 'required') return { type: 'any' };
  const name = (choice as { function?: { name?: unknown } } | null | undefined)?.function?.name;
  return typeof name === 'string' ? { type: 'tool', name } : undefined;
}

/** Anthropic's temperature ends at 1, and its newer models refuse a request with both temperature and top_p. */
function addSampling(body: AnthropicBody, request: ChatRequest): void {
  const stop = [request['stop']].flat().filter((text): text is string => typeof text === 'string' && text.trim() !== '');
  if (stop.length > 0) body.stop_sequences = stop;
  const temperature = numberOf(request['temperature']);
  const topP = numberOf(request['top_p']);
  if (temperature !== undefined) body.temperature = Math.min(1, Math.max(0, temperature));
  else if (topP !== undefined) body.top_p = topP;
}

/** Two of the four marks allowed: tools and system prompt, and all up to the last message. */
function markForCaching(body: AnthropicBody): void {
  const system = body.system?.at(-1);
  if (system) Object.assign(system, CACHE_HERE);
  const last = body.messages.at(-1)?.content.at(-1);
  if (last) Object.assign(last, CACHE_HERE);
}

function numberOf(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined;
}
