import type { Asked, Became } from '../../http/audit.js';

/** One refusal, and how many like it have come since it was said. */
interface Tally {
  asked: Asked;
  became: Became;
  more: number;
}

export interface RefusalLimits {
  /** Kinds of refusal that are told apart in a minute, of one key and of all who have none. */
  ofKey: number;
  ofStrangers: number;
  /** Keys that are told apart. */
  keys: number;
}

const DEFAULT_LIMITS: RefusalLimits = { ofKey: 30, ofStrangers: 30, keys: 1_000 };

/**
 * Bounds what refusals can make of the audit. The first of a kind in a minute is said at once; those after it are counted and said together at its end.
 * Of one key, and of all strangers together, only so many kinds are told apart; the rest is one kind.
 */
export class Refusals {
  readonly #limits: RefusalLimits;
  #bySource = new Map<string, Map<string, Tally>>();

  constructor(limits: Partial<RefusalLimits> = {}) {
    this.#limits = { ...DEFAULT_LIMITS, ...limits };
  }

  /** Counts one; answers what is to be said now, if anything. */
  note(asked: Asked, became: Became, network: string): Asked | undefined {
    const source = this.#sourceOf(asked);
    const kinds = this.#bySource.get(source) ?? new Map<string, Tally>();
    this.#bySource.set(source, kinds);
    const kind = [asked.operation, became.code, asked.userId, network, asked.resource].join(' ');
    const known = kinds.get(kind) ?? kinds.get(restOf(became));
    if (known) {
      known.more += 1;
      return undefined;
    }
    const isRest = kinds.size >= (source === STRANGERS ? this.#limits.ofStrangers : this.#limits.ofKey);
    const said =
      source === OTHERS ? { ...withoutKind(asked), caller: undefined, userId: undefined } : isRest ? withoutKind(asked) : asked;
    kinds.set(isRest ? restOf(became) : kind, { asked: said, became, more: 0 });
    return said;
  }

  /** What was counted since, and a new minute. */
  take(): Tally[] {
    const all = [...this.#bySource.values()].flatMap((kinds) => [...kinds.values()]);
    this.#bySource = new Map();
    return all.filter(({ more }) => more > 0);
  }

  #sourceOf({ caller }: Asked): string {
    if (!caller) return STRANGERS;
    return this.#bySource.has(caller.keyId) || this.#bySource.size < this.#limits.keys ? caller.keyId : OTHERS;
  }
}

const STRANGERS = 'strangers';
const OTHERS = 'other keys';

const restOf = ({ code }: Became) => `all else ${code}`;

/** What refusals of many kinds have in common. */
function withoutKind(asked: Asked): Asked {
  const { caller } = asked;
  const userId = caller && 'userId' in caller ? caller.userId : undefined;
  return { ...asked, operation: '*', userId, resource: undefined, path: '', address: '', requestId: '' };
}
