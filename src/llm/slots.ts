import { RequestError } from './openai-error.js';

export interface SlotLimits {
  concurrentCalls: number;
  heldBytesPerInstance: number;
  heldBytes: number;
  bytesPerSecond: number;
  burstBytes: number;
}

/** One call's place among its instance's. */
export interface Slot {
  /** Counts bytes that the call keeps in memory until it is freed; throws `RequestError` where that is too much. */
  hold(bytes: number): void;
  /**
   * Counts bytes that are to be read and parsed, which takes the time of all; throws `RequestError` where the instance sends
   * too many.
   */
  spend(bytes: number): void;
  free(): void;
}

interface Instance {
  calls: number;
  heldBytes: number;
  /** Bytes it may still send at once, as of `at`. */
  allowance: number;
  at: number;
}

const TAKES_BETWEEN_SWEEPS = 1_000;

/** Bounds what one instance, and all of them, may have in flight (calls, bytes of requests), and how many bytes one may send. */
export class Slots {
  readonly #limits: SlotLimits;
  readonly #instances = new Map<string, Instance>();
  #heldBytes = 0;
  #takes = 0;

  constructor(limits: SlotLimits) {
    this.#limits = limits;
  }

  /** A place for one more call of the instance; throws `RequestError` 429 where it has as many as it may. */
  take(instanceId: string): Slot {
    if (++this.#takes % TAKES_BETWEEN_SWEEPS === 0) this.#sweep();
    const instance = this.#instances.get(instanceId) ?? { calls: 0, heldBytes: 0, allowance: this.#limits.burstBytes, at: now() };
    if (instance.calls >= this.#limits.concurrentCalls) {
      throw new RequestError(429, `At most ${this.#limits.concurrentCalls} calls at once`, {
        code: 'too_many_calls',
        retryAfterS: 1,
      });
    }
    instance.calls++;
    this.#instances.set(instanceId, instance);
    let held = 0;
    return {
      hold: (bytes) => {
        this.#checkHeld(instance, bytes);
        held += bytes;
        instance.heldBytes += bytes;
        this.#heldBytes += bytes;
      },
      spend: (bytes) => this.#spend(instance, bytes),
      free: () => {
        instance.calls--;
        instance.heldBytes -= held;
        this.#heldBytes -= held;
      },
    };
  }

  #checkHeld(instance: Instance, bytes: number): void {
    if (instance.heldBytes + bytes > this.#limits.heldBytesPerInstance) {
      throw new RequestError(429, 'The requests in flight are too large together', { code: 'too_many_bytes', retryAfterS: 1 });
    }
    if (this.#heldBytes + bytes > this.#limits.heldBytes) {
      throw new RequestError(503, 'Too much is in flight; try again later', { code: 'unavailable', retryAfterS: 1 });
    }
  }

  #spend(instance: Instance, bytes: number): void {
    this.#refill(instance);
    if (bytes <= instance.allowance) {
      instance.allowance -= bytes;
      return;
    }
    const retryAfterS = Math.max(1, Math.ceil((bytes - instance.allowance) / this.#limits.bytesPerSecond));
    throw new RequestError(429, 'Too many bytes of requests in a short time', { code: 'too_many_bytes', retryAfterS });
  }

  #refill(instance: Instance): void {
    const { bytesPerSecond, burstBytes } = this.#limits;
    const earned = ((now() - instance.at) / 1000) * bytesPerSecond;
    instance.allowance = Math.min(burstBytes, instance.allowance + earned);
    instance.at = now();
  }

  /** Forgets instances that do nothing and have their whole allowance back. */
  #sweep(): void {
    for (const [id, instance] of this.#instances) {
      this.#refill(instance);
      if (instance.calls === 0 && instance.allowance >= this.#limits.burstBytes) this.#instances.delete(id);
    }
  }
}

/** Monotonic milliseconds. */
function now(): number {
  return performance.now();
}
