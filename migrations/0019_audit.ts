import { type Kysely, sql } from 'kysely';

/** Who did what: entries that are only ever added, and the signed head of the chain that they are linked into. */
export async function up(db: Kysely<unknown>): Promise<void> {
  for (const statement of STATEMENTS) await sql.raw(statement).execute(db);
}

const CHAINED = [
  'id',
  'kind',
  'act',
  'at',
  'operation',
  'status',
  'code',
  'count',
  'request_digest',
  'before_digest',
  'after_digest',
  'personal_digest',
  'digest',
  'mac',
];
const all = (of: 'old' | 'new') => CHAINED.map((column) => `${of}.${column}`).join(', ');

const STATEMENTS = [
  `create table audit_keys (
    only_row boolean primary key default true check (only_row),
    public_key bytea not null,
    seed bytea not null,
    data_key bytea not null
  )`,
  `create table audit_heads (
    only_row boolean primary key default true check (only_row),
    seq bigint not null,
    hash text not null,
    at timestamptz(3) not null,
    signature bytea not null
  )`,
  `create table audit_entries (
    id text primary key,
    kind text not null check (kind in ('begun', 'ended', 'refused', 'erased')),
    act text not null,
    at timestamptz(3) not null,
    operation text not null,
    actor text not null,
    user_id text,
    resource text,
    request_id text,
    status integer,
    code text,
    count integer not null default 1,
    request_digest text,
    before_digest text,
    after_digest text,
    personal bytea,
    personal_digest text,
    digest text not null,
    mac text not null,
    seq bigint unique,
    hash text
  )`,
  `create index audit_entries_unsealed on audit_entries (at, id) where seq is null`,
  `create index audit_entries_ends on audit_entries (act) where kind = 'ended'`,
  `create index audit_entries_by_user on audit_entries (user_id, id) where user_id is not null`,
  `create index audit_entries_by_actor on audit_entries (actor, id) where kind <> 'ended'`,
  `create index audit_entries_by_operation on audit_entries (operation, id) where kind <> 'ended'`,
  // Addresses of strangers, which are forgotten after a while.
  `create index audit_entries_strangers on audit_entries (at) where kind = 'refused' and user_id is null and personal is not null`,
  // Acts in progress, so that the end of one whose process died is found without reading what has ended.
  `create table audit_open (
    act text primary key,
    process_id text not null,
    operation text not null,
    actor text not null,
    user_id text
  )`,
  `create table audit_receipts (
    user_digest text primary key,
    entry_id text not null,
    at timestamptz(3) not null,
    signature bytea not null
  )`,
  // Against mistakes. Whoever may change tables can drop it; against them there is the chain.
  `create function audit_entries_stay() returns trigger language plpgsql as $$
  begin
    if tg_op in ('DELETE', 'TRUNCATE') then
      raise exception 'audit entries are never removed';
    end if;
    if (${all('new')}) is distinct from (${all('old')}) or (old.seq is not null and (new.seq, new.hash) is distinct from (old.seq, old.hash)) then
      raise exception 'audit entries are never changed';
    end if;
    return new;
  end
  $$`,
  `create trigger audit_entries_stay before update or delete on audit_entries for each row execute function audit_entries_stay()`,
  `create trigger audit_entries_all_stay before truncate on audit_entries for each statement execute function audit_entries_stay()`,
];
