import { join } from 'node:path';
import { type BerthAgent, Berth, type DatabaseKind } from './support/berth.js';
import { Connection } from './support/connection.js';
import { addedRow, type Report, type Row, rowOf, type Times } from './support/measure.js';
import type { Scope } from './support/scope.js';
import { alternate, oneTurn, Seen, type Load } from './support/streams.js';
import { DirectGateway, makeFolder, startUpstream } from './support/world.js';
import type { Bench } from './support/bench.js';

/** A gateway makes no more than 26 model calls at a time, so that fifty streams need two; four, so that none is at its limit. */
const PLACES = 4;

interface Sides {
  direct: DirectGateway[];
  berth: BerthAgent[];
}

/** What Berth adds to a streamed chat: the same gateway, the same upstream, with Berth between them and without. */
export const chat: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const sides = await makeSides(scope, url);
    const warm = { concurrency: 8, turns: scaled(60), rounds: 2, words: 8, gapMs: 0 };
    await alternate([sides.direct, sides.berth], warm);
    reports.push(await latency(sides, kind, { concurrency: 1, turns: scaled(20), rounds: 5, words: 20, gapMs: 5 }));
    reports.push(await latency(sides, kind, { concurrency: 50, turns: scaled(4), rounds: 5, words: 40, gapMs: 25 }));
    reports.push(await throughput(sides, kind, { concurrency: 10, turns: scaled(8), rounds: 5, words: 32, gapMs: 0 }));
    reports.push(await longConversation(sides, kind, scaled(1_000)));
    await scope.close();
  }
  return reports;
};

async function makeSides(scope: Scope, postgres: string | undefined): Promise<Sides> {
  const folder = await makeFolder(scope);
  const folders = Array.from({ length: PLACES }, (_, i) => join(folder, String(i)));
  const sockets = await Promise.all(folders.map((one) => DirectGateway.prepare(one)));
  const { port } = await startUpstream(scope, folder, sockets);
  const direct: DirectGateway[] = [];
  for (const one of folders) direct.push(await DirectGateway.start(scope, one));
  const berth = await Berth.start(scope, { runtime: 'process', postgres, upstreamPort: port });
  return { direct, berth: await berth.agents(PLACES) };
}

async function latency({ direct, berth }: Sides, kind: DatabaseKind, load: Load): Promise<Report> {
  const [floor, mine] = (await alternate([direct, berth], load)) as [Seen, Seen];
  const { concurrency, words, gapMs } = load;
  const target = { unit: 'ms' };
  return {
    title: `chat, ${concurrency} concurrent, ${words} words ${gapMs} ms apart (${kind})`,
    rows: [
      rowOf('first word, gateway directly', floor.first),
      rowOf('first word, through Berth', mine.first),
      addedRow('first word, added', floor.first, mine.first),
      rowOf('each word, gateway directly', floor.word),
      rowOf('each word, through Berth', mine.word),
      addedRow('each word, added', floor.word, mine.word),
      ...cpuRows(floor, mine),
    ],
    verdicts:
      concurrency === 1
        ? []
        : [
            { what: `relay adds, p50 at ${concurrency} streams`, value: mine.word.p50 - floor.word.p50, atMost: 1, ...target },
            { what: `relay adds, p99 at ${concurrency} streams`, value: mine.word.p99 - floor.word.p99, atMost: 5, ...target },
          ],
    notes: [],
  };
}

function cpuRows(floor: Seen, mine: Seen): Row[] {
  const row = (what: string, { whole, cpuMsEach }: Seen) => ({ what, n: whole.n, value: `${cpuMsEach.toFixed(2)} ms` });
  return [row('processor time a turn, gateways called directly', floor), row('processor time a turn, Berth alone', mine)];
}

/** One gateway, called directly and through Berth: few enough turns for the 128 model calls a second that Berth grants an instance. */
async function throughput({ direct, berth }: Sides, kind: DatabaseKind, load: Load): Promise<Report> {
  const [floor, mine] = (await alternate([direct.slice(0, 1), berth.slice(0, 1)], load)) as [Seen, Seen];
  return {
    title: `chat, ${load.concurrency} concurrent, ${load.words} words at once (${kind})`,
    rows: [
      rowOf('whole turn, gateway directly', floor.whole, floor.perS),
      rowOf('whole turn, through Berth', mine.whole, mine.perS),
      ...cpuRows(floor, mine),
    ],
    verdicts: [
      {
        what: `requests/s at ${load.concurrency} concurrent, of calling the gateway directly`,
        value: mine.perS / floor.perS,
        unit: '',
        atLeast: 0.4,
      },
    ],
    notes: [],
  };
}

/** One conversation at each side, turn by turn in turn: what Berth adds to a turn must not grow with the conversation. */
async function longConversation({ direct, berth }: Sides, kind: DatabaseKind, turns: number): Promise<Report> {
  const wish = { words: 8, gapMs: 0 };
  const [gateway, agent] = [direct[0]!, berth[0]!];
  const [floor, mine] = [new Seen(), new Seen()];
  const [toGateway, toBerth] = [await Connection.open(gateway.address), await Connection.open(agent.address)];
  const conversation = await beginConversation(toBerth, agent);
  for (let turn = 0; turn < turns; turn++) {
    await oneTurn(toGateway, gateway.request(wish, 'long'), wish, floor);
    await oneTurn(toBerth, agent.request(wish, conversation), wish, mine);
  }
  toGateway.close();
  toBerth.close();
  const part = Math.ceil(turns / 10);
  const ends = (times: Times) => ({ early: times.slice(0, part), late: times.slice(-part) });
  const [floorEnds, mineEnds] = [ends(floor.whole), ends(mine.whole)];
  const early = mineEnds.early.p50 - floorEnds.early.p50;
  const late = mineEnds.late.p50 - floorEnds.late.p50;
  return {
    title: `chat, ${turns} turns of one conversation (${kind})`,
    rows: [
      rowOf(`first ${part} turns, gateway directly`, floorEnds.early),
      rowOf(`first ${part} turns, through Berth`, mineEnds.early),
      addedRow('added', floorEnds.early, mineEnds.early),
      rowOf(`last ${part} turns, gateway directly`, floorEnds.late),
      rowOf(`last ${part} turns, through Berth`, mineEnds.late),
      addedRow('added', floorEnds.late, mineEnds.late),
    ],
    verdicts: [{ what: 'what Berth adds to a turn grows, p50, last against first', value: late - early, unit: 'ms', atMost: 1 }],
    notes: [
      'a turn sends up to 128 KiB of its conversation along, which Berth reads for metering: that is what grows, up to that bound',
    ],
  };
}

async function beginConversation(connection: Connection, agent: BerthAgent): Promise<string> {
  let text = '';
  await connection.exchange(agent.request({ words: 1, gapMs: 0 }), (bytes) => (text += bytes.toString('latin1')));
  const id = /"conversation_id":"(cnv_\w+)"/.exec(text)?.[1];
  if (id === undefined) throw new Error(`no conversation began: ${text.slice(0, 500)}`);
  return id;
}
