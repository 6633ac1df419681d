import type { BodyRoom, Request } from './body.js';
import { integer, object } from './checks.js';
import { HttpError, TurnStopped } from './errors.js';
import type { KeptTurns } from './kept-turns.js';
import type { RunningTurns } from './running.js';
import type { Response } from './sse.js';
import type { TurnLog } from './turn-log.js';

export interface TurnRoutesOptions {
  kept: KeptTurns;
  running: RunningTurns;
  bodies: BodyRoom;
}

const MOST_BYTES = 1024;

/** What Berth asks of turns that run, or that have run and wait to be read. */
export class TurnRoutes {
  readonly #options: TurnRoutesOptions;

  constructor(options: TurnRoutesOptions) {
    this.#options = options;
  }

  /** The events of a kept turn after `?after=`, and those to come. */
  follow(request: Request, response: Response, turnId: string): void {
    const after = Number(new URLSearchParams((request.url ?? '').split('?')[1]).get('after') ?? 0);
    const log = this.#find(turnId);
    if (!Number.isInteger(after) || !log.holdsAfter(after))
      throw new HttpError(410, 'gone', 'What came after that event is not here.', {}, { code: 'gone' });
    log.follow(response, after);
  }

  /** Berth has written down all up to that event, so that it may be forgotten here. */
  async written(request: Request, turnId: string): Promise<{ last: number }> {
    const body = await this.#options.bodies.read(request, MOST_BYTES);
    try {
      const log = this.#find(turnId);
      log.written(integer(object(body.value, 'body')['seq'], 'seq', 0, Number.MAX_SAFE_INTEGER));
      return { last: log.last };
    } finally {
      body.release();
    }
  }

  /** Ends a turn, whoever reads it. */
  cancel(turnId: string): { cancelled: true } {
    if (!this.#options.running.stopTurn(turnId, new TurnStopped('cancelled'))) throw unknownTurn();
    return { cancelled: true };
  }

  #find(turnId: string): TurnLog {
    const log = this.#options.kept.get(turnId);
    if (!log) throw unknownTurn();
    return log;
  }
}

function unknownTurn(): HttpError {
  return new HttpError(404, 'not_found', 'There is no such turn here.', {}, { code: 'not_found' });
}
