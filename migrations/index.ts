import type { Migration } from 'kysely';
import * as spine from './0001_spine.js';

/** Every migration in its order. One that has landed is never edited. */
export const migrations: Record<string, Migration> = {
  '0001_spine': spine,
};
