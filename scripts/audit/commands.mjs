// `berth audit …`: takes the audit out of a running Berth, and checks what was taken out, with or without a Berth.
import { open, rename, rm } from 'node:fs/promises';
import { checkedHead, checkExport, readExport } from './chain.mjs';

export const USAGE = `       npm run berth -- audit head             shows the signed head of the audit chain; keep it elsewhere
       npm run berth -- audit check            has the running Berth check its chain
       npm run berth -- audit export FILE      writes the whole chain to a file, without addresses, paths and names
       npm run berth -- audit verify FILE [EARLIER] [--key KEY]
                                               checks such a file without Berth: EARLIER, an older export, must be part of it, and KEY
                                               (base64, as "audit head" shows it) must have signed it`;

/** `call(method, path)` asks the running Berth; answers whether all is well. */
export async function auditCommand([verb, ...rest], { call, Refusal }) {
  if (verb === 'head' && rest.length === 0) return say(JSON.stringify(await call('GET', '/audit/head'), null, 2));
  if (verb === 'check' && rest.length === 0) return checkRunning(call);
  if (verb === 'export' && rest.length === 1) return writeExport(rest[0], call);
  if (verb === 'verify' && rest.length > 0) return verifyFile(rest, Refusal);
  throw new Refusal(`Usage:${USAGE.slice(6)}`);
}

function say(text) {
  process.stdout.write(`${text}\n`);
  return true;
}

function report(findings, checked, seq) {
  for (const { problem, seq: at, id, detail } of findings)
    say(`${problem}: ${id ?? `place ${at}`}${id && at ? ` (place ${at})` : ''}: ${detail}`);
  say(findings.length === 0 ? `Whole: ${checked} entries, up to place ${seq}.` : `NOT whole: ${findings.length} findings.`);
  return findings.length === 0;
}

async function checkRunning(call) {
  const findings = [];
  let [after, checked, answer] = [0, 0];
  do {
    answer = await call('GET', `/audit/verify?after=${after}`);
    findings.push(...answer.findings);
    checked += answer.checked;
    after = answer.next;
  } while (after !== null);
  return report(findings, checked, answer.head.seq);
}

/** Written aside and renamed: a file by that name is whole. */
async function writeExport(path, call) {
  const head = await call('GET', '/audit/head');
  const aside = `${path}.part`;
  const file = await open(aside, 'w', 0o600);
  try {
    for (let seq = 0; seq < head.seq;) {
      const links = await call('GET', `/audit/export?after=${seq}&limit=${Math.min(1000, head.seq - seq)}`);
      if (links.length === 0) break; // Entries are missing: the file is to show it.
      const lines = links.filter((link) => link.seq <= head.seq).map((link) => `${JSON.stringify(link)}\n`);
      await file.write(lines.join(''));
      seq = links.at(-1).seq;
    }
    await file.write(`${JSON.stringify({ head })}\n`);
    await file.sync();
    await file.close();
    await rename(aside, path);
  } catch (error) {
    await file.close().catch(() => {});
    await rm(aside, { force: true });
    throw error;
  }
  return say(`${head.seq} entries to ${path}, signed by ${head.public_key}`);
}

async function verifyFile(args, Refusal) {
  const keyAt = args.indexOf('--key');
  const key = keyAt === -1 ? undefined : args[keyAt + 1];
  const [path, earlierPath, ...more] = keyAt === -1 ? args : args.toSpliced(keyAt, 2);
  if (path === undefined || more.length > 0 || (keyAt !== -1 && key === undefined)) throw new Refusal(`Usage:${USAGE.slice(6)}`);
  try {
    const earlier = earlierPath && checkedHead(await readExport(earlierPath, () => {}));
    const { checked, head, findings } = await checkExport(path, { key, earlier });
    if (key === undefined) say(`Signed by ${head.public_key}: compare it with the key that you have kept.`);
    return report(findings, checked, head.seq);
  } catch (error) {
    throw new Refusal(error.code ? `${error.code}: ${error.path ?? path}` : `${path}: ${error.message}`);
  }
}
