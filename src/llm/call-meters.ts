import type { Meters } from '../lib/meters.js';
import type { UsageOutcome } from './ports.js';

/** What calls to providers count. */
export interface CallMeters {
  firstChunk(provider: string, seconds: number): void;
  ended(provider: string, outcome: UsageOutcome, seconds: number): void;
}

export function callMeters(meters: Meters, active: () => number): CallMeters {
  const first = meters.histogram({
    name: 'berth_llm_first_chunk_seconds',
    help: 'From a provider being asked to the first piece of its answer.',
    labels: ['provider'],
  });
  const whole = meters.histogram({
    name: 'berth_llm_call_duration_seconds',
    help: 'From a provider being asked to the end of its answer.',
    labels: ['provider', 'status'],
  });
  const tokens = meters.counter({
    name: 'berth_llm_tokens_total',
    help: 'Tokens, as they are metered.',
    labels: ['provider', 'kind'],
  });
  meters.gauge({ name: 'berth_llm_calls_in_flight', help: 'Calls to providers that have not ended.' }, () => [
    { labels: {}, value: active() },
  ]);
  return {
    firstChunk: (provider, seconds) => first({ provider }, seconds),
    ended(provider, { status, usage }, seconds) {
      whole({ provider, status }, seconds);
      tokens({ provider, kind: 'prompt' }, usage.promptTokens);
      tokens({ provider, kind: 'completion' }, usage.completionTokens);
    },
  };
}
