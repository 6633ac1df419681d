import { setTimeout as sleep } from 'node:timers/promises';
import type { Agent } from './agent.js';
import { Answer, type ToolCall } from './answer.js';
import type { ChatRequest } from './chat-request.js';
import { describeContext, turnContext, utcDay, type TurnContext } from './context.js';
import type { Conversation, Conversations } from './conversation.js';
import { ModelError, TurnStopped, invalid } from './errors.js';
import type { ModelClient, Usage } from './llm.js';
import { smallMessage, type MessageJson, type TurnMessage } from './message.js';
import { mergeSampling } from './sampling.js';
import { ToolBench } from './tools/bench.js';
import type { Toolbox } from './tools/toolbox.js';

/** How often one model call of a kept turn is made, when the Berth process that it runs through dies each time. */
const MOST_ATTEMPTS = 4;
const AGAIN_MS = 100;
/** How long a call looks for a Berth process. A kept turn outlives the restart of the only one. */
const PATIENCE_MS = 10_000;
const KEPT_PATIENCE_MS = 120_000;

/** Where a turn's output goes. A promise given back must be waited for before more is sent: the reader lags. */
export interface TurnOutput {
  /** The model is about to be asked. */
  asks(): void;
  /** What it said since then is void, since the call was lost: it is asked the same again. */
  restarted(attempt: { step: number; attempt: number }): Promise<void> | undefined;
  text(delta: string): Promise<void> | undefined;
  toolCall(call: ToolCall): Promise<void> | undefined;
  toolResult(result: { id: string; name: string; ok: boolean; text: string; durationMs: number }): Promise<void> | undefined;
}

export interface TurnInput {
  turnId: string;
  /** W3C's header, as the request came with it. */
  traceparent?: string | undefined;
  agent: Agent;
  request: ChatRequest;
  /** The socket of the Berth process that asked. */
  socket: string | undefined;
  /** Whether all messages of the request are new to the conversation, and not only the last. */
  allNew?: boolean;
  /** Whether it goes on when the Berth process that asked is gone: model calls that are lost with it are made again. */
  kept?: boolean;
}

export interface TurnEnd {
  /** OpenAI's `finish_reason`. */
  finish: string;
  /** Summed over all model calls of the turn. */
  usage: Usage;
  /** Calls of the client's own functions, with `finish` `tool_calls`. */
  clientCalls: ToolCall[];
  steps: number;
}

export interface TurnsOptions {
  model: ModelClient;
  conversations: Conversations;
  toolbox: Toolbox;
}

/** Runs turns: asks the model, runs the tools it calls, feeds their results back, until it has said its last word. */
export class Turns {
  readonly #options: TurnsOptions;

  constructor(options: TurnsOptions) {
    this.#options = options;
  }

  /** Throws 400 before anything is sent where the client's functions have names that are taken. */
  check({ agent, request }: Pick<TurnInput, 'agent' | 'request'>): void {
    const taken = new Set(this.#options.toolbox.of(agent.config).map(({ name }) => name));
    request.clientTools.forEach(({ name }, i) => {
      if (taken.has(name)) throw invalid(`tools[${i}].function.name: is the name of a tool of the agent's own`);
    });
  }

  /** What the agent's model would be sent beside the conversation, were a turn to begin now. */
  describe(agent: Agent): object {
    return describeContext(agent, turnContext(agent, this.#options.toolbox, utcDay()));
  }

  /** Forgets a conversation of that agent. */
  forget(agentId: string, user: string): Promise<void> {
    return this.#options.conversations.delete(agentId, user);
  }

  /** Rejects with `ModelError` when the model fails and with the signal's reason when that aborts. */
  run(input: TurnInput, output: TurnOutput, signal: AbortSignal): Promise<TurnEnd> {
    const { agent, request } = input;
    if (request.user === undefined) return this.#begin(input, output, signal, undefined);
    return this.#options.conversations.inTurn(agent.id, request.user, signal, (conversation) =>
      this.#begin(input, output, signal, conversation),
    );
  }

  async #begin(
    input: TurnInput,
    output: TurnOutput,
    signal: AbortSignal,
    conversation: Conversation | undefined,
  ): Promise<TurnEnd> {
    const { agent, request } = input;
    const fresh = conversation ? newMessages(input, conversation.pending) : request.messages;
    const today = utcDay();
    await agent.workspace.restore(today);
    const context = turnContext(agent, this.#options.toolbox, today, request.system);
    const bench = new ToolBench(context.tools, agent, signal);
    const said: Said = { history: conversation?.history, fresh };
    const turn = new Turn(input, this.#options.model, bench, output, signal, context, said);
    try {
      return await turn.run();
    } finally {
      const kept = turn.kept();
      // A removed agent's conversations are gone: writing would bring the file back.
      const removed = signal.aborted && signal.reason instanceof TurnStopped && signal.reason.why === 'removed';
      if (conversation && kept && !removed) await conversation.add({ turn: input.turnId, ...kept });
    }
  }
}

/** With `user`, only the last message is new unless the caller says otherwise; where the client owes results of its functions, those. Throws 400 on a stray result. */
function newMessages({ request, allNew = false }: TurnInput, pending: readonly string[]): readonly TurnMessage[] {
  const last = request.messages.at(-1) as TurnMessage;
  const results = new Map<string, TurnMessage>();
  for (const message of request.messages) {
    if (message.role === 'tool') results.set((JSON.parse(message.json) as { tool_call_id: string }).tool_call_id, message);
  }
  if (last.role === 'tool' && pending.length === 0)
    throw invalid('messages: the last one is the result of a call that nobody made');
  if (allNew && pending.length === 0) return request.messages;
  const owed = pending.map(
    (id) => results.get(id) ?? smallMessage({ role: 'tool', content: '(no result was given)', tool_call_id: id }),
  );
  return last.role === 'user' ? [...owed, last] : owed;
}

/** What was said so far, and what is new. */
interface Said {
  history: Buffer | undefined;
  fresh: readonly TurnMessage[];
}

/** One turn while it runs. */
class Turn {
  readonly #input: TurnInput;
  readonly #model: ModelClient;
  readonly #bench: ToolBench;
  readonly #output: TurnOutput;
  readonly #signal: AbortSignal;
  readonly #maxSteps: number;
  readonly #head: (string | Buffer)[];
  readonly #tail: string;
  readonly #messages: TurnMessage[];
  readonly #usage: Usage = { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
  readonly #clientTools: Set<string>;
  #steps = 0;
  #spoke = false;
  /** What the model is saying now, kept should it be cut off. */
  #partial = '';
  #produced = false;
  #clientCalls: ToolCall[] = [];

  constructor(
    input: TurnInput,
    model: ModelClient,
    bench: ToolBench,
    output: TurnOutput,
    signal: AbortSignal,
    context: TurnContext,
    said: Said,
  ) {
    this.#input = input;
    this.#model = model;
    this.#bench = bench;
    this.#output = output;
    this.#signal = signal;
    this.#maxSteps = input.agent.config.maxSteps;
    this.#messages = [...said.fresh];
    this.#clientTools = new Set(input.request.clientTools.map(({ name }) => name));
    const { head, tail } = bodyEnds(input.request, context, said.history);
    this.#head = head;
    this.#tail = tail;
  }

  async run(): Promise<TurnEnd> {
    for (;;) {
      const answer = await this.#ask();
      const own = answer.calls.filter(({ name }) => !this.#clientTools.has(name));
      this.#clientCalls = answer.calls.filter(({ name }) => this.#clientTools.has(name));
      if (own.length > 0 && this.#steps >= this.#maxSteps) return await this.#stopAtCap(answer.text);
      this.#keep(assistantMessage(answer.text, answer.calls));
      if (answer.calls.length === 0) return this.#end(answer.finish);
      const results = await this.#bench.run(own, this.#output);
      for (const [i, { id }] of own.entries()) this.#keep({ role: 'tool', content: results[i], tool_call_id: id });
      this.#signal.throwIfAborted();
      if (this.#clientCalls.length > 0) return this.#end('tool_calls');
    }
  }

  /** What the conversation keeps of this turn; undefined where nothing came of it, so that it can be asked again. */
  kept(): { messages: MessageJson[]; pending?: string[] } | undefined {
    if (!this.#produced && this.#partial === '') return undefined;
    const messages = this.#messages.map(({ json }) => json);
    if (this.#partial !== '' || !endsWithAnswer(messages)) {
      if (this.#clientCalls.length > 0) return { messages, pending: this.#clientCalls.map(({ id }) => id) };
      messages.push(JSON.stringify({ role: 'assistant', content: `${this.#partial}\n[This answer was interrupted.]`.trim() }));
    }
    return { messages };
  }

  #keep(message: { role: string; [field: string]: unknown }): void {
    this.#messages.push(smallMessage(message));
    this.#partial = '';
    this.#produced = true;
  }

  #end(finish: string): TurnEnd {
    return { finish, usage: this.#usage, clientCalls: this.#clientCalls, steps: this.#steps };
  }

  /** The model would go on, but has had its steps: said in words, since neither agent nor user can act on an error. */
  async #stopAtCap(text: string): Promise<TurnEnd> {
    const notice = `[Stopped: this turn reached its limit of ${this.#steps} steps. Say "go on" to continue.]`;
    await this.#say(this.#spoke ? `\n\n${notice}` : notice);
    this.#clientCalls = [];
    this.#keep(assistantMessage(text === '' ? notice : `${text}\n\n${notice}`, []));
    return this.#end('length');
  }

  async #ask(): Promise<Answer> {
    this.#steps += 1;
    const spoke = this.#spoke;
    this.#output.asks();
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#attempt(attempt);
      } catch (error) {
        const isLost = error instanceof ModelError && error.isLost && this.#input.kept === true;
        if (!isLost || attempt === MOST_ATTEMPTS || this.#signal.aborted) throw error;
        this.#partial = '';
        this.#spoke = spoke;
        await this.#output.restarted({ step: this.#steps, attempt: attempt + 1 });
        await sleep(AGAIN_MS * attempt, undefined, { signal: this.#signal }).catch(() => this.#signal.throwIfAborted());
      }
    }
  }

  async #attempt(attempt: number): Promise<Answer> {
    const { turnId, traceparent, agent, socket, kept } = this.#input;
    const body = bodyPieces(this.#head, this.#messages, this.#tail);
    const answer = new Answer();
    const patienceMs = kept ? KEPT_PATIENCE_MS : PATIENCE_MS;
    const call = { agentId: agent.id, turnId, traceparent, body, socket, attempt, patienceMs, signal: this.#signal };
    for await (const delta of this.#model.stream(call)) {
      answer.take(delta);
      if (delta.usage) addUsage(this.#usage, delta.usage);
      if (delta.text === undefined) continue;
      const first = this.#partial === '' && this.#spoke;
      this.#partial += delta.text;
      const wait = this.#say(first ? `\n\n${delta.text}` : delta.text);
      if (wait) await wait;
    }
    return answer.close(this.#steps);
  }

  #say(text: string): Promise<void> | undefined {
    this.#spoke = true;
    return this.#output.text(text);
  }
}

/** The request body around the messages of this turn: everything that stays the same from step to step. */
function bodyEnds(
  request: ChatRequest,
  context: TurnContext,
  history: Buffer | undefined,
): { head: (string | Buffer)[]; tail: string } {
  const tools = [...context.schemas, ...request.clientTools.map(({ schema }) => schema)];
  const settings = {
    ...mergeSampling(context.sampling, request.sampling),
    ...(tools.length > 0 ? { tools } : {}),
    ...(tools.length > 0 && request.toolChoice !== undefined ? { tool_choice: request.toolChoice } : {}),
    stream: true,
    stream_options: { include_usage: true },
  };
  const system = JSON.stringify({ role: 'system', content: context.system });
  const head = `{"model":${JSON.stringify(context.model)},"messages":[${system},`;
  return {
    head: history?.length ? [head, history, ','] : [head],
    tail: `],${JSON.stringify(settings).slice(1)}`,
  };
}

/** The request body, its large messages as they are and everything between them as one piece. */
function bodyPieces(head: readonly (string | Buffer)[], messages: readonly TurnMessage[], tail: string): (string | Buffer)[] {
  const pieces: (string | Buffer)[] = [...head];
  let text = '';
  messages.forEach(({ json, whole }, i) => {
    if (i > 0) text += ',';
    if (whole) {
      pieces.push(text, whole);
      text = '';
    } else text += json;
  });
  pieces.push(text + tail);
  return pieces;
}

function assistantMessage(text: string, calls: readonly ToolCall[]): { role: string; [field: string]: unknown } {
  const message = { role: 'assistant', content: text === '' && calls.length > 0 ? null : text };
  if (calls.length === 0) return message;
  const toolCalls = calls.map(({ id, name, arguments: args }) => ({ id, type: 'function', function: { name, arguments: args } }));
  return { ...message, tool_calls: toolCalls };
}

function endsWithAnswer(messages: readonly MessageJson[]): boolean {
  const last = JSON.parse(messages.at(-1) ?? '{}') as { role?: string; tool_calls?: unknown };
  return last.role === 'assistant' && last.tool_calls === undefined;
}

function addUsage(sum: Usage, more: Usage): void {
  sum.prompt_tokens += more.prompt_tokens;
  sum.completion_tokens += more.completion_tokens;
  sum.total_tokens += more.total_tokens;
}
