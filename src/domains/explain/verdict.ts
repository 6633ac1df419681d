import type { ExplainAnswer, Verdict } from './explain.schema.js';
import type { Standing } from './explain.store.js';
import type { Notice } from '../deployments/deployments.js';
import type { Sight } from './sight.js';

/** All that a verdict rests on. */
export interface Situation {
  standing: Standing;
  sight: Sight;
  /** Whether this process reaches the gateway. */
  linked: boolean;
  /** Why no provider serves the model; undefined where one does. */
  modelRefused: string | undefined;
  lastTurn: ExplainAnswer['last_turn'];
  memoryLimitMib: number;
  /** What its limits do to it. */
  notices: Notice[];
}

interface Finding {
  verdict: Verdict;
  code: string;
  text: string;
  /** What the caller can do about it. */
  youCan?: string[];
  /** What Berth does about it. */
  next?: ExplainAnswer['next'];
}

export type Explained = Pick<ExplainAnswer, 'verdict' | 'summary' | 'reasons' | 'next' | 'you_can'>;

/** Where memory is so full, work is slow and an end by the kernel near. */
const MEMORY_TIGHT = 0.9;
const FIRST_WAKE = 'POST …/start or any chat wakes it at once';

/** The verdict with its words: pure, so that every case is a row of a test's table. The first finding decides. */
export function explain(situation: Situation): Explained {
  const findings = [...FINDERS.flatMap((find) => find(situation) ?? []), ...situation.notices.flatMap(noticed)];
  const first = findings[0];
  const verdict = first?.verdict ?? 'ok';
  const { name } = situation.standing;
  const summary = first ? `Agent ${name} ${WORDS[verdict]}: ${first.text}.` : `Agent ${name} runs and can be talked to.`;
  const next = findings.flatMap((finding) => finding.next ?? []);
  return {
    verdict,
    summary,
    reasons: findings.map(({ code, text }) => ({ code, text })),
    next: next.length > 0 ? next : whenIdle(situation.standing),
    you_can: [...new Set(findings.flatMap((finding) => finding.youCan ?? []))],
  };
}

const WORDS: Record<Verdict, string> = {
  ok: 'runs',
  waiting: 'is on its way',
  asleep: 'sleeps',
  stopped: 'is stopped',
  failing: 'fails',
  refusing: 'refuses turns',
};

/** In the order of their weight. */
const FINDERS: ((situation: Situation) => Finding | undefined)[] = [
  stopped,
  overBudget,
  withoutModel,
  overfull,
  failing,
  moving,
  resting,
  queued,
  onItsWay,
  notThere,
  noEngine,
  noted,
  lastTurnFailed,
  memoryTight,
];

function stopped({ standing: { desired } }: Situation): Finding | undefined {
  if (desired !== 'stopped') return undefined;
  return {
    verdict: 'stopped',
    code: 'stopped',
    text: 'its user stopped it, and no turn of it runs; its files are within reach',
    youCan: ['start it with POST …/start'],
    next: [{ what: 'nothing, until it is started', at: null }],
  };
}

function overBudget({ standing: { tokens_per_month: limit, tokens, tier, next_month } }: Situation): Finding | undefined {
  if (limit === null || Number(tokens ?? 0) < Number(limit)) return undefined;
  return {
    verdict: 'refusing',
    code: 'budget_used_up',
    text: `the ${limit} tokens a month of tier ${tier} are used up`,
    youCan: ['wait for the next month, or have an admin give the user a larger tier'],
    next: [{ what: 'serves turns again with the tokens of the next month', at: next_month.toISOString() }],
  };
}

/** No turn runs while its volume holds more than it may and nothing but this keeps it from more. */
function overfull({ notices }: Situation): Finding | undefined {
  const notice = notices.find(({ code }) => code === 'disk_over_bound');
  if (!notice) return undefined;
  const next = [{ what: 'lets turns run again within seconds of there being room', at: null }];
  return { verdict: 'refusing', ...notice, next };
}

/** What makes it slow, or may end it, while it is served. */
function noticed({ code, text, youCan }: Notice): Finding[] {
  return code === 'disk_over_bound' ? [] : [{ verdict: 'ok', code, text: `it is served, but ${text}`, youCan }];
}

function withoutModel({ modelRefused, standing: { model } }: Situation): Finding | undefined {
  if (modelRefused === undefined) return undefined;
  return {
    verdict: 'refusing',
    code: 'model_not_served',
    text: `its model ${model} is served by no provider of this installation (${modelRefused})`,
    youCan: ['give it another model, or have an admin configure the provider'],
  };
}

function failing({ standing: { state, reason, attempts, due_at } }: Situation): Finding | undefined {
  if (state !== 'failing') return undefined;
  const isMemory = reason?.includes('ran out of memory') ?? false;
  return {
    verdict: 'failing',
    code: isMemory ? 'out_of_memory' : 'container_failing',
    text: `${reason ?? 'its container does not come up'} (failure ${attempts} in a row)`,
    youCan: isMemory
      ? ['let it do less at once, or give it more memory: resources in its config, or a larger tier']
      : ['look at log, last_failure and events; if the cause is not the agent’s own, tell the operator'],
    next: [{ what: 'tries again, each time after a longer pause', at: due_at?.toISOString() ?? null }],
  };
}

function moving({ standing: { moving_from } }: Situation): Finding | undefined {
  if (moving_from === null) return undefined;
  return {
    verdict: 'waiting',
    code: 'moving',
    text: 'its files are being moved to a container of its own',
    youCan: ['wait: a chat sent now is answered when it is there'],
    next: [{ what: 'ends the move, then serves it from there', at: null }],
  };
}

function resting({ standing: { state, rest, desired, idle_at } }: Situation): Finding | undefined {
  if (desired === 'stopped' || (state !== 'asleep' && rest === null)) return undefined;
  const paused = rest === 'paused';
  return {
    verdict: 'asleep',
    code: paused ? 'paused' : 'asleep',
    text: `nobody used it for a while, and its container is ${paused ? 'paused, its memory kept' : 'stopped'}; the next use wakes it`,
    youCan: [FIRST_WAKE],
    next: [
      { what: 'wakes it at the next chat, file call or heartbeat', at: null },
      ...(paused && idle_at ? [{ what: 'stops it unless it is used before', at: idle_at.toISOString() }] : []),
    ],
  };
}

const STAGE_WORDS: Record<Standing['stage'], string> = {
  queued: 'its container waits to be made',
  creating: 'its container is being made',
  starting: 'its container is starting',
  connecting: 'its container is connecting',
  configuring: 'its configuration is being applied',
  ready: 'its configuration is being applied',
};

function queued({ standing: { position, queued_at, reason, desired } }: Situation): Finding | undefined {
  if (position === null || queued_at === null || desired === 'stopped') return undefined;
  return {
    verdict: 'waiting',
    code: 'queued',
    text: `it is queued, position ${position}, since ${queued_at.toISOString()}: ${reason ?? 'it waits for room on the host'}`,
    youCan: ['wait: users take turns, and a chat sent now is answered when it has started', 'stop agents that you do not need'],
    next: [{ what: 'starts it when it is its turn and the host has room', at: null }],
  };
}

function onItsWay({ standing }: Situation): Finding | undefined {
  const { desired, state, stage, reason, rest, applied_version, wanted_version, due_at } = standing;
  const behind = (applied_version ?? 0) < wanted_version;
  if (desired === 'stopped' || rest !== null || state === 'failing' || state === 'asleep') return undefined;
  if (standing.queued_at !== null) return undefined;
  if (state === 'ready' && !behind) return undefined;
  return {
    verdict: 'waiting',
    code: state === 'ready' ? 'configuring' : stage,
    text: `${STAGE_WORDS[stage]}${reason === null ? '' : ` (${reason})`}`,
    youCan: ['wait: a chat sent now is answered when it is ready; deploy/status shows how far it is'],
    next: [{ what: 'goes on with it', at: due_at?.toISOString() ?? null }],
  };
}

/** The database says that it is ready, and the world says otherwise. */
function notThere({ standing, sight, linked }: Situation): Finding | undefined {
  if (standing.state !== 'ready' || standing.rest !== null || standing.instance_id === null) return undefined;
  const { observed } = sight;
  const next = [{ what: 'sees it and puts it right', at: standing.due_at?.toISOString() ?? null }];
  const youCan = ['wait a moment and ask again'];
  if (sight.answers && observed?.state !== 'running') {
    const state = observed ? `it is ${observed.state} and should run` : 'the engine has none of it';
    return { verdict: 'waiting', code: 'container_lost', text: `something is wrong with its container: ${state}`, youCan, next };
  }
  if (linked) return undefined;
  return { verdict: 'waiting', code: 'not_linked', text: 'its gateway is not connected at the moment', youCan, next };
}

function noEngine({ sight }: Situation): Finding | undefined {
  if (sight.answers) return undefined;
  return {
    verdict: 'ok',
    code: 'engine_away',
    text: `it is served, but the container engine does not answer (${sight.detail ?? 'no reason given'}), so that nothing can be made, woken or measured`,
    youCan: ['tell the operator if it lasts'],
    next: [{ what: 'goes on as soon as the engine answers', at: null }],
  };
}

/** It runs, and something is noted of it: a link that was cut for abuse, a replacement that was undone. */
function noted({ standing: { state, reason } }: Situation): Finding | undefined {
  if (state !== 'ready' || reason === null) return undefined;
  return { verdict: 'ok', code: 'noted', text: `it is served, and Berth has noted of it: ${reason}` };
}

function lastTurnFailed({ lastTurn }: Situation): Finding | undefined {
  if (lastTurn?.status !== 'failed') return undefined;
  return {
    verdict: 'ok',
    code: 'last_turn_failed',
    text: `it can be talked to, but its last turn failed: ${lastTurn.error ?? 'no reason is known'}`,
    youCan: ['send the message again; if it fails again, look at the error of the turn'],
  };
}

function memoryTight({ sight, memoryLimitMib }: Situation): Finding | undefined {
  const used = (sight.stats?.memoryBytes ?? 0) / (memoryLimitMib * 1024 * 1024);
  if (used < MEMORY_TIGHT) return undefined;
  return {
    verdict: 'ok',
    code: 'memory_tight',
    text: `its container uses ${Math.round(used * 100)} % of its memory, which makes it slow and may end it`,
    youCan: ['let it do less at once, or give it more memory'],
  };
}

/** What Berth does with one that runs and is not used. */
function whenIdle({ idle_at, files_until }: Standing): ExplainAnswer['next'] {
  if (files_until && files_until.getTime() > Date.now())
    return [{ what: 'puts it to sleep again', at: files_until.toISOString() }];
  if (idle_at) return [{ what: 'pauses it unless it is used before, or works then', at: idle_at.toISOString() }];
  return [{ what: 'keeps it running', at: null }];
}
