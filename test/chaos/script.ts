import type { Random } from './random.js';

/** A kind of thing that can happen. What it is about is chosen when the script is written, as plain data. */
export interface Kind {
  /** How often it is chosen, against the others. */
  weight: number;
  choose?(random: Random): Details;
}

export type Details = Record<string, string | number | boolean>;

export interface Step extends Details {
  do: string;
  /** After the step before it of the same client; of a fault, after the beginning of the round. */
  afterMs: number;
}

/** What one user does, one call after the other. */
export interface Client {
  user: number;
  calls: Step[];
}

export interface Round {
  clients: Client[];
  faults: Step[];
  /** When all that is broken is mended again. */
  healAtMs: number;
}

export interface Shape {
  users: number;
  /** Writes the next call of a user, given those before it in the round. */
  callOf(random: Random, user: number, before: readonly Step[]): Step;
  faults: Record<string, Kind>;
  /** How long a round lasts before it is mended, from and to. */
  lastsMs: [number, number];
}

/** Writes the next round: pure, so that a seed is a script. */
export function writeRound(random: Random, { users, callOf, faults, lastsMs }: Shape): Round {
  const healAtMs = random.between(...lastsMs);
  return {
    healAtMs,
    clients: Array.from({ length: users }, (_, user) => {
      const calls: Step[] = [];
      for (let left = random.between(2, 8); left > 0; left--)
        calls.push({ ...callOf(random, user, calls), afterMs: random.between(0, Math.ceil(healAtMs / 6)) });
      return { user, calls };
    }),
    faults: Array.from({ length: random.between(1, 5) }, () => chosen(random, faults, healAtMs)).toSorted(
      (a, b) => a.afterMs - b.afterMs,
    ),
  };
}

/** One of these kinds, with what it is about. */
export function chosen(random: Random, kinds: Record<string, Kind>, withinMs: number): Step {
  const all = Object.entries(kinds).map(([name, kind]) => ({ name, kind, weight: kind.weight }));
  const { name, kind } = random.weighted(all);
  return { do: name, afterMs: random.between(0, withinMs), ...kind.choose?.(random) };
}

/** A round as the log of a run has it. */
export function told({ clients, faults, healAtMs }: Round): string {
  const step = ({ do: name, afterMs, ...details }: Step) =>
    `${name}+${afterMs}${Object.entries(details)
      .map(([key, value]) => ` ${key}=${value}`)
      .join('')}`;
  return [
    ...clients.map(({ user, calls }) => `  user ${user}: ${calls.map(step).join('; ')}`),
    `  faults: ${faults.map(step).join('; ')}; mended at ${healAtMs}`,
  ].join('\n');
}
