import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { linkHash } from '../../src/domains/audit/chain.js';
import { digestOf, erasedForm } from '../../src/domains/audit/entry.js';
import { startApp, type TestApp } from '../support/app.js';
import { until } from '../support/until.js';
import { berth } from './audit-export.js';

/** A link as an export has it; in the database it is the same. */
interface Link {
  seq: number;
  id: string;
  digest: string;
  hash: string;
  operation: string;
  actor: string;
  user_id: string | null;
  [field: string]: unknown;
}

interface Chain {
  links: Link[];
  head: { seq: number; hash: string; [field: string]: unknown };
}

interface Case {
  what: string;
  /** What whoever has the database, but not the master key, does to it. */
  alter(chain: Chain): void;
  /** Problem and place, as they must be found first; by the running Berth and in an export alike. */
  finds: [problem: string, seq: number];
}

/** The verifier that auditors run, which knows nothing of Berth. */
const { checkExport } = (await import(new URL('../../scripts/audit/chain.mjs', import.meta.url).href)) as {
  checkExport: (path: string) => Promise<{ findings: { problem: string; seq: number | null }[] }>;
};

const HERE = 4;
const at = (chain: Chain, seq: number) => chain.links.find((link) => link.seq === seq)!;
const entryOf = (link: Link) => ({ ...link, at: new Date(link['at'] as string) }) as unknown as Parameters<typeof digestOf>[0];
/** What a forger can make anew without any key: digests and hashes. */
function relink(chain: Chain): void {
  let before = at(chain, 1);
  for (const link of chain.links.slice(1)) {
    link.digest = digestOf(entryOf(link));
    link.hash = linkHash(before.hash, link.seq, link.digest);
    before = link;
  }
  chain.head.seq = before.seq;
  chain.head.hash = before.hash;
}

const CASES: Case[] = [
  { what: 'an entry is changed', alter: (chain) => (at(chain, HERE).operation = 'other'), finds: ['changed', HERE] },
  {
    what: 'an entry is changed, and its digest to suit it',
    alter: (chain) => {
      const link = at(chain, HERE);
      link.operation = 'other';
      link.digest = digestOf(entryOf(link));
    },
    finds: ['out_of_place', HERE],
  },
  {
    what: 'an entry is changed, and all after it linked anew',
    alter: (chain) => {
      at(chain, HERE).operation = 'other';
      relink(chain);
    },
    finds: ['head_forged', 0],
  },
  {
    what: 'an entry is removed',
    alter: (chain) => chain.links.splice(HERE - 1, 1),
    finds: ['removed', HERE],
  },
  {
    what: 'an entry is removed, and those after it moved up',
    alter: (chain) => {
      chain.links.splice(HERE - 1, 1);
      for (const link of chain.links.slice(HERE - 1)) link.seq -= 1;
    },
    finds: ['out_of_place', HERE],
  },
  {
    what: 'two entries change places',
    alter: (chain) => {
      const [one, two] = [at(chain, HERE), at(chain, HERE + 1)];
      [one.seq, two.seq] = [two.seq, one.seq];
      chain.links.sort((a, b) => a.seq - b.seq);
    },
    finds: ['out_of_place', HERE],
  },
  {
    what: 'an entry is put in, and those after it moved down',
    alter: (chain) => {
      for (const link of chain.links.slice(HERE)) link.seq += 1;
      chain.links.splice(HERE, 0, { ...at(chain, HERE), id: 'aud_forged', act: 'aud_forged', seq: HERE + 1 });
      at(chain, HERE + 1).digest = digestOf(entryOf(at(chain, HERE + 1)));
    },
    finds: ['out_of_place', HERE + 1],
  },
  {
    what: 'an entry is put in at the end',
    alter: (chain) => {
      const last = chain.links.at(-1)!;
      const more = { ...last, id: 'aud_forged', act: 'aud_forged', seq: last.seq + 1 };
      more.digest = digestOf(entryOf(more));
      more.hash = linkHash(last.hash, more.seq, more.digest);
      chain.links.push(more);
    },
    finds: ['inserted', 1],
  },
  { what: 'the last entry is removed', alter: (chain) => chain.links.pop(), finds: ['removed', 0] },
  {
    what: 'the last entry is removed, and the head set to the one before it',
    alter: (chain) => {
      chain.links.pop();
      Object.assign(chain.head, { seq: chain.links.at(-1)!.seq, hash: chain.links.at(-1)!.hash });
    },
    finds: ['head_forged', -1],
  },
  {
    what: 'who did it is taken out, though nobody was erased',
    alter: (chain) => {
      const link = chain.links.find(({ user_id, actor }) => user_id !== null && actor.startsWith('user:'))!;
      link.actor = erasedForm(link.actor);
    },
    finds: ['taken_out', NaN],
  },
  {
    what: 'a user is taken out who was not erased',
    alter: (chain) => {
      for (const link of chain.links) if (link.user_id !== null) link.user_id = erasedForm(link.user_id);
    },
    finds: ['taken_out', NaN],
  },
];

describe('an audit that was tampered with', () => {
  let app: TestApp;
  let folder: string;
  let whole: Chain;
  let earlier: Chain['head'];

  beforeAll(async () => {
    app = await startApp();
    folder = await mkdtemp(join(tmpdir(), 'audit-'));
    const user = await app.user();
    await app.post('/api/v1/keys', user.key, {});
    await sealed();
    earlier = (await app.get('/api/v1/audit/head', app.adminKey)).json;
    await exported('earlier');
    await app.post('/api/v1/keys', user.key, {});
    await app.get('/api/v1/users', user.key);
    await sealed();
    whole = await exported('whole');
    expect(whole.links.length).toBeGreaterThan(HERE + 2);
    await sql`create table kept_entries as select * from audit_entries`.execute(app.database.db);
    await sql`create table kept_heads as select * from audit_heads`.execute(app.database.db);
    await sql`alter table audit_entries disable trigger all`.execute(app.database.db);
  });
  afterAll(async () => {
    await app.stop();
    await rm(folder, { recursive: true, force: true });
  });

  const sealed = async () => {
    await until(async () => {
      const { unsealed, findings } = await verify();
      const open = await app.database.db.selectFrom('audit_open').select('act').execute();
      return unsealed === 0 && findings.length === 0 && open.length === 0;
    }, 'all entries to be sealed');
  };
  const verify = async (query = '') => (await app.get(`/api/v1/audit/verify${query}`, app.adminKey)).json;
  async function exported(name: string): Promise<Chain> {
    const said = await berth(app, ['audit', 'export', join(folder, name)]);
    expect(said.code, said.output).toBe(0);
    const lines = (await readFile(join(folder, name), 'utf8')).trim().split('\n');
    const { head } = JSON.parse(lines.pop()!) as Pick<Chain, 'head'>;
    return { links: lines.map((line) => JSON.parse(line) as Link), head };
  }
  const altered = ({ alter }: Case): Chain => {
    const chain = structuredClone(whole);
    alter(chain);
    return chain;
  };
  async function writeFileOf({ links, head }: Chain): Promise<string> {
    const path = join(folder, 'tampered');
    await writeFile(path, [...links, { head }].map((line) => `${JSON.stringify(line)}\n`).join(''));
    return path;
  }
  /** Makes the database what the chain says; what is sealed stays with its entry. */
  async function writeDatabase({ links, head }: Chain): Promise<void> {
    const { db } = app.database;
    await db.transaction().execute(async (trx) => {
      await sql`truncate audit_entries`.execute(trx);
      await sql`
        insert into audit_entries select (jsonb_populate_record(null::audit_entries,
          (to_jsonb(k) - 'personal') || to_jsonb(l))).* from kept_entries k
        join jsonb_array_elements(${JSON.stringify(links)}::jsonb) l on k.id = case when l->>'id' = 'aud_forged' then ${whole.links[0]!.id} else l->>'id' end`.execute(
        trx,
      );
      await sql`update audit_entries e set personal = k.personal from kept_entries k where k.id = e.id`.execute(trx);
      await sql`update audit_heads h set seq = ${head.seq}, hash = ${head.hash}, at = k.at, signature = k.signature from kept_heads k`.execute(
        trx,
      );
    });
  }
  const restore = () => writeDatabase(whole);

  /** Places are told from the end where a case is about the end. */
  const placeOf = (seq: number) => (Number.isNaN(seq) ? expect.any(Number) : seq < HERE ? whole.head.seq + seq : seq);

  test.each(CASES)('$what: found and named, in the database and in an export', async (tampered) => {
    const chain = altered(tampered);
    const [problem, seq] = tampered.finds;
    await writeDatabase(chain);
    const found = await verify();
    await restore();
    expect(found.ok).toBe(false);
    expect(found.findings).toContainEqual(expect.objectContaining({ problem, seq: placeOf(seq) }));

    const offline = await checkExport(await writeFileOf(chain));
    expect(offline.findings).toContainEqual(expect.objectContaining({ problem, seq: placeOf(seq) }));
  });

  test('an end that was cut off together with an older head that was kept: found by whoever has a later head', async () => {
    const { db } = app.database;
    const chain = { links: whole.links.filter(({ seq }) => seq <= earlier.seq), head: earlier };
    await writeDatabase(chain);
    await sql`update audit_heads set at = ${earlier['at']}, signature = ${Buffer.from(earlier['signature'] as string, 'base64')}`.execute(
      db,
    );
    const alone = await verify();
    const known = await verify(`?earlier_seq=${whole.head.seq}&earlier_hash=${whole.head.hash}`);
    await restore();
    // Nothing in the database can tell: that is what a head kept elsewhere is for.
    expect(alone.ok).toBe(true);
    expect(known.findings).toMatchObject([{ problem: 'not_the_earlier_chain', seq: whole.head.seq }]);
    const said = await berth(app, ['audit', 'verify', join(folder, 'earlier'), join(folder, 'whole')]);
    expect(said).toMatchObject({ code: 1, output: expect.stringMatching(/^not_the_earlier_chain: .*longer once/m) });
    expect(await berth(app, ['audit', 'verify', join(folder, 'whole'), join(folder, 'earlier')])).toMatchObject({ code: 0 });
  });

  test('an entry that no Berth process wrote is never linked, and is named', async () => {
    const { db } = app.database;
    await sql`insert into audit_entries (id, kind, act, at, operation, actor, digest, mac)
      values ('aud_foreign', 'begun', 'aud_foreign', now(), 'x', 'admin:key_x', ${'0'.repeat(64)}, ${'0'.repeat(64)})`.execute(
      db,
    );
    await app.user();
    await until(async () => (await verify()).unsealed === 1, 'all others to be sealed');
    expect((await verify()).findings).toMatchObject([{ problem: 'inserted', id: 'aud_foreign' }]);
    await sql`delete from audit_entries where id = 'aud_foreign'`.execute(db);
  });

  test('a sealed part that is another is found, and one that is gone', async () => {
    const { db } = app.database;
    const [one, two] = await db
      .selectFrom('audit_entries')
      .select(['id', 'seq', 'personal'])
      .where('personal', 'is not', null)
      .orderBy('seq')
      .limit(2)
      .execute();
    await sql`update audit_entries set personal = ${two!.personal} where id = ${one!.id}`.execute(db);
    const changed = await verify();
    await sql`update audit_entries set personal = null where id = ${one!.id}`.execute(db);
    const gone = await verify();
    await sql`update audit_entries set personal = ${one!.personal} where id = ${one!.id}`.execute(db);
    expect(changed.findings).toMatchObject([{ problem: 'changed', id: one!.id }]);
    expect(gone.findings).toMatchObject([{ problem: 'taken_out', id: one!.id }]);
  });

  test('an export that was signed by another key, cut short, or is none is refused', async () => {
    const path = join(folder, 'whole');
    expect(await berth(app, ['audit', 'verify', path, '--key', 'AAAA'])).toMatchObject({
      code: 1,
      output: expect.stringMatching(/^head_forged: .*another key/m),
    });
    const text = await readFile(path, 'utf8');
    await writeFile(join(folder, 'cut'), text.slice(0, text.lastIndexOf('{"head"')));
    expect(await berth(app, ['audit', 'verify', join(folder, 'cut')])).toMatchObject({
      code: 1,
      output: expect.stringMatching(/not whole/),
    });
    await writeFile(join(folder, 'none'), 'no export\n');
    expect(await berth(app, ['audit', 'verify', join(folder, 'none')])).toMatchObject({
      code: 1,
      output: expect.stringMatching(/not JSON/),
    });
    expect(await berth(app, ['audit', 'verify', join(folder, 'missing')])).toMatchObject({
      code: 1,
      output: expect.stringMatching(/ENOENT/),
    });
    expect(await berth(app, ['audit', 'check'])).toMatchObject({ code: 0, output: expect.stringMatching(/^Whole: /m) });
  });
});
