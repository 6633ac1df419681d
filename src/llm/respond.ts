import type { ServerResponse } from 'node:http';
import { openAiErrorOf, type OpenAiError } from './openai-error.js';

/** Answers with JSON, unless headers went out or the caller is gone. */
export function sendJson(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  if (response.destroyed || response.headersSent) return;
  const bytes = Buffer.from(JSON.stringify(body));
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': String(bytes.length), ...headers });
  response.end(bytes);
}

/** Answers with the OpenAI error object of anything thrown, and returns it. */
export function sendError(response: ServerResponse, thrown: unknown): OpenAiError {
  const answered = openAiErrorOf(thrown);
  const { status, retryAfterS, error } = answered;
  const headers: Record<string, string> = retryAfterS === undefined ? {} : { 'retry-after': String(retryAfterS) };
  // The rest of the body is still on its way: the connection is of no more use.
  if (status === 413 || status === 408) headers['connection'] = 'close';
  sendJson(response, status, { error }, headers);
  return answered;
}
