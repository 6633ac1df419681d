import {
  BrokenCircuitError,
  CircuitState,
  circuitBreaker,
  ConsecutiveBreaker,
  handleWhen,
  type CircuitBreakerPolicy,
} from 'cockatiel';
import { ProviderError, type ChatRequest, type Provider, type ProviderChunk } from './provider.js';

export interface BreakerOptions {
  /** Failures in a row that open it; default 5. */
  failures?: number;
  /** How long it stays open before one call is let through to try; default 15 s. */
  openMs?: number;
}

/** Refusals of a request or a key say that the upstream works. */
const TRIPPING: readonly string[] = ['upstream', 'stalled', 'cut'];

function isTripping(error: unknown): boolean {
  return error instanceof ProviderError && TRIPPING.includes(error.kind);
}

/**
 * A provider that is not asked while it fails: after so many failures in a row, calls are refused at once with a `Retry-After`;
 * when the time is over a single call tries, and its first chunk closes the breaker. Calls that the caller abandons count as
 * nothing.
 */
export class BreakerProvider implements Provider {
  readonly #inner: Provider;
  readonly #policy: CircuitBreakerPolicy;
  readonly #retryAfterS: number;

  constructor(inner: Provider, options: BreakerOptions = {}) {
    const openMs = options.openMs ?? 15_000;
    this.#inner = inner;
    this.#retryAfterS = Math.max(1, Math.ceil(openMs / 1000));
    this.#policy = circuitBreaker(handleWhen(isTripping), {
      halfOpenAfter: openMs,
      breaker: new ConsecutiveBreaker(options.failures ?? 5),
    });
  }

  get name(): string {
    return this.#inner.name;
  }

  get state(): 'closed' | 'open' | 'half_open' {
    if (this.#policy.state === CircuitState.Closed) return 'closed';
    return this.#policy.state === CircuitState.HalfOpen ? 'half_open' : 'open';
  }

  models(): string[] {
    return this.#inner.models();
  }

  async *stream(request: ChatRequest, signal: AbortSignal): AsyncIterable<ProviderChunk> {
    // A caller that waits for another's trial call would wait as long as a stalled upstream does.
    if (this.state === 'half_open') throw this.#refused();
    const trial = this.state === 'open';
    const verdict = await this.#enter();
    let ended = false;
    try {
      for await (const chunk of this.#inner.stream(request, signal)) {
        // A trial is decided by its first chunk; any other call by its end, so that answers which all break off open the breaker.
        if (trial) verdict.succeed();
        yield chunk;
      }
      ended = true;
      verdict.succeed();
    } catch (error) {
      ended = true;
      verdict.fail(error);
      throw error;
    } finally {
      if (!ended) verdict.fail(new Abandoned());
    }
  }

  /** Resolves once the policy lets the call in; the verdict is what the policy then waits for. */
  #enter(): Promise<Verdict> {
    return new Promise((resolve, reject) => {
      const run = () => new Promise<void>((succeed, fail) => resolve({ succeed, fail }));
      this.#policy.execute(run).catch((error: unknown) => {
        // The error of a call that was let in is thrown where the call is; here only the policy's own refusal counts.
        if (error instanceof BrokenCircuitError) reject(this.#refused());
      });
    });
  }

  #refused(): ProviderError {
    return new ProviderError('upstream', 'The provider has been failing; it is not asked for a while', {
      retryAfterS: this.#retryAfterS,
    });
  }
}

interface Verdict {
  succeed(): void;
  fail(error: unknown): void;
}

/** The consumer stopped reading: says nothing about the upstream. */
class Abandoned extends Error {}
