import { setTimeout as sleep } from 'node:timers/promises';
import type { GatewayEvent } from '../../gateway/stream.js';
import type { KeptTurnsClient } from '../../gateway/kept-turns.js';
import type { EventSink, ServerEvent } from '../../http/sse.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { insist } from '../../lib/insist.js';
import type { Log } from '../../lib/log.js';
import type { Journal, Writer } from './turn-writer.js';
import type { EventsRow } from './turn-writer.store.js';
import { Reply } from './reply.js';
import { encodeEvent, type NumberedEvent, serverEventOf } from './turn-event.js';
import { reportedError, TurnCancelled } from './turn-error.js';

/** Which turn it is. */
export interface TurnIdentity {
  id: string;
  userId: string;
  agentId: string;
  agent: string;
  conversationId: string | null;
  resumable: boolean;
}

/** Where a turn's events come from. */
export interface Source {
  instanceId: string;
  events: AsyncGenerator<GatewayEvent>;
}

/** How a kept turn ended. */
export interface KeptEnd {
  status: 'finished' | 'failed' | 'cancelled';
  reply: Reply;
  error: AppError | undefined;
  /** Whether no instance was ever asked. */
  unasked: boolean;
}

export interface KeptTurnOptions {
  turn: TurnIdentity;
  /** What was written down of it by a process that died. */
  before?: { seq: number; reply: Reply };
  journal: Journal;
  gateway: KeptTurnsClient;
  hasEnded: (instanceId: string) => Promise<boolean>;
  /** Writes down how it ended. */
  settle: (end: KeptEnd) => Promise<void>;
  log: Log;
}

/** So much waits to be written down before it is written at once, and before the turn is held up. */
const MUCH_CHARS = 8 * 1024;
const MOST_UNWRITTEN_CHARS = 128 * 1024;
/** The gateway holds a turn up at 1 MiB of which nobody has said that it is written down. */
const TELL_EVERY_CHARS = 128 * 1024;
const REATTACH_WITHIN_MS = 60_000;
const REATTACH_EVERY_MS = 250;
const CANCEL_WITHIN_MS = 5_000;

/** What became of a relay: the turn ended, its process stops, or the client could not keep pace and has to read the journal. */
export interface Relayed {
  how: 'ended' | 'left' | 'behind';
  cursor: number;
}

/** Begins a turn, or finds it again. */
export type Opener = (signal: AbortSignal, onWaiting: (reason: string | null) => undefined) => Promise<Source>;

type Live = { event: NumberedEvent } | { waiting: string | null } | { over: 'ended' | 'left' };

/**
 * A turn that this process writes down as it comes, and relays to the clients that are here. It goes on without any of them; when this process
 * dies, another goes on from what is written down.
 */
export class KeptTurn implements Writer {
  readonly turn: TurnIdentity;
  readonly #options: KeptTurnOptions;
  readonly #reply: Reply;
  readonly #abort = new AbortController();
  readonly #listeners = new Set<(live: Live) => void>();
  /** What is not written down yet, in order. */
  #tail: NumberedEvent[] = [];
  #tailChars = 0;
  #untoldChars = 0;
  #last: number;
  #taken: number;
  #written: number;
  /** Whether the gateway numbers its events, so that they can be asked for again. */
  #isNumbered = false;
  #instanceId: string | undefined;
  #cancelled = false;
  /** Whether the gateway said itself that the turn has failed. */
  #isReported = false;
  #left = false;
  #room: (() => void) | undefined;
  #end: KeptEnd | undefined;
  #done: Promise<void> | undefined;

  constructor(options: KeptTurnOptions) {
    this.#options = options;
    this.turn = options.turn;
    this.#reply = options.before?.reply ?? new Reply();
    this.#last = this.#taken = this.#written = options.before?.seq ?? 0;
    this.#isNumbered = options.before !== undefined;
  }

  /** Undefined while it runs, and where this process has left it to others. */
  get end(): KeptEnd | undefined {
    return this.#end;
  }

  /** Resolves with how it ended; with nothing where this process has left it to others. */
  async ended(): Promise<KeptEnd | undefined> {
    await this.#done;
    return this.#end;
  }

  /** Runs it to its end, which is written down. Never rejects. `open` begins it, or finds it again. */
  run(open: Opener): Promise<void> {
    return (this.#done ??= this.#run(open));
  }

  async #run(open: Opener): Promise<void> {
    const { log } = this.#options;
    const end = await this.#readAll(open).then(
      () => this.#endOf(undefined),
      (error: unknown) => this.#endOf(error),
    );
    if (this.#left) return;
    if (end.status !== 'finished') this.#endAtGateway();
    const failed = (error: unknown) =>
      log.error({ turn: this.turn.id, err: error }, `a turn could not be settled: ${messageOf(error)}`);
    await insist(() => this.#settle(end), failed);
    this.#end = end;
    this.#tell({ over: 'ended' });
  }

  /** An instance is about to be asked, so that it may have begun whatever comes of that; undefined: it has surely not. */
  asks(instanceId: string | undefined): void {
    this.#instanceId = instanceId;
  }

  /** Ends it: in its gateway, where it has got there. */
  async cancel(): Promise<void> {
    if (this.#end || this.#cancelled) return;
    this.#cancelled = true;
    const { gateway } = this.#options;
    const told = this.#instanceId !== undefined && (await gateway.cancel(this.#instanceId, this.turn.id).catch(() => false));
    if (!told) return this.#abort.abort(new TurnCancelled());
    setTimeout(() => this.#abort.abort(new TurnCancelled()), CANCEL_WITHIN_MS).unref();
  }

  /** Leaves it to another process: this one stops. */
  leave(): void {
    this.#left = true;
    this.#abort.abort(new AppError('unavailable', 'Berth is stopping'));
    this.#tell({ over: 'left' });
  }

  /** Whether all after that event is here, or still to come. */
  reachesBackTo(cursor: number): boolean {
    return cursor >= this.#written;
  }

  /** Sends on what comes after that event, until the turn is over here or the client lags behind. To be asked only where it reaches back so far. */
  relay(cursor: number, sink: EventSink): Promise<Relayed> {
    return new Promise((resolve, reject) => {
      const gone = () => {
        this.#listeners.delete(hear);
        reject(sink.signal.reason);
      };
      const over = (how: Relayed['how']): false => {
        this.#listeners.delete(hear);
        sink.signal.removeEventListener('abort', gone);
        resolve({ how, cursor });
        return false;
      };
      const hear = (live: Live): boolean => {
        if ('over' in live) return over(live.over);
        const shown = this.#shown(live, cursor);
        if ('event' in live) cursor = Math.max(cursor, live.event.seq);
        const room = shown && sink.send(shown);
        if (!room) return true;
        // It hears no more meanwhile: what it misses it reads in the journal.
        this.#listeners.delete(hear);
        room.then(() => over('behind'), gone);
        return false;
      };
      if (sink.signal.aborted) return gone();
      sink.signal.addEventListener('abort', gone, { once: true });
      this.#listeners.add(hear);
      if (!this.#tail.every((event) => hear({ event }))) return;
      if (this.#end) over('ended');
      else if (this.#left) over('left');
    });
  }

  take(): EventsRow | undefined {
    const events = this.#tail.filter(({ seq }) => seq > this.#taken);
    const to = events.at(-1)?.seq;
    if (to === undefined) return undefined;
    const from = this.#taken + 1;
    this.#taken = to;
    return { turnId: this.turn.id, from, to, events: `[${events.map(encodeEvent).join(',')}]` };
  }

  written({ to }: EventsRow): void {
    this.#written = to;
    const kept = this.#tail.findIndex(({ seq }) => seq > to);
    const gone = kept === -1 ? this.#tail.splice(0) : this.#tail.splice(0, kept);
    for (const event of gone) this.#untoldChars += charsOf(event);
    this.#tailChars = this.#tail.reduce((sum, event) => sum + charsOf(event), 0);
    if (this.#tailChars < MOST_UNWRITTEN_CHARS) this.#room?.();
    if (this.#untoldChars > TELL_EVERY_CHARS) this.#tellGateway(to);
  }

  #shown(live: Exclude<Live, { over: string }>, cursor: number): ServerEvent | undefined {
    if ('waiting' in live) return { event: 'waiting', data: { reason: live.waiting } };
    if (live.event.seq <= cursor) return undefined;
    return serverEventOf(live.event, this.turn.resumable ? this.turn.id : undefined);
  }

  async #readAll(open: Opener): Promise<void> {
    let source = await open(this.#abort.signal, (reason) => this.#tell({ waiting: reason }));
    for (;;) {
      this.#instanceId = source.instanceId;
      try {
        return await this.#read(source.events);
      } catch (error) {
        const isLinkLoss = error instanceof AppError && error.code === 'unavailable' && !this.#isReported;
        if (!isLinkLoss || !this.#isNumbered || this.#abort.signal.aborted) throw error;
        source = await this.find(source.instanceId, error);
      }
    }
  }

  /** The turn in its gateway, from the last event that is here: once its link is back, or as long as its instance lives. */
  async find(instanceId: string, cause?: unknown): Promise<Source> {
    const { gateway, hasEnded } = this.#options;
    const { signal } = this.#abort;
    const deadline = performance.now() + REATTACH_WITHIN_MS;
    for (;;) {
      const found = await gateway.follow(instanceId, this.turn.id, this.#last, signal).catch(ifUnavailable);
      signal.throwIfAborted();
      if (found === 'unknown') {
        const detail = 'the instance of the agent does not know the turn: it began anew meanwhile, or was never asked';
        throw new AppError('upstream_error', detail, { cause });
      }
      if (found === undefined && (await hasEnded(instanceId)))
        throw new AppError('upstream_error', 'the instance of the agent ended in the midst of the turn', { cause });
      if (found === 'gone') throw new AppError('upstream_error', 'the instance has let go of what the turn said', { cause });
      if (found !== undefined) return { instanceId, events: found };
      if (performance.now() > deadline)
        throw new AppError('unavailable', 'the instance of the agent cannot be reached', { cause });
      await sleep(REATTACH_EVERY_MS, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }

  async #read(events: AsyncGenerator<GatewayEvent>): Promise<void> {
    for await (const event of events) {
      if (event.type === 'error') {
        this.#isReported = true;
        throw event.error.code === 'cancelled' ? new TurnCancelled() : reportedError(event.error);
      }
      const seq = event.seq ?? this.#last + 1;
      this.#isNumbered ||= event.seq !== undefined;
      if (seq <= this.#last) continue;
      if (seq !== this.#last + 1) throw new AppError('upstream_error', "the agent's answer was not understood");
      this.#last = seq;
      this.#note(Object.assign(event, { seq }));
      if (this.#tailChars >= MOST_UNWRITTEN_CHARS) await this.#untilRoom();
      this.#abort.signal.throwIfAborted();
    }
  }

  #note(event: NumberedEvent): void {
    if (event.type === 'chunk' && isSilent(event)) return;
    this.#reply.note(event);
    this.#tail.push(event);
    this.#tailChars += charsOf(event);
    this.#options.journal.add(this, this.#tailChars >= MUCH_CHARS);
    this.#tell({ event });
  }

  async #untilRoom(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#room = resolve;
      this.#abort.signal.addEventListener('abort', () => resolve(), { once: true });
    });
    this.#room = undefined;
  }

  #tell(live: Live): undefined {
    for (const hear of this.#listeners) hear(live);
  }

  #endOf(error: unknown): KeptEnd {
    const reply = this.#reply;
    const unasked = this.#instanceId === undefined;
    if (error === undefined) return { status: 'finished', reply, error: undefined, unasked };
    const known = error instanceof AppError ? error : new AppError('internal', 'internal server error', { cause: error });
    if (known.code === 'internal') this.#options.log.error({ turn: this.turn.id, err: error }, 'a turn failed');
    return { status: known instanceof TurnCancelled ? 'cancelled' : 'failed', reply, error: known, unasked };
  }

  async #settle(end: KeptEnd): Promise<void> {
    while (this.#tail.length > 0) {
      this.#options.journal.add(this, true);
      await this.#options.journal.flush();
    }
    await this.#options.settle(end);
    this.#tellGateway(Number.MAX_SAFE_INTEGER);
  }

  /** What is never told is told with the next word, or forgotten by the gateway in time. */
  #tellGateway(seq: number): void {
    this.#untoldChars = 0;
    if (!this.#isNumbered || this.#instanceId === undefined) return;
    this.#options.gateway.written(this.#instanceId, this.turn.id, seq).catch((error: unknown) => {
      this.#options.log.debug({ turn: this.turn.id, err: error }, 'a gateway was not told what is written down');
    });
  }

  /** It may go on there, whatever was wrong here. */
  #endAtGateway(): void {
    if (this.#instanceId === undefined) return;
    this.#options.gateway.cancel(this.#instanceId, this.turn.id).catch((error: unknown) => {
      this.#options.log.debug({ turn: this.turn.id, err: error }, 'a gateway was not told that a turn is over');
    });
  }
}

function ifUnavailable(error: unknown): undefined {
  if (!(error instanceof AppError) || (error.code !== 'unavailable' && error.code !== 'timeout')) throw error;
}

function isSilent({ chunk }: Extract<NumberedEvent, { type: 'chunk' }>): boolean {
  const choice = chunk.choices[0];
  return !choice?.delta.content && !choice?.finish_reason && !chunk.usage;
}

/** About what an event takes in memory and in the journal. */
function charsOf(event: NumberedEvent): number {
  if (event.type === 'chunk') return 40 + (event.chunk.choices[0]?.delta.content?.length ?? 0);
  return (
    100 +
    (event.type === 'tool_call' ? event.call.arguments.length : 0) +
    (event.type === 'tool_result' ? event.result.preview.length : 0)
  );
}
