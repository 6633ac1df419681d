import type { GatewayChunk } from '../../gateway/stream.js';
import type { Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import type { Agents } from '../agents/agents.js';
import type { Chat, PreparedTurn, TurnWish } from './chat.js';
import type { CompletionAnswer, CompletionRequest, Model } from './chat.schema.js';
import type { RunningTurn } from './turn.js';
import type { Origin } from './turn-events.js';

const SAMPLING = [
  'temperature',
  'top_p',
  'frequency_penalty',
  'presence_penalty',
  'seed',
  'stop',
  'max_tokens',
  'max_completion_tokens',
] as const;

export interface CompletionsOptions {
  chat: Chat;
  agents: Agents;
  /** The user of a name, for admins. */
  resolveUser: (name: string) => Promise<{ id: string } | undefined>;
}

/** Agents as OpenAI's API has models: `berth/<agent>`, and `<user>/<agent>` for those who may act for several users. */
export class Completions {
  readonly #options: CompletionsOptions;

  constructor(options: CompletionsOptions) {
    this.#options = options;
  }

  /** `not_found` for a model that is no agent of the caller. */
  async prepare(caller: Caller, request: CompletionRequest, origin: Origin): Promise<PreparedTurn> {
    const { userId, agent } = await this.#target(caller, request.model);
    return this.#options.chat.prepare(userId, agent, { ...wishOf(request), origin });
  }

  /** The agents that the caller may talk to. */
  async models(caller: Caller): Promise<Model[]> {
    if (caller.kind === 'admin') {
      const rows = await this.#options.agents.namesForAdmin();
      return rows.map((row) => model(`${row.user_name}/${row.name}`, row.created_at, row.user_name));
    }
    if (caller.kind === 'agent') {
      const agent = await this.#options.agents.get(caller.userId, caller.agentId);
      return [model(`berth/${agent.name}`, new Date(agent.created_at), caller.userName)];
    }
    const { data } = await this.#options.agents.list(caller.userId, { after: undefined, offset: 0, limit: 1_000 });
    return data.map((agent) => model(`berth/${agent.name}`, new Date(agent.created_at), caller.userName));
  }

  /** One of them, by its full name. */
  async model(caller: Caller, name: string): Promise<Model> {
    const { userId, agent } = await this.#target(caller, name);
    const found = await this.#options.agents.get(userId, agent);
    return model(name, new Date(found.created_at), caller.kind === 'admin' ? name.split('/')[0]! : caller.userName);
  }

  async #target(caller: Caller, modelName: string): Promise<{ userId: string; agent: string }> {
    const match = /^([^/]+)\/([^/]+)$/.exec(modelName);
    const unknown = new AppError(
      'not_found',
      `The model \`${modelName.slice(0, 100)}\` does not exist or you do not have access to it.`,
    );
    if (!match) throw unknown;
    const [, first = '', agent = ''] = match;
    if (caller.kind === 'admin') {
      const user = first === 'berth' ? undefined : await this.#options.resolveUser(first);
      if (!user) throw unknown;
      return { userId: user.id, agent };
    }
    if (first !== 'berth' && first !== caller.userName && first !== caller.userId) throw unknown;
    if (caller.kind === 'agent' && agent !== caller.agentName && agent !== caller.agentId) throw unknown;
    return { userId: caller.userId, agent };
  }
}

/**
 * With `user`, only the last message is new, since the agent keeps the conversation; what the client sets it to as a system is no part
 * of that and goes along each time. Without it all of the history is sent and nothing kept.
 */
function wishOf(request: CompletionRequest): TurnWish {
  const sampling = Object.fromEntries(
    SAMPLING.filter((field) => request[field] !== undefined && request[field] !== null).map((field) => [field, request[field]]),
  );
  if (request.user === undefined || request.user === '')
    return { messages: request.messages, memory: { kind: 'none' }, sampling };
  const system = request.messages.slice(0, -1).filter((message) => message.role === 'system' || message.role === 'developer');
  const messages = [...system, ...request.messages.slice(-1)];
  return { messages, memory: { kind: 'external', user: request.user }, sampling, onBusy: request.on_busy ?? undefined };
}

function model(id: string, created: Date, ownedBy: string): Model {
  return { id, object: 'model', created: Math.floor(created.getTime() / 1000), owned_by: ownedBy };
}

export function completionOf(turn: RunningTurn, modelName: string, nowMs: number): CompletionAnswer {
  return {
    id: `chatcmpl-${turn.turnId}`,
    object: 'chat.completion',
    created: Math.floor(nowMs / 1000),
    model: modelName,
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: turn.reply, refusal: null },
        logprobs: null,
        finish_reason: turn.finishReason,
      },
    ],
    usage: turn.usage,
  };
}

/** The gateway's chunk as the client must see it: our id, the model that was asked for, and usage only where asked for. */
export function chunkFor(
  { choices, usage }: GatewayChunk,
  turn: RunningTurn,
  modelName: string,
  created: number,
  includeUsage: boolean,
): string | undefined {
  const [choice] = choices;
  if (!choice && !(includeUsage && usage)) return undefined;
  const delta =
    choice?.delta.role === undefined ? choice?.delta : { ...choice.delta, content: choice.delta.content ?? '', refusal: null };
  return JSON.stringify({
    id: `chatcmpl-${turn.turnId}`,
    object: 'chat.completion.chunk',
    created,
    model: modelName,
    choices: choice ? [{ index: 0, delta, logprobs: null, finish_reason: choice.finish_reason }] : [],
    ...(includeUsage ? { usage: choice ? null : usage } : {}),
  });
}
