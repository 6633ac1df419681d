import type { NetConnectOpts } from 'node:net';
import { messageFor, type Wish } from './support/canned.js';
import { Berth } from './support/berth.js';
import type { Bench } from './support/bench.js';
import { requestText } from './support/connection.js';
import { addedRow, type Report, rowOf } from './support/measure.js';
import { alternate, type Load, type Seen, type Target } from './support/streams.js';
import { makeFolder, startUpstream } from './support/world.js';

/** As in the chat: one socket takes 32 calls at a time, and 128 a second for ever. */
const PLACES = 4;

/** What the LLM gateway adds to a model call: an instance's socket against the upstream itself. */
export const llm: Bench = async ({ scope, scaled, databases }) => {
  const reports: Report[] = [];
  for (const { kind, url } of await databases()) {
    const { port, pid } = await startUpstream(scope, await makeFolder(scope));
    const berth = await Berth.start(scope, { runtime: 'process', postgres: url, upstreamPort: port });
    await berth.agents(PLACES);
    const upstream = [new ModelCalls('upstream directly', { host: '127.0.0.1', port }, pid, 'bench', 'none')];
    const sockets = (await berth.instances()).map(
      ({ socket, token }) => new ModelCalls('LLM gateway', { path: socket }, berth.child.pid, 'openai/bench', token),
    );
    const sides = [upstream, sockets];
    await alternate(sides, { concurrency: 8, turns: scaled(40), rounds: 1, words: 8, gapMs: 0 });
    reports.push(await latency(sides, kind, { concurrency: 1, turns: scaled(20), rounds: 5, words: 20, gapMs: 5 }));
    reports.push(await latency(sides, kind, { concurrency: 50, turns: scaled(4), rounds: 5, words: 40, gapMs: 25 }));
    reports.push(await throughput(sides, kind, { concurrency: 10, turns: scaled(30), rounds: 5, words: 32, gapMs: 0 }));
    await scope.close();
  }
  return reports;
};

async function latency(sides: Target[][], kind: string, load: Load): Promise<Report> {
  const [floor, mine] = (await alternate(sides, load)) as [Seen, Seen];
  return {
    title: `LLM gateway, ${load.concurrency} concurrent, ${load.words} words ${load.gapMs} ms apart (${kind})`,
    rows: [
      rowOf('first word, upstream directly', floor.first),
      rowOf('first word, LLM gateway', mine.first),
      addedRow('first word, added', floor.first, mine.first),
      rowOf('each word, upstream directly', floor.word),
      rowOf('each word, LLM gateway', mine.word),
      addedRow('each word, added', floor.word, mine.word),
    ],
    verdicts: [],
    notes: [],
  };
}

async function throughput(sides: Target[][], kind: string, load: Load): Promise<Report> {
  const [floor, mine] = (await alternate(sides, load)) as [Seen, Seen];
  return {
    title: `LLM gateway, ${load.concurrency} concurrent, ${load.words} words at once (${kind})`,
    rows: [
      rowOf('whole call, upstream directly', floor.whole, floor.perS),
      rowOf('whole call, LLM gateway', mine.whole, mine.perS),
      { what: 'processor time of Berth, each', n: mine.whole.n, value: `${mine.cpuMsEach.toFixed(2)} ms` },
      { what: 'of the upstream’s rate', n: mine.whole.n, value: (mine.perS / floor.perS).toFixed(2) },
    ],
    verdicts: [],
    notes: [
      'the upstream does next to nothing; the LLM gateway checks the budget and writes a usage row before and after each call',
    ],
  };
}

/** Model calls as an instance makes them. */
class ModelCalls implements Target {
  readonly name: string;
  readonly address: NetConnectOpts;
  readonly pid: number;
  readonly #model: string;
  readonly #token: string;

  constructor(name: string, address: NetConnectOpts, pid: number, model: string, token: string) {
    this.name = name;
    this.address = address;
    this.pid = pid;
    this.#model = model;
    this.#token = token;
  }

  request(wish: Wish): string {
    const body = {
      model: this.#model,
      stream: true,
      stream_options: { include_usage: true },
      messages: [{ role: 'user', content: messageFor(wish) }],
    };
    return requestText('POST', '/v1/chat/completions', { authorization: `Bearer ${this.#token}` }, JSON.stringify(body));
  }
}
