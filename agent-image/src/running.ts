import { setTimeout as sleep } from 'node:timers/promises';

/** How long an agent's turns are waited for once they were told to end. */
const STOP_WITHIN_MS = 5000;

interface Running {
  agentId: string;
  turnId: string;
  controller: AbortController;
  done: Promise<void>;
}

/** The turns in flight, so that they can be ended from outside: with their agent, or with the process. */
export class RunningTurns {
  readonly #turns = new Set<Running>();

  get size(): number {
    return this.#turns.size;
  }

  /** Runs `work` as a turn of that agent. The signal given aborts with the controller, which the caller may also abort itself. */
  async run(
    { agentId, turnId }: { agentId: string; turnId: string },
    controller: AbortController,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    let finish!: () => void;
    const turn = { agentId, turnId, controller, done: new Promise<void>((resolve) => (finish = resolve)) };
    this.#turns.add(turn);
    try {
      await work(controller.signal);
    } finally {
      this.#turns.delete(turn);
      finish();
    }
  }

  /** Ends the turn of that id and says whether there was one. */
  stopTurn(turnId: string, reason: Error): boolean {
    const turns = [...this.#turns].filter((turn) => turn.turnId === turnId);
    for (const { controller } of turns) controller.abort(reason);
    return turns.length > 0;
  }

  /** Ends an agent's turns and waits for them, within bounds. */
  async stopAgent(agentId: string, reason: Error): Promise<void> {
    await this.#stop(
      [...this.#turns].filter((turn) => turn.agentId === agentId),
      reason,
    );
  }

  async stopAll(reason: Error): Promise<void> {
    await this.#stop([...this.#turns], reason);
  }

  /** Resolves when no turn is left or the time is over. */
  async settled(withinMs: number): Promise<void> {
    if (this.#turns.size > 0) await within(withinMs, Promise.all([...this.#turns].map(({ done }) => done)));
  }

  /** Resolves when no turn of that agent is left or the time is over. Those that begin meanwhile are not waited for. */
  async agentSettled(agentId: string, withinMs: number): Promise<void> {
    const turns = [...this.#turns].filter((turn) => turn.agentId === agentId);
    if (turns.length > 0) await within(withinMs, Promise.all(turns.map(({ done }) => done)));
  }

  /** Whether a turn of that agent runs. */
  has(agentId: string): boolean {
    return [...this.#turns].some((turn) => turn.agentId === agentId);
  }

  /** Resolves when one of the turns in flight has ended, or the time is over. */
  async oneEnded(withinMs: number): Promise<void> {
    await within(withinMs, Promise.race([...this.#turns].map(({ done }) => done)));
  }

  async #stop(turns: Running[], reason: Error): Promise<void> {
    if (turns.length === 0) return;
    for (const { controller } of turns) controller.abort(reason);
    await within(STOP_WITHIN_MS, Promise.all(turns.map(({ done }) => done)));
  }
}

async function within(timeoutMs: number, promise: Promise<unknown>): Promise<void> {
  const timer = new AbortController();
  await Promise.race([promise, sleep(timeoutMs, undefined, { signal: timer.signal }).catch(() => undefined)]);
  timer.abort();
}
