import { setTimeout as sleep } from 'node:timers/promises';
import { aboutOf, type Call, callOf, type KnownIds, type UserTruth } from './actions.js';
import { complaints, readUser, strayTexts, toldSecret, unbornAgents } from './invariants.js';
import { brokenLeases } from './lease-watch.js';
import { Random } from './random.js';
import { type Client, type Round, type Step, told, writeRound } from './script.js';
import { difference, Truth } from './truth.js';
import type { Reply, World } from './world.js';

export interface SimulationOptions {
  seed: number;
  users: number;
  /** How long a round lasts before it is mended, from and to. */
  lastsMs: [number, number];
  /** How long it may take until everything is as it must be. */
  convergeWithinMs: number;
  say(line: string): void;
}

/** What a run saw, so that one that did nothing is not taken for one that went well. */
export interface Tally {
  rounds: number;
  acknowledged: number;
  unanswered: number;
  refused: number;
  faults: number;
  longestMs: number;
}

/** Rounds of calls and faults, each of which must end in a world where everything that was acknowledged is true, and nothing else is. */
export class Simulation {
  readonly #world: World;
  readonly #options: SimulationOptions;
  readonly #random: Random;
  readonly #truth = new Truth();
  readonly #keys = new Map<string, string>();
  readonly #ids = new Map<string, number>();
  /** By user and agent's name. */
  readonly #known = new Map<string, KnownIds>();
  readonly #wrong: string[] = [];
  readonly tally: Tally = { rounds: 0, acknowledged: 0, unanswered: 0, refused: 0, faults: 0, longestMs: 0 };
  #serial = 0;

  constructor(world: World, options: SimulationOptions) {
    this.#world = world;
    this.#options = options;
    this.#random = new Random(options.seed);
  }

  /** One round; throws what is wrong after it, with all that it takes to have it again. */
  async round(): Promise<void> {
    const { users, lastsMs, say, seed } = this.#options;
    const round = writeRound(this.#random, {
      users,
      lastsMs,
      callOf: (random, user, before) => callOf(random, this.#world.actions, this.#truth.of(user), user, before),
      faults: this.#world.faults,
    });
    const number = ++this.tally.rounds;
    say(`seed ${seed}, round ${number}\n${told(round)}`);
    try {
      for (const [phase, run] of Object.entries({
        play: () => this.#play(round),
        converge: () => this.#converge(),
        compare: () => this.#compare(),
        talk: () => this.#talk(),
      })) {
        const began = performance.now();
        await run();
        say(`  ${phase}: ${Math.round(performance.now() - began)} ms`);
      }
    } catch (error) {
      throw new Error(
        `seed ${seed}, round ${number}: ${error instanceof Error ? error.message : String(error)}\n${told(round)}`,
        {
          cause: error,
        },
      );
    }
  }

  async #play({ clients, faults, healAtMs }: Round): Promise<void> {
    const playing = Promise.all(clients.map((client) => this.#playClient(client)));
    const began = performance.now();
    for (const fault of faults) {
      await sleep(Math.max(0, began + fault.afterMs - performance.now()));
      await this.#world.faults[fault.do]!.strike(fault);
      this.tally.faults++;
    }
    await sleep(Math.max(0, began + healAtMs - performance.now()));
    await this.#world.heal();
    await playing;
  }

  async #playClient({ user, calls }: Client): Promise<void> {
    for (const call of calls) {
      await sleep(call.afterMs);
      if (this.#truth.isInDoubt(user)) return;
      await this.#playCall(user, call);
    }
  }

  async #playCall(user: number, step: Step): Promise<void> {
    const action = this.#world.actions[step.do]!;
    const truth = this.#truth.of(user);
    const place = `${truth?.name}/${String(step['agent'])}`;
    const about = aboutOf(user, ++this.#serial, step, this.#known.get(place));
    const call = action.call(truth, about);
    if (!call) return;
    const after = action.after(truth, about);
    const reply = await this.#askAny(call, call.admin ? undefined : truth?.name);
    if (reply === 'not sent') return;
    if (reply === 'lost' || reply.status >= 500) {
      this.tally.unanswered++;
      return this.#truth.unanswered(user, after);
    }
    const said = `user ${user}: ${call.method} ${call.path} answered ${reply.status} ${JSON.stringify(reply.body)}`;
    if (call.refusals?.includes(reply.status)) return void this.tally.refused++;
    if (reply.status >= 300) return void this.#wrong.push(said);
    this.tally.acknowledged++;
    this.#truth.acknowledged(user, after);
    const why = action.judge?.(truth, about, reply.body);
    if (why) this.#wrong.push(`${said}: ${why}`);
    this.#learn(place, step.do, reply.body);
    const { api_key: key, id } = reply.body as { api_key?: string; id?: string };
    if (step.do !== 'register' || !after || key === undefined || id === undefined) return;
    this.#keys.set(after.name, key);
    this.#ids.set(id, user);
  }

  /** What later calls ask for by its id. */
  #learn(place: string, what: string, body: unknown): void {
    const { id, deployment_id: deployment } = (body ?? {}) as { id?: string; deployment_id?: string };
    const known = this.#known.get(place) ?? { snapshot: '', deployment: '' };
    if (what === 'take_snapshot' && id !== undefined) this.#known.set(place, { ...known, snapshot: id });
    else if (deployment !== undefined) this.#known.set(place, { ...known, deployment });
  }

  /** By one of the processes that run; none may. */
  async #askAny(call: Call, as: string | undefined): Promise<Reply | 'lost' | 'not sent'> {
    const world = this.#world;
    const up = Array.from({ length: world.processes }, (_, i) => i).filter((process) => world.isUp(process));
    if (up.length === 0) return 'not sent';
    const process = up[this.#serial % up.length]!;
    const key = (as === undefined ? undefined : this.#keys.get(as)) ?? world.adminKey;
    return world.ask(process, { ...call, path: `/api/v1${call.path}`, key }).catch(() => 'lost' as const);
  }

  async #converge(): Promise<void> {
    const began = performance.now();
    for (;;) {
      const left = await complaints(this.#world);
      const tookMs = performance.now() - began;
      if (left.length === 0) this.tally.longestMs = Math.max(this.tally.longestMs, tookMs);
      if (left.length === 0) return;
      if (tookMs > this.#options.convergeWithinMs)
        throw new Error(`not converged after ${Math.round(tookMs)} ms:\n${left.join('\n')}`);
      await sleep(50);
    }
  }

  /** All that was acknowledged is there, by whichever process one asks. */
  async #compare(): Promise<void> {
    for (let user = 0; user < this.#options.users; user++) await this.#compareUser(user);
    const lost = [...(await strayTexts(this.#world, (id) => this.#ids.get(id))), ...(await brokenLeases(this.#world.db))];
    const wrong = [...this.#wrong.splice(0), ...lost];
    if (wrong.length > 0) throw new Error(wrong.join('\n'));
  }

  async #compareUser(user: number): Promise<void> {
    const possible = this.#truth.possible(user);
    const name = possible.find((one) => one !== undefined)?.name;
    if (name === undefined) return;
    let settled: UserTruth | undefined;
    for (let process = 0; process < this.#world.processes; process++) {
      const ask = (path: string) =>
        this.#world.ask(process, { method: 'GET', path: `/api/v1${path}`, key: this.#world.adminKey });
      const read = await readUser(ask, name, 'keep_note' in this.#world.actions);
      if (read) this.#ids.set(read.id, user);
      const found = read && { ...read.found, secret: await toldSecret(this.#world, read.id) };
      const differences = possible.map((one) => difference(one, found));
      const fits = differences.indexOf(undefined);
      if (fits < 0) throw new Error(`user ${user} (${name}) at process ${process}: ${differences.join(', or ')}`);
      settled = possible[fits];
    }
    this.#truth.settle(user, settled);
  }

  /** Every agent that is to run answers, by its own words. */
  async #talk(): Promise<void> {
    for (let user = 0; user < this.#options.users; user++) {
      const truth = this.#truth.of(user);
      const unborn = truth ? await unbornAgents(this.#world.db, truth.name) : new Set();
      for (const [agent, { desired }] of Object.entries(truth?.agents ?? {})) {
        if (desired === 'running' && !unborn.has(agent)) await this.#talkTo(`/users/${truth!.name}/agents/${agent}`);
      }
    }
  }

  async #talkTo(path: string): Promise<void> {
    const process = ++this.#serial % this.#world.processes;
    const body = { messages: [{ role: 'user', content: 'still there?' }] };
    const call = { method: 'POST', path: `/api/v1${path}/chat`, body, key: this.#world.adminKey };
    const { status, body: answer } = await this.#world.ask(process, call);
    if (status !== 200) throw new Error(`${path} at process ${process} answered ${status} ${JSON.stringify(answer)}`);
  }
}
