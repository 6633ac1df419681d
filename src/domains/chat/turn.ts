import type { GatewayChunk, GatewayEvent, TurnUsage } from '../../gateway/stream.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { PreparedTurn } from './chat.js';

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
  signal: AbortSignal;
  log: Log;
}

/** The journal keeps this much of a reply; the client gets all of it. */
const REPLY_LIMIT_CHARS = 1_000_000;

/** A turn that runs on an instance. Its events are read once; however that ends, the journal says how. */
export class RunningTurn {
  readonly turnId: string;
  readonly agent: string;
  readonly conversationId: string | null;
  readonly #options: RunningTurnOptions;
  readonly #parts: string[] = [];
  #replyChars = 0;
  #usage: TurnUsage | undefined;
  #finishReason = 'stop';

  constructor(options: RunningTurnOptions) {
    this.#options = options;
    this.turnId = options.prepared.turnId;
    this.agent = options.prepared.agent;
    this.conversationId = options.prepared.conversationId;
  }

  /** What was said so far. */
  get reply(): string {
    return this.#parts.join('');
  }

  get usage(): TurnUsage {
    return this.#usage ?? { prompt_tokens: 0, completion_tokens: 0, total_tokens: 0 };
  }

  get finishReason(): string {
    return this.#finishReason;
  }

  /** The turn as it goes. An error that the agent reports is thrown, as is a lost link; leaving early cancels the turn. */
  async *events(): AsyncGenerator<Exclude<GatewayEvent, { type: 'error' }>> {
    let end: Pick<TurnEnd, 'status' | 'error'> = { status: 'cancelled', error: null };
    try {
      for await (const event of this.#options.events) {
        if (event.type === 'error') throw new AppError('upstream_error', event.error.message || 'the agent failed');
        if (event.type === 'chunk') this.#note(event.chunk);
        yield event;
      }
      end = { status: 'finished', error: null };
    } catch (error) {
      if (!this.#options.signal.aborted) end = { status: 'failed', error: error instanceof AppError ? error.message : 'internal error' };
      throw error;
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

  #note(chunk: GatewayChunk): void {
    const choice = chunk.choices?.[0];
    const text = choice?.delta?.content;
    if (typeof text === 'string' && this.#replyChars < REPLY_LIMIT_CHARS) {
      this.#parts.push(text);
      this.#replyChars += text.length;
    }
    if (typeof choice?.finish_reason === 'string') this.#finishReason = choice.finish_reason;
    if (chunk.usage) this.#usage = chunk.usage;
  }
}
