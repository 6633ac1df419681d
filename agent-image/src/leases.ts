/** How soon one that works is asked again. */
const AT_WORK_S = 5;

/** The time that agents asked not to be paused or stopped for want of use. In memory alone: what ends the process ends the work too. */
export class Leases {
  /** By agent, on the clock that does not jump. */
  readonly #until = new Map<string, number>();

  /** From now on; an agent has one lease, and the latest word counts. */
  take(agentId: string, minutes: number): void {
    this.#until.set(agentId, performance.now() + minutes * 60_000);
  }

  /** For how many seconds from now the instance is needed: by those of these agents that asked, or by so many turns that run. */
  busySeconds(agentIds: readonly string[], turns: number): number {
    const now = performance.now();
    for (const [id, until] of this.#until) if (until <= now || !agentIds.includes(id)) this.#until.delete(id);
    const asked = Math.ceil((Math.max(now, ...this.#until.values()) - now) / 1_000);
    return Math.max(asked, turns > 0 ? AT_WORK_S : 0);
  }
}
