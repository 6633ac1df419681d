import { type Action, type Call, ofAgent } from './actions.js';

/** What can be in the way of an agent's state, or be so already: nothing has changed then. */
const IN_THE_WAY = [404, 409];

/** Calls whose work goes on after their answer. Each must come to its end, and change nothing that other calls have made true. */
export const LIFECYCLE: Record<string, Action> = {
  take_snapshot: ofAgent(
    3,
    (path) => ({ method: 'POST', path: `${path}/snapshots`, body: {}, refusals: IN_THE_WAY }),
    (agent) => agent,
  ),
  restore: ofAgent(
    3,
    (path, _, { snapshot }) => needing(snapshot, (id) => ({ method: 'POST', path: `${path}/snapshots/${id}/restore`, body: {} })),
    (agent) => agent,
  ),
  duplicate: {
    weight: 2,
    choose: (random) => ({ agent: random.pick(['a', 'b']), other: 'c' }),
    call: (truth, { agent, other }) =>
      truth?.agents[agent] && !truth.agents[String(other)]
        ? { method: 'POST', path: `/users/${truth.name}/agents/${agent}/duplicate`, body: { name: other }, refusals: IN_THE_WAY }
        : undefined,
    after(truth, { agent, other }) {
      const from = truth?.agents[agent];
      if (!truth || !from) return truth;
      return { ...truth, agents: { ...truth.agents, [String(other)]: { ...from, desired: 'running' } } };
    },
  },
  own_container: ofAgent(
    2,
    (path, { isolation }) =>
      isolation === 'shared'
        ? { method: 'PATCH', path: `${path}/config`, body: { isolation: 'dedicated' }, refusals: [409] }
        : undefined,
    (agent) => ({ ...agent, isolation: 'dedicated' }),
  ),
  configure: ofAgent(
    2,
    (path, _, { serial }) => ({ method: 'PATCH', path: `${path}/config`, body: { max_steps: 1 + (serial % 40) } }),
    (agent) => agent,
  ),
  roll_back: ofAgent(
    2,
    (path, _, { deployment }) =>
      needing(deployment, (id) => ({
        method: 'POST',
        path: `${path.split('/agents/')[0]}/deployments/${id}/revisions/1/rollback`,
      })),
    (agent) => agent,
  ),
  write_heartbeat: ofAgent(
    1,
    (path, _, { text }) => ({ method: 'PUT', path: `${path}/templates`, body: { 'HEARTBEAT.md': `- ${text}` } }),
    (agent) => agent,
  ),
  beat: ofAgent(
    2,
    (path) => ({ method: 'POST', path: `${path}/heartbeats`, refusals: [409, 429] }),
    (agent) => agent,
  ),
};

/** Has every event of the user sent to the receiver, once. */
export function hooking(urlOf: (name: string) => string): Action {
  return {
    weight: 2,
    call: (truth) =>
      truth && !truth.isHooked
        ? { method: 'POST', path: `/users/${truth.name}/webhooks`, body: { url: urlOf(truth.name), events: ['*'] } }
        : undefined,
    after: (truth) => truth && { ...truth, isHooked: true },
  };
}

/** What is asked for by an id that an answer had; the script is written before there is one. */
function needing(id: string, call: (id: string) => Call): Call {
  return { ...call(id === '' ? 'unknown' : id), refusals: IN_THE_WAY };
}
