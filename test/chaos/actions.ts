import type { Random } from './random.js';
import { chosen, type Details, type Kind, type Step } from './script.js';

/** What is known of an agent: all of it was acknowledged. */
export interface AgentTruth {
  isolation: string;
  description: string | null;
  desired: 'running' | 'stopped';
  soul: string | null;
  /** A file of its workspace; undefined: not looked at. */
  note: string | null | undefined;
}

/** What is known of a user. */
export interface UserTruth {
  name: string;
  tier: string;
  /** Undefined: not known. */
  secret: string | null | undefined;
  agents: Record<string, AgentTruth>;
  /** Whether its events are sent to the receiver. */
  isHooked?: boolean;
}

export interface Call {
  method: string;
  /** Below /api/v1. */
  path: string;
  body?: unknown;
  /** A body that is no JSON. */
  text?: string;
  /** Whether only the installation's own key may do it. */
  admin?: boolean;
  /** Answers that say that it is not to be had now: nothing has changed then. */
  refusals?: readonly number[];
}

/** A call that users make: what it asks for, and what is true once it was acknowledged. */
export interface Action extends Kind {
  /** Undefined where there is nothing to ask for, as of an agent that is not there. */
  call(truth: UserTruth | undefined, about: About): Call | undefined;
  after(truth: UserTruth | undefined, about: About): UserTruth | undefined;
  /** What is wrong with an answer that says that it went well. */
  judge?(truth: UserTruth | undefined, about: About, body: unknown): string | undefined;
}

/** What the script chose, for one user. */
export interface About extends Details {
  user: number;
  /** Which agent, of the few names there are. */
  agent: string;
  /** A text that no other step of the run has, and that tells whose it is. */
  text: string;
  serial: number;
  /** What answers have said of the agent of that name; empty while nothing is known. */
  snapshot: string;
  deployment: string;
}

/** The newest of each. */
export type KnownIds = Pick<About, 'snapshot' | 'deployment'>;

const NONE: KnownIds = { snapshot: '', deployment: '' };

const AGENTS = ['a', 'b', 'c'];

/** Texts by whose they are: a tenant's in another's instance is found by it. */
export const MARKED = /~u(\d+)\.\d+~/g;

export function aboutOf(user: number, serial: number, details: Details, known = NONE): About {
  return { agent: '', ...details, ...known, user, serial, text: `~u${user}.${serial}~` };
}

const TRIES = 30;

/** A call that makes sense where the ones before it went well. */
export function callOf(
  random: Random,
  actions: Record<string, Action>,
  truth: UserTruth | undefined,
  user: number,
  before: readonly Step[],
): Step {
  const then = before.reduce((now, step) => actions[step.do]!.after(now, aboutOf(user, 0, step)), truth);
  for (let tries = 1; ; tries++) {
    const step = chosen(random, actions, 0);
    if (tries === TRIES || actions[step.do]!.call(then, aboutOf(user, 0, step))) return step;
  }
}

const agentOf = (random: Random): Details => ({ agent: random.pick(AGENTS) });

export function ofAgent(
  weight: number,
  call: (path: string, agent: AgentTruth, about: About) => Call | undefined,
  after: (agent: AgentTruth, about: About) => AgentTruth | undefined,
  judge?: (agent: AgentTruth, about: About, body: unknown) => string | undefined,
): Action {
  return {
    weight,
    choose: agentOf,
    call(truth, about) {
      const agent = truth?.agents[about.agent];
      return truth && agent && call(`/users/${truth.name}/agents/${about.agent}`, agent, about);
    },
    after(truth, about) {
      const agent = truth?.agents[about.agent];
      if (!truth || !agent) return truth;
      const { [about.agent]: _, ...others } = truth.agents;
      const changed = after(agent, about);
      return { ...truth, agents: changed === undefined ? others : { ...others, [about.agent]: changed } };
    },
    ...(judge
      ? {
          judge(truth, about, body) {
            const agent = truth?.agents[about.agent];
            return agent && judge(agent, about, body);
          },
        }
      : {}),
  };
}

/** To add a call to the simulation, add it here; a fact that it changes is compared in `truth.ts`. */
export const ACTIONS: Record<string, Action> = {
  register: {
    weight: 3,
    choose: (random) => ({ tier: random.pick(['pro', 'business']) }),
    call: (truth, { user, text, tier }) =>
      truth ? undefined : { method: 'POST', path: '/users', admin: true, body: { name: nameOf(user, text), tier } },
    after: (_, { user, text, tier }) => ({ name: nameOf(user, text), tier: String(tier), secret: null, agents: {} }),
  },
  leave: {
    weight: 0.7,
    call: (truth) => truth && { method: 'DELETE', path: `/users/${truth.name}`, admin: true },
    after: () => undefined,
  },
  change_tier: {
    weight: 1,
    choose: (random) => ({ tier: random.pick(['pro', 'business']) }),
    call: (truth, { tier }) => truth && { method: 'PUT', path: `/users/${truth.name}/tier`, admin: true, body: { tier } },
    after: (truth, { tier }) => truth && { ...truth, tier: String(tier) },
  },
  set_secret: {
    weight: 1.5,
    call: (truth, { text }) => truth && { method: 'PUT', path: `/users/${truth.name}/secrets`, body: { TOKEN: text } },
    after: (truth, { text }) => truth && { ...truth, secret: text },
  },
  make_agent: {
    weight: 8,
    choose: (random) => ({ ...agentOf(random), isolation: random.pick(['shared', 'shared', 'dedicated']) }),
    call: (truth, { agent, isolation }) =>
      truth && !truth.agents[agent]
        ? { method: 'POST', path: `/users/${truth.name}/agents`, body: { name: agent, isolation } }
        : undefined,
    after: (truth, { agent, isolation }) =>
      truth && {
        ...truth,
        agents: {
          ...truth.agents,
          [agent]: { isolation: String(isolation), description: null, desired: 'running', soul: null, note: null },
        },
      },
  },
  delete_agent: ofAgent(
    2,
    (path) => ({ method: 'DELETE', path }),
    () => undefined,
  ),
  stop_agent: ofAgent(
    1.5,
    (path) => ({ method: 'POST', path: `${path}/stop` }),
    (agent) => ({ ...agent, desired: 'stopped' }),
  ),
  start_agent: ofAgent(
    2,
    (path) => ({ method: 'POST', path: `${path}/start` }),
    (agent) => ({ ...agent, desired: 'running' }),
  ),
  describe_agent: ofAgent(
    2,
    (path, _, { text }) => ({ method: 'PUT', path, body: { description: text } }),
    (agent, { text }) => ({ ...agent, description: text }),
  ),
  write_soul: ofAgent(
    3,
    (path, _, { text }) => ({ method: 'PUT', path: `${path}/templates`, body: { 'SOUL.md': text } }),
    (agent, { text }) => ({ ...agent, soul: text }),
  ),
  read_agent: ofAgent(
    2,
    (path) => ({ method: 'GET', path }),
    (agent) => agent,
    ({ description }, _, body) =>
      (body as { description: string | null }).description === description ? undefined : 'an older agent was read',
  ),
  chat: ofAgent(
    4,
    (path, { desired }, { text }) =>
      desired === 'running'
        ? { method: 'POST', path: `${path}/chat`, body: { messages: [{ role: 'user', content: text }] } }
        : undefined,
    (agent) => agent,
    (_, { text }, body) =>
      (body as { message: string }).message === `You said: ${text}` ? undefined : 'another message was answered',
  ),
};

/** A file, which is in the instance's volume and nowhere else: for worlds whose instances have one. */
export const KEEP_NOTE = ofAgent(
  4,
  (path, _, { text }) => ({ method: 'PUT', path: `${path}/files/note.txt`, text }),
  (agent, { text }) => ({ ...agent, note: text }),
);

function nameOf(user: number, text: string): string {
  return `chaos${user}x${/\.(\d+)/.exec(text)?.[1]}`;
}
