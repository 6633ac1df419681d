import type { AgentTruth, UserTruth } from './actions.js';

/** What each user's calls have made true. Where a call got no answer, it is one of two things until the users are read again. */
export class Truth {
  readonly #known = new Map<number, UserTruth | undefined>();
  readonly #doubts = new Map<number, UserTruth | undefined>();

  of(user: number): UserTruth | undefined {
    return this.#known.get(user);
  }

  /** Users whose last call got no answer: their clients wait until it is known what became of it. */
  isInDoubt(user: number): boolean {
    return this.#doubts.has(user);
  }

  acknowledged(user: number, after: UserTruth | undefined): void {
    this.#known.set(user, after);
  }

  unanswered(user: number, after: UserTruth | undefined): void {
    this.#doubts.set(user, after);
  }

  /** What may be found of a user: one thing, or two where its last call got no answer. */
  possible(user: number): (UserTruth | undefined)[] {
    const known = this.#known.get(user);
    return this.#doubts.has(user) ? [known, this.#doubts.get(user)] : [known];
  }

  /** What was found is what is true from now on. */
  settle(user: number, found: UserTruth | undefined): void {
    this.#known.set(user, found);
    this.#doubts.delete(user);
  }
}

/** What differs between what must be and what was found, in words; undefined where nothing does. */
export function difference(wanted: UserTruth | undefined, found: UserTruth | undefined): string | undefined {
  if (!wanted || !found) return wanted === found ? undefined : wanted ? 'is gone' : 'is there';
  const facts = ['name', 'tier', 'secret'] as const;
  // No API answers a secret: where no instance was told it, it is not known.
  const differs = facts.find((fact) => wanted[fact] !== found[fact] && found[fact] !== undefined);
  if (differs) return `${differs} is ${found[differs]}, not ${wanted[differs]}`;
  const names = [...new Set([...Object.keys(wanted.agents), ...Object.keys(found.agents)])].toSorted();
  for (const name of names) {
    const why = agentDifference(wanted.agents[name], found.agents[name]);
    if (why) return `agent ${name}: ${why}`;
  }
  return undefined;
}

function agentDifference(wanted: AgentTruth | undefined, found: AgentTruth | undefined): string | undefined {
  if (!wanted || !found) return wanted === found ? undefined : wanted ? 'is gone' : 'is there';
  const facts = ['isolation', 'description', 'desired', 'soul', 'note'] as const;
  const differs = facts.find((fact) => wanted[fact] !== found[fact] && found[fact] !== undefined);
  return differs && `${differs} is ${found[differs]}, not ${wanted[differs]}`;
}
