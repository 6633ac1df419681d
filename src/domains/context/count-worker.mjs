// Counts tokens beside the main thread: the encoding takes 200 ms to load, and text that tenants choose can take long to count.
// It is plain JavaScript because it is run as a file of its own. Answers each `{ id, texts }` with `{ id, counts }`.
import { parentPort } from 'node:worker_threads';
import { countTokens } from 'gpt-tokenizer/encoding/o200k_base';

/** The time to count a run of letters, or of blanks, grows with the square of its length; the count hardly changes where it is cut. */
const RUN = /\S{256}(?=\S)|\s{256}(?=\s)/gu;
/** What looks like a control token is text here as everything else. */
const AS_TEXT = { disallowedSpecial: new Set() };

function count(text) {
  let total = 0;
  let from = 0;
  for (const run of text.matchAll(RUN)) {
    const to = run.index + run[0].length;
    total += countTokens(text.slice(from, to), AS_TEXT);
    from = to;
  }
  return total + countTokens(text.slice(from), AS_TEXT);
}

parentPort.on('message', ({ id, texts }) => parentPort.postMessage({ id, counts: texts.map(count) }, []));
