import { TurnLog } from './turn-log.js';

/** How long a turn that has ended waits for Berth to come and read the rest of it. */
const KEPT_MS = 15 * 60_000;
/** All turns that have ended, together; the oldest are forgotten first. */
const MOST_ENDED_CHARS = 8 * 1024 * 1024;

/** The turns that go on without anybody who reads them, so that a Berth process can take them over from one that died. */
export class KeptTurns {
  /** In the order in which they began. */
  readonly #logs = new Map<string, TurnLog>();

  get(turnId: string): TurnLog | undefined {
    return this.#logs.get(turnId);
  }

  begin(turnId: string): TurnLog {
    const log = new TurnLog();
    log.onDone = () => this.#forget(turnId, log);
    this.#logs.set(turnId, log);
    return log;
  }

  /** To be called at the end of each turn. */
  ended(turnId: string): void {
    const log = this.#logs.get(turnId);
    if (!log) return;
    setTimeout(() => this.#forget(turnId, log), KEPT_MS).unref();
    let chars = 0;
    for (const [id, one] of [...this.#logs].reverse()) {
      if (!one.ended) continue;
      chars += one.chars;
      if (chars > MOST_ENDED_CHARS) this.#forget(id, one);
    }
  }

  #forget(turnId: string, log: TurnLog): void {
    if (this.#logs.get(turnId) === log) this.#logs.delete(turnId);
  }
}
