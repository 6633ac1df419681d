import { sql } from 'kysely';
import { MARKED, type UserTruth } from './actions.js';
import type { World } from './world.js';

/** What is not yet as it must be when nothing is broken and nobody asks for anything. None: all has converged. */
export async function complaints(world: World): Promise<string[]> {
  const sight = await look(world);
  return [
    ...sight.deployments.flatMap((deployment) => ofDeployment(world, sight, deployment)),
    ...ofLeftovers(sight),
    ...(await ofOpenWork(world)),
    ...(await ofSnapshots(world)),
    ...(await ofWebhooks(world)),
  ];
}

type Sight = Awaited<ReturnType<typeof look>>;
type Deployment = Sight['deployments'][number];

async function look(world: World) {
  const { db } = world;
  const { instances: containers, volumes } = await world.observe();
  const folders = await world.folders();
  const deployments = await db
    .selectFrom('deployments')
    .selectAll()
    .select(sql<boolean>`coalesce(files_until > now(), false)`.as('is_up_for_files'))
    .execute();
  const live = await db.selectFrom('instances').selectAll().where('ended_at', 'is', null).execute();
  const agents = await db
    .selectFrom('agents')
    .select(['id', 'name', 'user_id', 'deployment_id', 'desired', 'arriving'])
    .execute();
  const users = await db.selectFrom('users').select(['id', 'name', 'deleting_at']).execute();
  return { containers, volumes, folders, deployments, live, agents, users };
}

/** Desired = actual, one instance each, and it knows its own agents. */
function ofDeployment(world: World, sight: Sight, deployment: Deployment): string[] {
  const { id, desired, state, rest } = deployment;
  const rows = sight.live.filter((one) => one.deployment_id === id);
  const containers = sight.containers.filter((one) => one.deploymentId === id);
  const say = (what: string) => `${id} (${desired}, ${state}${deployment.reason ? `: ${deployment.reason}` : ''}): ${what}`;
  if (desired === 'deleted') return [say('is not gone')];
  if (deployment.lease_owner !== null) return [say(`is still worked on by ${deployment.lease_owner}`)];
  if (desired === 'asleep' && !deployment.is_up_for_files)
    return state === 'asleep' && rows.length + containers.length === 0 ? [] : [say('does not sleep')];
  const wanted = rest === null ? 'ready' : 'asleep';
  if (state !== wanted) return [say(`is not ${wanted}`)];
  if (rest !== null && rows.length === 0 && containers.length === 0) return [];
  if (rows.length !== 1 || rows[0]!.role !== 'current') return [say(`has ${rows.length} instances`)];
  if (containers.length !== 1) return [say(`has ${containers.length} containers`)];
  return ofInstance(world, sight, deployment, rows[0]!, containers[0]!).map(say);
}

function ofInstance(
  world: World,
  sight: Sight,
  deployment: Deployment,
  row: Sight['live'][number],
  container: Sight['containers'][number],
): string[] {
  if (container.instanceId !== row.id) return [`its container is ${container.instanceId}, not ${row.id}`];
  const wanted = deployment.rest === 'paused' ? 'paused' : deployment.rest === 'stopped' ? 'exited' : 'running';
  if (container.state !== wanted) return [`its container is ${container.state}, not ${wanted}`];
  if (deployment.rest !== null) return [];
  if (row.applied_version < deployment.config_version) return [`is told version ${row.applied_version}`];
  const told = world.toldTo(row.id);
  if (!told) return [];
  const names = sight.agents
    .filter((agent) => agent.deployment_id === deployment.id && agent.arriving !== 'new')
    .map((agent) => agent.name);
  const known = told.agents.map((agent) => agent.id);
  if (told.version < deployment.config_version) return [`was told version ${told.version}`];
  return names.toSorted().join() === known.toSorted().join() ? [] : [`knows ${known.join()}, not ${names.join()}`];
}

/** No orphan of any kind. */
function ofLeftovers({ containers, volumes, folders, deployments, live, users }: Sight): string[] {
  const liveIds = new Set(live.map((one) => one.id));
  const volumeNames = new Set(deployments.map((one) => one.volume));
  return [
    ...containers.filter((one) => !liveIds.has(one.instanceId)).map((one) => `the container ${one.name} is nobody's`),
    ...volumes.filter((one) => !volumeNames.has(one.name)).map((one) => `the volume ${one.name} is nobody's`),
    ...folders.filter((one) => !liveIds.has(one)).map((one) => `the folder of ${one} is nobody's`),
    ...users.filter((one) => one.deleting_at !== null).map((one) => `user ${one.name} is not gone`),
  ];
}

/** Nothing that a dead process had open stays open. */
async function ofOpenWork({ db }: World): Promise<string[]> {
  const { rows } = await sql<{ what: string }>`
    select 'turn ' || id || ' of ' || process_id || ' is open' as what from turns where status = 'running'
    union all select 'model call ' || id || ' of ' || process_id || ' is open' from usage where status = 'open'
    union all select 'heartbeat ' || id || ' of ' || process_id || ' runs' from heartbeat_runs where status = 'running'
    union all select 'the heartbeat of ' || id || ' is not decided' from agents where beat_wish <> beat_planned
    union all select 'agent ' || id || ' is on its way from ' || moving_from from agents where moving_from is not null
    union all select 'snapshot ' || id || ' is pending: ' || coalesce(reason, '') from snapshots where state = 'pending'
    union all select 'restore ' || id || ' is pending: ' || coalesce(reason, '') from restores where state = 'pending'
    union all select 'agent ' || id || ' waits for its state' from agents where arriving = 'again'`.execute(db);
  return rows.map(({ what }) => what);
}

/** Every snapshot that is ready has its file. What is left of one without a row goes within the hour. */
async function ofSnapshots(world: World): Promise<string[]> {
  const files = new Set(await world.snapshotFiles());
  const rows = await world.db.selectFrom('snapshots').select(['id', 'user_id']).where('state', '=', 'ready').execute();
  return rows
    .filter(({ id, user_id }) => !files.has(`${user_id}/${id}.snapshot`))
    .map(({ id }) => `snapshot ${id} is ready and has no file`);
}

/** Every event of a user that has a webhook, since it has, came to the receiver. */
async function ofWebhooks(world: World): Promise<string[]> {
  const { rows } = await sql<{ id: string; url: string; seqs: number[] }>`
    select w.id, w.url, array_agg(e.seq::int) as seqs from webhooks w
    join events made on made.user_id = w.user_id and made.type = 'webhook.created' and made.payload->>'webhook_id' = w.id
    join events e on e.user_id = w.user_id and e.seq > made.seq and e.payload->>'webhook_id' is distinct from w.id
    group by w.id, w.url`.execute(world.db);
  return rows.flatMap(({ id, url, seqs }) => {
    const received = world.receivedAt(url);
    const missing = seqs.filter((seq) => !received.has(seq));
    return missing.length === 0 ? [] : [`webhook ${id} has not sent ${missing.slice(0, 5).join()} of ${seqs.length} events`];
  });
}

/** Agents whose first state cannot come any more, as of one whose source was deleted: they wait, and no turn of them runs. */
export async function unbornAgents(db: World['db'], userName: string): Promise<Set<string>> {
  const rows = await db
    .selectFrom('agents as a')
    .innerJoin('users as u', 'u.id', 'a.user_id')
    .select('a.name')
    .where('u.name', '=', userName)
    .where('a.arriving', '=', 'new')
    .execute();
  return new Set(rows.map(({ name }) => name));
}

/** Texts of one tenant in what another's instance was told. */
export async function strayTexts(world: World, slotOf: (userId: string) => number | undefined): Promise<string[]> {
  const instances = await world.db.selectFrom('instances').select(['id', 'user_id']).execute();
  return instances.flatMap(({ id, user_id: owner }) => {
    const told = world.toldTo(id);
    const texts = told ? [...JSON.stringify(told).matchAll(MARKED)] : [];
    const own = owner === null ? undefined : slotOf(owner);
    return texts.filter(([, slot]) => Number(slot) !== own).map(([text]) => `instance ${id} of ${owner} was told ${text}`);
  });
}

/** The secret that the instances of a user were told last; undefined where none has been told anything. */
export async function toldSecret(world: World, userId: string): Promise<string | null | undefined> {
  const live = await world.db
    .selectFrom('instances as i')
    .innerJoin('deployments as d', 'd.id', 'i.deployment_id')
    .select('i.id')
    .where('i.user_id', '=', userId)
    .where('i.ended_at', 'is', null)
    .where('d.rest', 'is', null)
    .execute();
  const agents = live.flatMap(({ id }) => world.toldTo(id)?.agents ?? []);
  const secrets = new Set(agents.map((agent) => agent.secrets?.['TOKEN'] ?? null));
  if (secrets.size > 1) throw new Error(`the instances of ${userId} were told ${[...secrets].join(' and ')}`);
  return [...secrets][0];
}

/** A user as the API shows it; undefined where there is none. */
export async function readUser(
  ask: (path: string) => Promise<{ status: number; body: unknown }>,
  name: string,
  withNotes: boolean,
): Promise<{ id: string; found: UserTruth } | undefined> {
  const get = async <T>(path: string) => {
    const { status, body } = await ask(path);
    if (status === 404) return undefined;
    if (status !== 200) throw new Error(`GET ${path} answered ${status}: ${JSON.stringify(body)}`);
    return body as T;
  };
  const user = await get<{ id: string; name: string; tier: string }>(`/users/${name}`);
  if (!user) return undefined;
  const found: UserTruth = { name: user.name, tier: user.tier, secret: null, agents: {} };
  const agents = await get<{ data: { name: string; isolation: string; description: string | null; status: string }[] }>(
    `/users/${name}/agents`,
  );
  for (const { name: agent, isolation, description, status } of agents?.data ?? []) {
    const templates = await get<{ templates: Record<string, { source: string; text: string }> }>(
      `/users/${name}/agents/${agent}/templates`,
    );
    const note = withNotes ? ((await get<string>(`/users/${name}/agents/${agent}/files/note.txt`)) ?? null) : undefined;
    const soul = templates?.templates['SOUL.md'];
    found.agents[agent] = {
      isolation,
      description,
      desired: status === 'stopped' ? 'stopped' : 'running',
      soul: soul?.source === 'agent' ? soul.text : null,
      note,
    };
  }
  return { id: user.id, found };
}
