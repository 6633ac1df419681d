import { type Kysely, sql } from 'kysely';

/** Skills: what users uploaded or took from the registry, in versions, and which agents have which. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const STATEMENTS = [
  `create table skills (
    id text primary key,
    user_id text not null references users (id),
    name text not null,
    origin text not null check (origin in ('upload', 'registry')),
    enabled_for text not null check (enabled_for in ('all', 'none')),
    current integer not null,
    last_number integer not null,
    pinned boolean not null default false,
    version integer not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint skills_name_key unique (user_id, name)
  )`,
  // The bytes, once for each user that has them: what another user has stored must not be told by what is there already.
  `create table skill_packages (
    user_id text not null references users (id),
    digest text not null,
    tar bytea not null,
    bytes integer not null,
    files jsonb not null,
    created_at timestamptz not null default now(),
    primary key (user_id, digest)
  )`,
  `create table skill_versions (
    skill_id text not null references skills (id) on delete cascade,
    user_id text not null,
    number integer not null,
    digest text not null,
    head jsonb not null,
    warnings jsonb not null,
    source jsonb,
    created_at timestamptz not null default now(),
    primary key (skill_id, number),
    foreign key (user_id, digest) references skill_packages (user_id, digest)
  )`,
  `create index skill_versions_by_package on skill_versions (user_id, digest)`,
  // What an agent has besides, or instead of, what all agents of its user have.
  `create table agent_skills (
    agent_id text not null references agents (id) on delete cascade,
    skill_id text not null references skills (id) on delete cascade,
    user_id text not null,
    enabled boolean not null,
    primary key (agent_id, skill_id)
  )`,
  `create index agent_skills_by_skill on agent_skills (skill_id)`,
  `create index agent_skills_by_user on agent_skills (user_id)`,
];
