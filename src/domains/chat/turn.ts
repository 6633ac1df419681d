import type { GatewayChunk, GatewayEvent, TurnUsage } from '../../gateway/stream.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { PreparedTurn } from './chat.js';
import { reportedError, withRetryAfter } from './turn-error.js';

/** How a turn ended, for the journal. */
export interface TurnEnd {
  status: 'finished' | 'failed' | 'cancelled';
  reply: string;
  error: string | null;
  usage: TurnUsage | undefined;
}

export interface RunningTurnOptions {
  prepared: PreparedTurn;
  events: AsyncGenerator<GatewayEvent>;
  settle: (end: TurnEnd) => Promise<void>;
  /** Aborts when the client has gone. */
  signal: AbortSignal;
  log: Log;
}

/** This much of a reply is kept for the journal and for an answer in one piece; who reads the stream gets all of it. */
const REPLY_LIMIT_CHARS = 1_000_000;

/** A turn that runs on an instance. Its events are read once; however that ends, the journal says how. */
export class RunningTurn {
  readonly turnId: string;
  readonly agent: string;
  readonly conversationId: string | null;
  readonly #options: RunningTurnOptions;
  readonly #parts: string[] = [];
  #replyChars = 0;
  #isCut = false;
  #usage: TurnUsage | undefined;
  #finishReason = 'stop';

  constructor(options: RunningTurnOptions) {
    this.#options = options;
    this.turnId = options.prepared.turnId;
    this.agent = options.prepared.agent;
    this.conversationId = options.prepared.conversationId;
  }

  /** What was said so far, up to a limit. */
  get reply(): string {
    return this.#parts.join('');
  }

  get usage(): TurnUsage {
    return this.#usage ?? { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
  }

  /** `length` also where the reply was too long to be kept whole. */
  get finishReason(): string {
    return this.#isCut ? 'length' : this.#finishReason;
  }

  /** Runs the turn to its end, for an answer in one piece. */
  async finish(): Promise<void> {
    for await (const _ of this.events()) {
      // The turn gathers its own reply.
    }
  }

  /** The turn as it goes. An error that the agent reports is thrown, as is a lost link; leaving early cancels the turn. */
  async *events(): AsyncGenerator<Exclude<GatewayEvent, { type: 'error' }>> {
    let end: Pick<TurnEnd, 'status' | 'error'> = { status: 'cancelled', error: null };
    try {
      for await (const event of this.#options.events) {
        if (event.type === 'error') throw reportedError(event.error);
        if (event.type === 'chunk') this.#note(event.chunk);
        yield event;
      }
      end = { status: 'finished', error: null };
    } catch (error) {
      if (this.#options.signal.aborted) throw error;
      end = { status: 'failed', error: error instanceof AppError ? error.message : 'internal error' };
      throw error instanceof AppError ? withRetryAfter(error) : error;
    } finally {
      await this.#settle(end);
    }
  }

  async #settle(end: Pick<TurnEnd, 'status' | 'error'>): Promise<void> {
    try {
      await this.#options.settle({ ...end, reply: this.reply, usage: this.#usage });
    } catch (error) {
      // The client has its answer: the journal's row is settled as abandoned later.
      this.#options.log.error({ turn: this.turnId, err: error }, `a turn could not be settled: ${messageOf(error)}`);
    }
  }

  #note({ choices, usage }: GatewayChunk): void {
    const choice = choices[0];
    if (choice?.delta.content) this.#keep(choice.delta.content);
    if (choice?.finish_reason) this.#finishReason = choice.finish_reason;
    if (usage) this.#usage = usage;
  }

  #keep(text: string): void {
    const room = REPLY_LIMIT_CHARS - this.#replyChars;
    if (text.length > room) this.#isCut = true;
    if (room <= 0) return;
    const kept = text.length > room ? text.slice(0, room) : text;
    this.#parts.push(kept);
    this.#replyChars += kept.length;
  }
}
