import { AppError } from '../../lib/errors.js';
import type { Layers } from './layers.js';
import { render } from './render.js';
import type { VariablesAnswer, WriteVariables } from './templates.schema.js';

const MOST_VARIABLES = 100;

/** The variables as they would be; `limit_exceeded` where they would be too many. */
export function merged(variables: Record<string, string>, wish: WriteVariables): Record<string, string> {
  const all = new Map(Object.entries(variables));
  for (const [name, value] of Object.entries(wish)) {
    if (value === null) all.delete(name);
    else all.set(name, value);
  }
  if (all.size <= MOST_VARIABLES) return Object.fromEntries(all);
  throw new AppError('limit_exceeded', `a user may have ${MOST_VARIABLES} variables; these would be ${all.size}`);
}

/** The variables, with what templates ask for and do not get. */
export function variablesAnswer(layers: Layers, { version, at }: { version: number; at: Date | null }): VariablesAnswer {
  const values = layers.values({ id: '', name: '' });
  const unknown = new Set(layers.written().flatMap((text) => render(text, values).unknown));
  return {
    variables: layers.owner.variables,
    version,
    updated_at: at?.toISOString() ?? null,
    unknown_variables: [...unknown],
  };
}
