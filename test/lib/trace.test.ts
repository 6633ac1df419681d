import { describe, expect, test } from 'vitest';
import { createLog } from '../../src/lib/log.js';
import { currentTrace, inTrace, traceFrom, traceHeaders, traceparentOf } from '../../src/lib/trace.js';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const PARENT = '00f067aa0ba902b7';

describe('a traceparent', () => {
  test.each([
    [`00-${TRACE}-${PARENT}-01`, true],
    [`00-${TRACE}-${PARENT}-00`, false],
    [`00-${TRACE}-${PARENT}-03`, true],
    // A later version may say more after it.
    [`cc-${TRACE}-${PARENT}-01-what-the-future-brings`, true],
  ])('%s is gone on with', (header, sampled) => {
    const trace = traceFrom(header);
    expect(trace).toMatchObject({ traceId: TRACE, parentId: PARENT, sampled });
    expect(trace.spanId).toMatch(/^[0-9a-f]{16}$/);
    expect(trace.spanId).not.toBe(PARENT);
    expect(traceparentOf(trace)).toBe(`00-${TRACE}-${trace.spanId}-0${sampled ? 1 : 0}`);
  });

  test.each([
    undefined,
    '',
    TRACE,
    `00-${TRACE.toUpperCase()}-${PARENT}-01`,
    `00-${'0'.repeat(32)}-${PARENT}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `ff-${TRACE}-${PARENT}-01`,
    `00-${TRACE}-${PARENT}-01-more`,
    `00-${TRACE}-${PARENT}`,
    `00-${TRACE}-${PARENT}-01, 00-${TRACE}-${PARENT}-01`,
    `cc-${TRACE}-${PARENT}-01-${'x'.repeat(1000)}`,
  ])('%s begins a trace', (header) => {
    const trace = traceFrom(header);
    expect(trace.traceId).toMatch(/^[0-9a-f]{32}$/);
    expect(trace.traceId).not.toBe(TRACE);
    expect(trace.parentId).toBeUndefined();
  });

  test('every line that work says is in its trace, and what it asks of others; nothing of others is', async () => {
    const lines: Record<string, unknown>[] = [];
    const log = createLog('info', { write: (line) => void lines.push(JSON.parse(line) as Record<string, unknown>) });
    const traces = [traceFrom(undefined), traceFrom(undefined)];
    await Promise.all(
      traces.map((trace, n) =>
        inTrace(trace, async () => {
          await new Promise((resolve) => setImmediate(resolve));
          log.info({ n }, 'inside');
          expect(traceHeaders()).toEqual({ traceparent: traceparentOf(trace) });
        }),
      ),
    );
    log.info('outside');
    expect([currentTrace(), traceHeaders()]).toEqual([undefined, {}]);
    const said = lines.map(({ n, trace_id, span_id }) => [n, trace_id, span_id]);
    expect(said).toEqual([...traces.map(({ traceId, spanId }, n) => [n, traceId, spanId]), [undefined, undefined, undefined]]);
  });
});
