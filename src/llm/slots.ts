import { RequestError } from './openai-error.js';

export interface SlotLimits {
  concurrentCalls: number;
  heldBytesPerInstance: number;
  heldBytes: number;
}

/** One call's place among its instance's. */
export interface Slot {
  /** Counts bytes that the call keeps in memory until it is freed; throws `RequestError` where that is too much. */
  hold(bytes: number): void;
  free(): void;
}

/** Bounds what one instance, and all of them, may have in flight: calls and bytes of requests. */
export class Slots {
  readonly #limits: SlotLimits;
  readonly #instances = new Map<string, { calls: number; bytes: number }>();
  #bytes = 0;

  constructor(limits: SlotLimits) {
    this.#limits = limits;
  }

  /** A place for one more call of the instance; throws `RequestError` 429 where it has as many as it may. */
  take(instanceId: string): Slot {
    const instance = this.#instances.get(instanceId) ?? { calls: 0, bytes: 0 };
    if (instance.calls >= this.#limits.concurrentCalls) {
      throw new RequestError(429, `At most ${this.#limits.concurrentCalls} calls at once`, { code: 'too_many_calls', retryAfterS: 1 });
    }
    instance.calls++;
    this.#instances.set(instanceId, instance);
    let held = 0;
    return {
      hold: (bytes) => {
        this.#check(instance.bytes + bytes, bytes);
        held += bytes;
        instance.bytes += bytes;
        this.#bytes += bytes;
      },
      free: () => {
        instance.bytes -= held;
        this.#bytes -= held;
        if (--instance.calls === 0) this.#instances.delete(instanceId);
      },
    };
  }

  #check(ofInstance: number, more: number): void {
    if (ofInstance > this.#limits.heldBytesPerInstance) {
      throw new RequestError(429, 'The requests in flight are too large together', { code: 'too_many_bytes', retryAfterS: 1 });
    }
    if (this.#bytes + more > this.#limits.heldBytes) {
      throw new RequestError(503, 'Too much is in flight; try again later', { code: 'unavailable', retryAfterS: 1 });
    }
  }
}
