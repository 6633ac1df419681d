import { type ClientRequest, type IncomingMessage, request as httpRequest } from 'node:http';

/** What came of a request that a test sends piece by piece. */
export interface StreamedAnswer {
  status: number;
  headers: IncomingMessage['headers'];
  bytes: Buffer;
  /** The answer ended before its end: no client could take it for whole. */
  broken: boolean;
}

export interface OpenRequest {
  request: ClientRequest;
  answer: Promise<StreamedAnswer>;
}

/** A request whose path goes out as it stands, and whose body the test writes. Its answer rejects where none came. */
export function openRequest(url: string, method: string, path: string, headers: Record<string, string | number>): OpenRequest {
  const { hostname, port } = new URL(url);
  const request = httpRequest({ hostname, port, method, path, headers, agent: false });
  const answer = new Promise<StreamedAnswer>((resolve, reject) => {
    request.once('error', reject);
    request.once('response', (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk)).on('error', () => {});
      response.once('close', () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          bytes: Buffer.concat(chunks),
          broken: !response.complete,
        }),
      );
    });
  });
  answer.catch(() => {});
  return { request, answer };
}
