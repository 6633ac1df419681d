import { integer, number, optional, text } from './checks.js';
import { invalid } from './errors.js';

/** Settings of the model, by their OpenAI names. */
export type Sampling = Record<string, unknown>;

const FIELDS: Record<string, (value: unknown, at: string) => unknown> = {
  temperature: (v, at) => number(v, at, 0, 2),
  top_p: (v, at) => number(v, at, 0, 1),
  frequency_penalty: (v, at) => number(v, at, -2, 2),
  presence_penalty: (v, at) => number(v, at, -2, 2),
  max_tokens: (v, at) => integer(v, at, 1, Number.MAX_SAFE_INTEGER),
  max_completion_tokens: (v, at) => integer(v, at, 1, Number.MAX_SAFE_INTEGER),
  seed: (v, at) => integer(v, at, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
  stop: parseStop,
};

/** The settings among the fields of `given`, checked. `prefix` goes before a field's name in what is said of a wrong one. */
export function parseSampling(given: Record<string, unknown>, prefix = ''): Sampling {
  const sampling: Sampling = {};
  for (const [name, check] of Object.entries(FIELDS)) {
    const value = optional(given[name], (v) => check(v, `${prefix}${name}`));
    if (value !== undefined) sampling[name] = value;
  }
  return sampling;
}

/** The agent's settings under those of a request. A bound on the answer has two names: the request's, whichever it used, stands alone. */
export function mergeSampling(agent: Sampling, request: Sampling): Sampling {
  const merged = { ...agent, ...request };
  if (request['max_completion_tokens'] !== undefined && request['max_tokens'] === undefined) delete merged['max_tokens'];
  if (request['max_tokens'] !== undefined && request['max_completion_tokens'] === undefined)
    delete merged['max_completion_tokens'];
  return merged;
}

function parseStop(value: unknown, at: string): unknown {
  const all = Array.isArray(value) ? value : [value];
  if (all.length > 4) throw invalid(`${at}: at most 4`);
  for (const item of all) text(item, at, 256);
  return value;
}
