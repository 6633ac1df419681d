// A Berth process that dies in the midst of sealing: it says so when the places are written and the head is not, and stands still there.
// argv: database URL, installation id. The master key comes on stdin.
import { once } from 'node:events';
import type { KyselyPlugin } from 'kysely';
import { openDatabase } from '../../src/db/open.js';
import { Audit } from '../../src/domains/audit/audit.js';
import { createLog } from '../../src/lib/log.js';
import { Vault } from '../../src/vault/vault.js';

const [databaseUrl, installationId = ''] = process.argv.slice(2);
const [key] = (await once(process.stdin.setEncoding('utf8'), 'data')) as [string];
const log = createLog('silent');
const database = await openDatabase({ databaseUrl, dataDir: '', log });
const stopAtHead: KyselyPlugin = {
  transformQuery({ node }) {
    const table = node.kind === 'UpdateQueryNode' ? JSON.stringify(node.table) : '';
    if (table.includes('audit_heads')) {
      process.stdout.write('at the head\n', () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0));
      // The line goes out before this thread stands still.
    }
    return node;
  },
  transformResult: ({ result }) => Promise.resolve(result),
};
const vault = await Vault.open({ masterKey: Buffer.from(key.trim(), 'base64') });
const audit = new Audit({
  db: database.db.withPlugin(stopAtHead),
  bus: database.bus,
  vault,
  log,
  installationId,
  processId: 'p-child',
});
await audit.seal(new AbortController().signal);
process.stdout.write('sealed\n');
