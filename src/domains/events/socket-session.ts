import type { StoredEvent } from '../../events/outbox.js';
import type { ClientSocket } from '../../http/client-socket.js';
import { errorAnswer, publicError } from '../../http/errors.js';
import { validationError } from '../../http/validate.js';
import { AppError } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { type Events, seqOf } from './events.js';
import { cursorOf, eventAnswer, gapAnswer } from './events.schema.js';
import type { Reader } from './feed.js';
import { isOfType } from './filter.js';
import { roomWithin } from './room.js';
import { ClientMessage } from './socket.schema.js';

/** Whom a WebSocket is for: a user, or one agent of it. */
export interface Admission {
  userId: string;
  keyId: string;
  agentId?: string | undefined;
}

export interface SocketSessionOptions {
  events: Events;
  socket: ClientSocket;
  requestId: string;
  log: Log;
  /** Where the client has shown a key or a ticket with its request. */
  admission: Admission | undefined;
  /** Lets in whoever shows a key in its first message. */
  admit(key: string, user: string | undefined): Promise<Admission>;
  authTimeoutMs?: number | undefined;
}

interface Subscription {
  event: string;
  agentId: string | undefined;
}

const AUTH_TIMEOUT_MS = 10_000;
const SUBSCRIPTIONS_AT_MOST = 100;
/** Close codes of RFC 6455 and IANA's registry. */
const [POLICY, RESTART, TRY_LATER, INTERNAL] = [1008, 1012, 1013, 1011];

/** Made once for all sockets of an event. */
const texts = new WeakMap<StoredEvent, string>();

/**
 * One WebSocket: who it is for, what it has subscribed to, and its place. Messages of the client are answered one after the other; events
 * come in between, each once.
 */
export class SocketSession {
  readonly #options: SocketSessionOptions;
  readonly #subscriptions = new Map<string, Subscription>();
  #admission: Admission | undefined;
  #queue: Promise<void> = Promise.resolve();
  #begun: Promise<void> | undefined;
  /** All up to here was sent, or was not asked for. */
  #place = 0;

  constructor(options: SocketSessionOptions) {
    this.#options = options;
    this.#admission = options.admission;
  }

  start(): void {
    const { socket, authTimeoutMs = AUTH_TIMEOUT_MS } = this.#options;
    socket.onMessage((text) => (this.#queue = this.#queue.then(() => this.#take(text))));
    if (this.#admission) return this.#welcome(this.#admission);
    const timer = setTimeout(() => this.#end(new AppError('unauthorized', 'no key came')), authTimeoutMs);
    socket.signal.addEventListener('abort', () => clearTimeout(timer), { once: true });
    this.#stopWaiting = () => clearTimeout(timer);
  }

  #stopWaiting = (): void => {};

  async #take(text: string): Promise<void> {
    if (this.#options.socket.signal.aborted) return;
    try {
      await this.#answer(messageIn(text));
    } catch (error) {
      // Whoever is not let in has nothing more to say.
      if (!this.#admission) this.#end(error);
      else this.#sayError(error);
    }
  }

  async #answer(message: ClientMessage): Promise<void> {
    if (message.type === 'auth') return this.#admit(message.key, message.user);
    const admission = this.#admission;
    if (!admission) throw new AppError('unauthorized', 'the first message must be {"type": "auth", "key": …}');
    if (message.type === 'ping') return this.#say({ type: 'pong', ...(this.#begun ? { cursor: cursorOf(this.#place) } : {}) });
    const agentId = await this.#agentOf(admission, message.agent);
    const name = `${message.event} ${agentId ?? ''}`;
    if (message.type === 'unsubscribe') {
      this.#subscriptions.delete(name);
      return this.#say({ type: 'unsubscribed', event: message.event, agent_id: agentId ?? null });
    }
    await this.#subscribe(admission, name, { event: message.event, agentId }, message.cursor);
  }

  async #admit(key: string, user: string | undefined): Promise<void> {
    if (this.#admission) throw new AppError('conflict', 'this connection has a key already');
    this.#admission = await this.#options.admit(key, user);
    this.#stopWaiting();
    this.#welcome(this.#admission);
  }

  #welcome({ userId, agentId }: Admission): void {
    this.#say({ type: 'ready', user_id: userId, ...(agentId === undefined ? {} : { agent_id: agentId }) });
  }

  /** An agent's key hears of its own agent, whatever it names. */
  async #agentOf(admission: Admission, agent: string | undefined): Promise<string | undefined> {
    const named = await this.#options.events.agentId(admission.userId, agent);
    if (admission.agentId !== undefined && named !== undefined && named !== admission.agentId) {
      throw new AppError('not_found', 'agent not found');
    }
    return admission.agentId ?? named;
  }

  async #subscribe(admission: Admission, name: string, wish: Subscription, cursor: string | undefined): Promise<void> {
    const after = seqOf(cursor);
    if (this.#begun && after !== undefined) {
      throw new AppError('conflict', 'a cursor belongs into the first subscription: events are being sent already', {
        fields: [{ path: 'cursor', message: 'is for the first subscription of a connection' }],
      });
    }
    if (this.#subscriptions.size >= SUBSCRIPTIONS_AT_MOST && !this.#subscriptions.has(name)) {
      throw new AppError('limit_exceeded', `more than ${SUBSCRIPTIONS_AT_MOST} subscriptions`);
    }
    this.#subscriptions.set(name, wish);
    if (!this.#begun) return this.#begin(admission, after, () => this.#saySubscribed(wish));
    this.#saySubscribed(wish);
  }

  #saySubscribed({ event, agentId }: Subscription): void {
    this.#say({ type: 'subscribed', event, agent_id: agentId ?? null, cursor: cursorOf(this.#place) });
  }

  /** Resolves once the stream has its place, so that nothing that happens after the answer is missed. */
  async #begin({ userId, keyId }: Admission, after: number | undefined, placed: () => void): Promise<void> {
    const { events, socket } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#begun = events.follow({ userId, keyId, after }, socket.signal, async (reader, signal) => {
        this.#place = reader.position;
        placed();
        resolve();
        await this.#pump(reader, signal);
      });
      this.#begun.catch((error: unknown) => (reject(error), this.#end(error)));
    });
  }

  async #pump(reader: Reader, signal: AbortSignal): Promise<void> {
    for (;;) {
      const { gap, events } = await reader.next(signal);
      if (gap) await this.#send(JSON.stringify({ type: 'gap', ...gapAnswer(gap) }));
      for (const event of events) {
        const sent = this.#wants(event) ? this.#send(textOf(event)) : undefined;
        this.#place = event.seq;
        if (sent) await sent;
      }
      this.#place = reader.position;
    }
  }

  #wants(event: StoredEvent): boolean {
    const about = event.payload['agent_id'];
    for (const { event: type, agentId } of this.#subscriptions.values()) {
      if (isOfType(type, event.type) && (agentId === undefined || agentId === about)) return true;
    }
    return false;
  }

  async #send(text: string): Promise<void> {
    const { socket, events } = this.#options;
    const room = socket.send(text);
    if (!room || (await roomWithin(room, events.slowMs))) return;
    void socket.send(JSON.stringify({ type: 'dropped', reason: 'this client is too slow', cursor: cursorOf(this.#place) }));
    throw new AppError('request_timeout', 'this client is too slow');
  }

  #say(message: object): void {
    void this.#options.socket.send(JSON.stringify(message));
  }

  #sayError(thrown: unknown): AppError {
    const error = publicError(thrown);
    const { requestId, log } = this.#options;
    if (error.code === 'internal') log.error({ request_id: requestId, err: error.cause ?? error }, 'a WebSocket failed');
    this.#say({ type: 'error', ...errorAnswer(error, requestId) });
    return error;
  }

  #end(thrown: unknown): void {
    const { socket } = this.#options;
    this.#stopWaiting();
    if (socket.signal.aborted) return;
    const { code, message } = this.#sayError(thrown);
    socket.close(codeOf(code), message.slice(0, 100));
  }
}

function codeOf(code: string): number {
  if (code === 'unavailable') return RESTART ?? 0;
  if (code === 'internal') return INTERNAL ?? 0;
  return (code === 'request_timeout' || code === 'rate_limited' ? TRY_LATER : POLICY) ?? 0;
}

function messageIn(text: string): ClientMessage {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    throw new AppError('invalid_request', 'the message is not JSON', { cause: error });
  }
  const parsed = ClientMessage.safeParse(json);
  if (!parsed.success) throw validationError('json', parsed.error);
  return parsed.data;
}

function textOf(event: StoredEvent): string {
  const known = texts.get(event);
  if (known !== undefined) return known;
  const { type, ...rest } = eventAnswer(event);
  const text = JSON.stringify({ type: 'event', event: type, ...rest });
  texts.set(event, text);
  return text;
}
