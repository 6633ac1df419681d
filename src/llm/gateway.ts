import type { IncomingMessage, ServerResponse } from 'node:http';
import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { type Meters, NO_METERS } from '../lib/meters.js';
import { inTrace, traceFrom } from '../lib/trace.js';
import { readBody } from './body.js';
import { LlmCall } from './call.js';
import { type CallMeters, callMeters } from './call-meters.js';
import { parseChat, type ValidChat } from './chat-request.js';
import { jsonCost } from './json-cost.js';
import { openAiErrorOf, RequestError } from './openai-error.js';
import type { AgentDirectory, CallingInstance, GatewayLimits, UsageLedger } from './ports.js';
import type { Provider } from './provider.js';
import { ProviderRegistry } from './providers.js';
import { sendError, sendJson } from './respond.js';
import { Slots, type Slot } from './slots.js';

const MIB = 1024 * 1024;

const DEFAULT_GATEWAY_LIMITS: GatewayLimits = {
  bodyBytes: 20 * MIB,
  bodyTimeoutMs: 30_000,
  concurrentCalls: 32,
  heldBytesPerInstance: 64 * MIB,
  heldBytes: 512 * MIB,
  bytesPerSecond: 8 * MIB,
  burstBytes: 64 * MIB,
  keepAliveMs: 15_000,
  drainTimeoutMs: 60_000,
  wholeAnswerBytes: 64 * MIB,
  settleRetryMs: [100, 500, 2_000],
};

export interface GatewayOptions {
  providers: Provider[];
  log: Log;
  ledger: UsageLedger;
  agents: AgentDirectory;
  limits?: Partial<GatewayLimits>;
  meters?: Meters;
}

/** Deeper than any schema of a tool, and shallow enough for whatever recurses. */
const MAX_DEPTH = 200;
/** About what V8 takes for a small object or array and its place in another. */
const BYTES_A_VALUE = 64;
const AGENT_ID = /^[a-z0-9_][a-z0-9_-]{0,63}$/;
const TURN_ID = /^trn_[0-9a-hjkmnp-tv-z]{26}$/;

/**
 * What instances call for model tokens: `POST /v1/chat/completions` and `GET /v1/models`, as OpenAI has them. A usage row is
 * open before the provider is asked and is settled whatever happens then; only the death of the process leaves one open. The
 * answer is relayed as fast as the instance reads it and the provider is let go as soon as the instance hangs up.
 */
export class LlmGateway {
  readonly #registry: ProviderRegistry;
  readonly #log: Log;
  readonly #ledger: UsageLedger;
  readonly #agents: AgentDirectory;
  readonly #limits: GatewayLimits;
  readonly #slots: Slots;
  readonly #meters: CallMeters;
  readonly #running = new Set<Promise<void>>();
  /** One per call: a signal shared by all would gather a listener of each. */
  readonly #cancels = new Set<AbortController>();
  #closed = false;

  constructor(options: GatewayOptions) {
    this.#registry = new ProviderRegistry(options.providers);
    this.#log = options.log;
    this.#ledger = options.ledger;
    this.#agents = options.agents;
    this.#limits = { ...DEFAULT_GATEWAY_LIMITS, ...options.limits };
    this.#slots = new Slots(this.#limits);
    this.#meters = callMeters(options.meters ?? NO_METERS, () => this.active);
  }

  /** Calls that have begun and whose row is not settled yet. */
  get active(): number {
    return this.#running.size;
  }

  /** The instance-side handler of the link. Never throws; answers every request. */
  readonly handle = (instance: CallingInstance, request: IncomingMessage, response: ServerResponse): void => {
    const trace = traceFrom(header(request, 'traceparent', /^/));
    const work = inTrace(trace, () => this.#answer(instance, request, response)).finally(() => this.#running.delete(work));
    this.#running.add(work);
  };

  /** Cuts off the calls in flight and waits until their rows are settled. New calls are answered 503. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const cancel of this.#cancels) cancel.abort(stopping());
    await Promise.all(this.#running);
  }

  async #answer(instance: CallingInstance, request: IncomingMessage, response: ServerResponse): Promise<void> {
    response.on('error', (error) => this.#log.debug({ err: error }, 'writing an answer to an instance failed'));
    try {
      if (this.#closed) throw stopping();
      const path = (request.url ?? '').split('?', 1)[0];
      if (path === '/v1/models') await this.#models(instance, request, response);
      else if (path === '/v1/chat/completions') await this.#chat(instance, request, response);
      else throw new RequestError(404, 'There is no such path here', { code: 'no_route' });
    } catch (error) {
      const { status } = sendError(response, error);
      if (status === 500)
        this.#log.error({ err: error, instanceId: instance.instanceId }, `LLM gateway failed: ${messageOf(error)}`);
    }
  }

  async #models(instance: CallingInstance, request: IncomingMessage, response: ServerResponse): Promise<void> {
    requireMethod(request, 'GET');
    const listed = this.#agents.models ? await this.#agents.models(instance) : this.#registry.models().map((model) => model.id);
    const data = listed.map((id) => ({ id, object: 'model', created: 0, owned_by: id.split('/', 1)[0] }));
    sendJson(response, 200, { object: 'list', data });
  }

  async #chat(instance: CallingInstance, request: IncomingMessage, response: ServerResponse): Promise<void> {
    requireMethod(request, 'POST');
    const slot = this.#slots.take(instance.instanceId);
    const cancel = new AbortController();
    const onClose = () => (response.writableEnded ? undefined : cancel.abort(new Error('the caller hung up')));
    response.on('close', onClose);
    this.#cancels.add(cancel);
    try {
      const call = await this.#open(instance, request, response, slot, cancel.signal);
      await call.run(cancel.signal);
    } finally {
      this.#cancels.delete(cancel);
      response.off('close', onClose);
      slot.free();
    }
  }

  /** Everything up to the written usage row. What fails in here never reached a provider. */
  async #open(
    instance: CallingInstance,
    request: IncomingMessage,
    response: ServerResponse,
    slot: Slot,
    signal: AbortSignal,
  ): Promise<LlmCall> {
    const chat = await this.#read(request, slot, signal);
    const fullName = chat.request.model;
    const { provider, model } = this.#registry.resolve(fullName);
    const named = header(request, 'x-berth-agent', AGENT_ID);
    const { agentId, agentDbId } = await this.#agents.allowedModel(instance, named, fullName);
    const { instanceId, deploymentId, userId } = instance;
    const turnId = header(request, 'x-berth-turn', TURN_ID);
    const attempt = Number(header(request, 'x-berth-attempt', /^[2-9]$/) ?? 1);
    const of = { instanceId, deploymentId, userId, agentId, agentDbId };
    const entry = { ...of, turnId, attempt, provider: provider.name, model: fullName };
    const usageId = await this.#ledger.open(entry).catch((error: unknown) => {
      throw this.#cannotOpen(error);
    });
    return new LlmCall({
      usageId,
      provider,
      request: { ...chat.request, model },
      stream: chat.stream,
      response,
      ledger: this.#ledger,
      limits: this.#limits,
      log: this.#log,
      meters: this.#meters,
      about: { usageId, instanceId, provider: provider.name, model: fullName },
    });
  }

  async #read(request: IncomingMessage, slot: Slot, signal: AbortSignal): Promise<ValidChat> {
    const hold = (bytes: number) => {
      slot.hold(bytes);
      slot.spend(bytes);
    };
    const body = await readBody(request, this.#limits, hold, signal);
    const { values, depth } = jsonCost(body);
    if (depth > MAX_DEPTH)
      throw new RequestError(400, `The body is nested deeper than ${MAX_DEPTH} levels`, { code: 'invalid_value' });
    slot.hold(values * BYTES_A_VALUE);
    return parseChat(body.toString('utf8'));
  }

  /** A refusal that the ledger throws on purpose is passed on; anything else is 503: without a row no provider is asked. */
  #cannotOpen(error: unknown): unknown {
    const { status } = openAiErrorOf(error);
    if (status < 500) return error;
    this.#log.error({ err: error }, `opening a usage row failed: ${messageOf(error)}`);
    return new RequestError(503, 'Usage cannot be recorded now; try again later', { code: 'unavailable', retryAfterS: 2 });
  }
}

function stopping(): RequestError {
  return new RequestError(503, 'Berth is stopping', { code: 'stopping', retryAfterS: 1 });
}

/** A header's value where it has the right form; instances make what they like of theirs. */
function header(request: IncomingMessage, name: string, form: RegExp): string | undefined {
  const value = request.headers[name];
  return typeof value === 'string' && form.test(value) ? value : undefined;
}

function requireMethod(request: IncomingMessage, method: string): void {
  if (request.method !== method) throw new RequestError(405, `Use ${method}`, { code: 'method_not_allowed' });
}
