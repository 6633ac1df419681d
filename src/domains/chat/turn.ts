import type { GatewayEvent, TurnUsage } from '../../gateway/stream.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { PreparedTurn } from './chat.js';
import { Reply } from './reply.js';
import { reportedError, TurnCancelled, withRetryAfter } from './turn-error.js';

/** How a turn ended, for the journal. */
export interface TurnEnd {
  status: 'finished' | 'failed' | 'cancelled';
  reply: string;
  error: string | null;
  usage: TurnUsage | undefined;
  /** That were called, in order. */
  tools?: readonly string[];
}

export interface RunningTurnOptions {
  prepared: PreparedTurn;
  events: AsyncGenerator<GatewayEvent>;
  settle: (end: TurnEnd) => Promise<void>;
  /** Aborts when the client has gone. */
  signal: AbortSignal;
  log: Log;
}

/** A turn that runs on an instance. Its events are read once; however that ends, the journal says how. */
export class RunningTurn {
  readonly turnId: string;
  readonly agent: string;
  readonly conversationId: string | null;
  readonly #options: RunningTurnOptions;
  readonly #reply = new Reply();

  constructor(options: RunningTurnOptions) {
    this.#options = options;
    this.turnId = options.prepared.turnId;
    this.agent = options.prepared.agent;
    this.conversationId = options.prepared.conversationId;
  }

  /** What was said so far, up to a limit. */
  get reply(): string {
    return this.#reply.text;
  }

  get usage(): TurnUsage {
    return this.#reply.usage ?? { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
  }

  /** `length` also where the reply was too long to be kept whole. */
  get finishReason(): string {
    return this.#reply.finishReason;
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
        if (event.type === 'error') throw event.error.code === 'cancelled' ? new TurnCancelled() : reportedError(event.error);
        this.#reply.note(event);
        yield event;
      }
      end = { status: 'finished', error: null };
    } catch (error) {
      if (this.#options.signal.aborted) throw error;
      end = {
        status: error instanceof TurnCancelled ? 'cancelled' : 'failed',
        error: error instanceof AppError ? error.message : 'internal error',
      };
      throw error instanceof AppError ? withRetryAfter(error) : error;
    } finally {
      await this.#settle(end);
    }
  }

  async #settle(end: Pick<TurnEnd, 'status' | 'error'>): Promise<void> {
    try {
      await this.#options.settle({ ...end, reply: this.reply, usage: this.#reply.usage, tools: this.#reply.tools });
    } catch (error) {
      // The client has its answer: the journal's row is settled as abandoned later.
      this.#options.log.error({ turn: this.turnId, err: error }, `a turn could not be settled: ${messageOf(error)}`);
    }
  }
}
