// A Berth process that dies in the midst of an attempt: it sends what is due by a channel that is leased to it, and is killed meanwhile.
// argv: database URL, user id, channel id. The master key comes on stdin.
import { once } from 'node:events';
import { openDatabase } from '../../src/db/open.js';
import { NotificationCarrier } from '../../src/domains/notifications/carrier.js';
import { Matching } from '../../src/domains/notifications/matching.js';
import { Sender } from '../../src/domains/notifications/sender.js';
import * as signing from '../../src/domains/webhooks/signing.js';
import { createLog } from '../../src/lib/log.js';
import { Outbound } from '../../src/link/outbound.js';
import { Vault } from '../../src/vault/vault.js';

const [databaseUrl, userId = '', id = ''] = process.argv.slice(2);
const [key] = (await once(process.stdin.setEncoding('utf8'), 'data')) as [string];
const log = createLog('silent');
const { db } = await openDatabase({ databaseUrl, dataDir: '', log });
const vault = await Vault.open({ masterKey: Buffer.from(key.trim(), 'base64') });
const poster = new Outbound({ allow: ['127.0.0.1'], limits: { totalMs: 3_600_000 } });
const sender = new Sender({ vault, poster, signing, mailer: undefined });
const carrier = new NotificationCarrier({ db, matching: new Matching({ db, log }), sender });
const lease = { id, processId: 'p-child' };
const channel = await carrier.renew(userId, lease, 3_600);
const dataKey = await carrier.dataKeyOf(userId);
if (!channel || !dataKey) throw new Error('the channel is not leased to this process');
await carrier.sendNext(channel, dataKey, lease, new AbortController().signal);
