import { setTimeout as sleep } from 'node:timers/promises';
import type { GatewayClient } from '../../gateway/gateway.js';
import { NotSent } from '../../lib/errors.js';
import type { Agents, Wait } from '../agents/agents.js';
import type { PreparedTurn } from './chat.js';
import type { Source } from './kept-turn.js';

export interface AskerOptions {
  agents: Agents;
  gateway: GatewayClient;
  readyTimeoutMs: number;
}

/** A turn that goes on without a reader. */
export interface Keeping {
  /** Told each instance that is about to be asked. */
  before: (instanceId: string) => Promise<void>;
  /** That instance has surely not begun. */
  refused: () => void;
}

/** How long a turn that was refused stays away from what refused it. */
const AGAIN_MS = 250;

/** Brings turns to the gateways of their agents. */
export class Asker {
  readonly #options: AskerOptions;

  constructor(options: AskerOptions) {
    this.#options = options;
  }

  /** The time that one turn may wait, from now on. */
  wait(signal: AbortSignal, onWaiting?: Wait['onWaiting']): Wait {
    const timeoutMs = this.#options.readyTimeoutMs;
    return { deadline: performance.now() + timeoutMs, timeoutMs, signal, onWaiting };
  }

  /** Where the turn goes, waited for where the agent is not ready. */
  async reach(prepared: PreparedTurn, wait: Wait): Promise<string> {
    return (await this.#options.agents.reachFrom(prepared.userId, prepared.route, wait)).instanceId;
  }

  /**
   * Asks the gateway. A turn that it has surely not begun, as where its link had just closed, is asked for again within the wait; one that may have
   * begun never is.
   */
  async ask(instanceId: string, prepared: PreparedTurn, wait: Wait, keeping?: Keeping): Promise<Source> {
    for (;;) {
      await keeping?.before(instanceId);
      try {
        return { instanceId, events: await this.#ask(instanceId, prepared, wait.signal, keeping !== undefined) };
      } catch (error) {
        if (!(error instanceof NotSent)) throw error;
        keeping?.refused();
        instanceId = await this.#reachAgain(prepared, wait, error);
      }
    }
  }

  #ask(instanceId: string, prepared: PreparedTurn, signal: AbortSignal, keep: boolean): Promise<Source['events']> {
    const { agent, turnId, memoryKey, wish } = prepared;
    const user = wish.memory.kind === 'apart' ? undefined : (memoryKey ?? undefined);
    const turn = { agent, turnId, messages: wish.messages, user, sampling: wish.sampling ?? {}, keep };
    return this.#options.gateway.turn(instanceId, turn, signal);
  }

  /** After a refusal: looks at where the agent is by now, but not at once, since what refused may still look alive. */
  async #reachAgain(prepared: PreparedTurn, wait: Wait, refusal: NotSent): Promise<string> {
    if (performance.now() + AGAIN_MS > wait.deadline) throw refusal;
    await sleep(AGAIN_MS, undefined, { signal: wait.signal }).catch(() => wait.signal.throwIfAborted());
    const { agents } = this.#options;
    const route = await agents.route(prepared.userId, prepared.route.agentId);
    return (await agents.reachFrom(prepared.userId, route, wait)).instanceId;
  }
}
