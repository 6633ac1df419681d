import type { Runtime } from '../../src/runtime/runtime.js';

/** Stands between one process and its engine: there the process can be killed or frozen, at any call. */
export class ProcessGate {
  #isDead = false;
  #thawed: Promise<void> = Promise.resolve();
  #thaw: () => void = () => undefined;
  #trap: { left: number; when: 'before' | 'after'; spring: () => void } | undefined;

  die(): void {
    this.#isDead = true;
    this.#thaw();
  }

  freeze(): void {
    this.thaw();
    this.#thawed = new Promise((resolve) => (this.#thaw = resolve));
  }

  thaw(): void {
    this.#trap = undefined;
    this.#thaw();
  }

  /** Springs once, at that call: before it takes effect, or after it did and before the process knows. */
  setTrap(calls: number, when: 'before' | 'after', spring: () => void): void {
    this.#trap = { left: calls, when, spring };
  }

  /** The runtime as the process sees it. */
  around(runtime: Runtime): Runtime {
    return new Proxy(runtime, {
      get: (target, name) => {
        const value: unknown = Reflect.get(target, name, target);
        if (typeof value !== 'function') return value;
        const call = value.bind(target) as (...given: unknown[]) => unknown;
        if (name === 'logs' || name === 'events' || name === 'close') return call;
        return (...given: unknown[]) => this.#pass(() => call(...given) as Promise<unknown>);
      },
    });
  }

  async #pass<T>(call: () => Promise<T>): Promise<T> {
    await this.#alive();
    const trap = this.#trap && --this.#trap.left === 0 ? this.#trap : undefined;
    if (trap) this.#trap = undefined;
    if (trap?.when === 'before') trap.spring();
    await this.#alive();
    const result = await call();
    if (trap?.when === 'after') trap.spring();
    await this.#alive();
    return result;
  }

  async #alive(): Promise<void> {
    await this.#thawed;
    if (this.#isDead) throw new Error('this process is dead');
  }
}
