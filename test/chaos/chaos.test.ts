import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ACTIONS, callOf } from './actions.js';
import { FakeWorld } from './fake-world.js';
import { Random } from './random.js';
import { RealWorld } from './real-world.js';
import { type Shape, told, writeRound } from './script.js';
import { Simulation, type SimulationOptions } from './simulation.js';
import type { World } from './world.js';

/** Set by `npm run chaos`. */
const seed = Number(process.env.CHAOS_SEED ?? 1);
const minutes = Number(process.env.CHAOS_MINUTES ?? 0);
/** Whether containers, engine and processes are to be real ones: minutes of work each, and no part of `npm test`. */
const isReal = process.env.CHAOS_REAL === '1';
const ROUNDS = 4;
const say = (line: string) => {
  if (process.env.CHAOS_SAY) process.stdout.write(`${line}\n`);
};

describe('a simulation of faults', () => {
  let world: World;
  beforeAll(async () => {
    world = isReal ? await RealWorld.open(process.env.AGENT_IMAGE ?? 'berth-agent:latest') : await FakeWorld.open();
  }, 600_000);
  afterAll(() => world.close());

  test(
    'ends every round with all that was acknowledged, and nothing else',
    async () => {
      const pace: Pick<SimulationOptions, 'users' | 'lastsMs' | 'convergeWithinMs'> = isReal
        ? { users: 3, lastsMs: [2_000, 15_000], convergeWithinMs: 300_000 }
        : { users: 4, lastsMs: [200, 1_500], convergeWithinMs: 60_000 };
      const simulation = new Simulation(world, { seed, say, ...pace });
      const end = performance.now() + minutes * 60_000;
      do await simulation.round();
      while (minutes > 0 ? performance.now() < end : simulation.tally.rounds < ROUNDS);
      say(JSON.stringify(simulation.tally));
      expect(simulation.tally.acknowledged).toBeGreaterThan(simulation.tally.rounds);
      expect(simulation.tally.faults).toBeGreaterThanOrEqual(simulation.tally.rounds);
    },
    minutes * 60_000 + 600_000,
  );
});

describe('the simulation itself', () => {
  const shape: Shape = {
    users: 3,
    callOf: (random, user, before) => callOf(random, ACTIONS, undefined, user, before),
    faults: { kill: { weight: 1 }, freeze: { weight: 1, choose: (random) => ({ process: random.between(0, 1) }) } },
    lastsMs: [100, 200],
  };
  const rounds = (from: number) => {
    const random = new Random(from);
    return [1, 2, 3].map(() => told(writeRound(random, shape)));
  };

  test('writes the same script from the same seed, and another from another', () => {
    expect(rounds(7)).toEqual(rounds(7));
    expect(rounds(7)).not.toEqual(rounds(8));
  });
});
