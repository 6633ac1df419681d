import type { ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import { Assembler } from './assemble.js';
import type { CallMeters } from './call-meters.js';
import { Meter, type CallEnd } from './meter.js';
import { openAiErrorOf } from './openai-error.js';
import type { GatewayLimits, UsageLedger, UsageOutcome } from './ports.js';
import { ProviderError, type ChatRequest, type Provider, type ProviderChunk } from './provider.js';
import { sendError, sendJson } from './respond.js';
import { SlowReaderError, SseWriter } from './sse-writer.js';

export interface CallOptions {
  /** The row that is open and that this call settles. */
  usageId: string;
  provider: Provider;
  request: ChatRequest;
  stream: boolean;
  response: ServerResponse;
  ledger: UsageLedger;
  limits: GatewayLimits;
  log: Log;
  meters: CallMeters;
  /** What log lines say of the call. Not a child logger: making one costs more than relaying ten chunks. */
  about: object;
}

/** Where the chunks of one answer go. */
interface Sink {
  /** A promise when the reader is behind, to be awaited before the next chunk. */
  add(chunk: ProviderChunk): Promise<void> | void;
  end(outcome: UsageOutcome): void;
  fail(thrown: unknown): void;
}

/** One call to a provider with its row open: relays the answer, then settles the row with the truth of how it went. */
export class LlmCall {
  readonly #options: CallOptions;
  readonly #meter: Meter;

  constructor(options: CallOptions) {
    this.#options = options;
    this.#meter = new Meter(options.request);
  }

  /** Never throws. Settling begins before the end of the answer goes out, so who has read the end finds the row settled. */
  async run(signal: AbortSignal): Promise<void> {
    const answer = this.#options.stream ? this.#streamed() : this.#whole();
    let thrown: unknown;
    let asked = false;
    let heard = false;
    const { meters, provider } = this.#options;
    const beganMs = performance.now();
    const seconds = () => (performance.now() - beganMs) / 1000;
    try {
      signal.throwIfAborted();
      asked = true;
      for await (const chunk of provider.stream(this.#options.request, signal)) {
        if (!heard) meters.firstChunk(provider.name, seconds());
        heard = true;
        this.#meter.add(chunk);
        const behind = answer.add(chunk);
        if (behind) await behind;
        signal.throwIfAborted();
      }
    } catch (error) {
      thrown = error ?? new Error('nothing was thrown');
    }
    const outcome = this.#outcome(thrown, asked, signal);
    meters.ended(provider.name, outcome, seconds());
    const settled = this.#settle(outcome);
    this.#finish(answer, thrown, outcome);
    await settled;
  }

  #finish(answer: Sink, thrown: unknown, outcome: UsageOutcome): void {
    const { log, about, response } = this.#options;
    try {
      if (thrown === undefined) return answer.end(outcome);
      if (outcome.status === 'cut_off') log.info(about, `call cut off: ${outcome.error}`);
      else if (isRefusal(thrown)) log.info(about, 'call refused by the provider');
      else log.warn({ ...about, err: thrown }, `call failed: ${outcome.error}`);
      if (thrown instanceof SlowReaderError) response.destroy();
      answer.fail(thrown);
    } catch (error) {
      log.error({ ...about, err: error }, `ending an answer failed: ${messageOf(error)}`);
      response.destroy();
    }
  }

  #outcome(thrown: unknown, asked: boolean, signal: AbortSignal): UsageOutcome {
    const end = endOf(thrown, signal);
    const usage = this.#meter.usage(asked ? end : 'unasked');
    if (end === 'finished') return { status: 'finished', usage };
    if (end === 'interrupted') return { status: 'cut_off', usage, error: messageOf(signal.aborted ? signal.reason : thrown) };
    return { status: 'failed', usage, error: openAiErrorOf(thrown).error.message };
  }

  async #settle(outcome: UsageOutcome): Promise<void> {
    const { ledger, usageId, limits, log, about } = this.#options;
    for (const pauseMs of [...limits.settleRetryMs, undefined]) {
      try {
        await ledger.settle(usageId, outcome);
        return;
      } catch (error) {
        log.error(
          { ...about, err: error, outcome, last: pauseMs === undefined },
          `settling a usage row failed: ${messageOf(error)}`,
        );
        if (pauseMs !== undefined) await sleep(pauseMs);
      }
    }
  }

  #streamed(): Sink {
    const { response, limits } = this.#options;
    const writer = new SseWriter(response, limits);
    return {
      add: (chunk) => writer.push(chunk.json),
      end: () => writer.end(),
      fail: (thrown) => {
        if (writer.begun) return writer.end(JSON.stringify({ error: openAiErrorOf(thrown).error }));
        writer.stop();
        sendError(response, thrown);
      },
    };
  }

  #whole(): Sink {
    const { response, limits } = this.#options;
    const assembler = new Assembler(limits.wholeAnswerBytes);
    return {
      add: (chunk) => void assembler.add(chunk),
      end: ({ usage }) => sendJson(response, 200, assembler.completion(usage)),
      fail: (thrown) => void sendError(response, thrown),
    };
  }
}

function endOf(thrown: unknown, signal: AbortSignal): CallEnd {
  if (thrown === undefined) return 'finished';
  if (signal.aborted || thrown instanceof SlowReaderError) return 'interrupted';
  return thrown instanceof ProviderError ? thrown.kind : 'internal';
}

/** The words of a refused request may quote it, and a request is message content: they are for the tenant, not for the log. */
function isRefusal(thrown: unknown): boolean {
  return thrown instanceof ProviderError && thrown.kind === 'bad_request';
}
