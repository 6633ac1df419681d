import { isIP, type Socket } from 'node:net';
import type { Bucket } from '../lib/bucket.js';
import { type ClientHello, MAX_HELLO_BYTES, readClientHello } from './client-hello.js';

export interface TunnelOptions {
  /** The name or address that was asked for. */
  host: string;
  /** Anything but TLS is refused. Otherwise TLS is looked at where the client begins with it. */
  isTlsOnly: boolean;
  /** Refuses a ClientHello whose true name may be hidden. */
  isNameStrict: boolean;
  helloTimeoutMs: number;
  idleMs: number;
  /** Bytes a second of the instance, in both directions together. */
  pace: Bucket;
  onBytes(direction: 'up' | 'down', bytes: number): void;
}

/** Fatal `unrecognized_name` (RFC 6066, section 3): a TLS client says so, where a mere hang-up would tell nothing. */
const UNRECOGNIZED_NAME = Buffer.from([21, 3, 3, 0, 2, 2, 112]);

/**
 * Relays between an instance and the upstream until both have ended, one has failed or nothing has moved for long. What the
 * instance says first is held until it is known whom it is meant for. Resolves with the reason where that was refused.
 */
export function runTunnel(client: Socket, head: Buffer, upstream: Socket, options: TunnelOptions): Promise<string | undefined> {
  return new Promise((resolve) => {
    let refusal: string | undefined;
    let open = 2;
    const cut = () => {
      client.destroy();
      upstream.destroy();
    };
    const refuse = (reason: string) => {
      refusal = reason;
      upstream.destroy();
      if (client.writable) client.write(UNRECOGNIZED_NAME);
      client.destroySoon();
    };
    const idle = setTimeout(cut, options.idleMs);
    const hello = setTimeout(() => refuse('no TLS ClientHello in time'), options.helloTimeoutMs);
    if (!options.isTlsOnly) clearTimeout(hello);
    const moved = (direction: 'up' | 'down', bytes: number) => {
      idle.refresh();
      options.onBytes(direction, bytes);
      return options.pace.borrow(bytes);
    };
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      socket.on('error', () => socket.destroy());
      socket.once('close', () => {
        clearTimeout(hello);
        // Not `destroy`: what was read from the one is still to be written to the other.
        other.destroySoon();
        if (--open > 0) return;
        clearTimeout(idle);
        resolve(refusal);
      });
    }
    relay(upstream, client, (bytes) => moved('down', bytes));
    judgeFirst(client, head, options, refuse, (first) => {
      clearTimeout(hello);
      moved('up', first.length);
      upstream.write(first);
      relay(client, upstream, (bytes) => moved('up', bytes));
    });
  });
}

/** Copies one direction, as fast as `to` takes it and `moved` allows; `moved` answers for how long to pause. */
function relay(from: Socket, to: Socket, moved: (bytes: number) => number): void {
  let isPaced = false;
  let isFull = false;
  const go = () => {
    if (!isPaced && !isFull && !from.destroyed) from.resume();
  };
  from.on('data', (chunk: Buffer) => {
    const waitMs = moved(chunk.length);
    isFull = !to.write(chunk);
    isPaced = waitMs >= 1;
    if (isPaced) {
      setTimeout(() => {
        isPaced = false;
        go();
      }, waitMs);
    }
    if (isFull || isPaced) from.pause();
  });
  to.on('drain', () => {
    isFull = false;
    go();
  });
  if (from.readableEnded) to.end();
  else from.once('end', () => to.end());
  from.resume();
}

function judgeFirst(
  client: Socket,
  head: Buffer,
  options: TunnelOptions,
  refuse: (reason: string) => void,
  accept: (first: Buffer) => void,
): void {
  let first = head;
  const look = () => {
    const reading = readClientHello(first);
    if (reading.state === 'more' && (first.length === 0 || first.length <= MAX_HELLO_BYTES)) return;
    client.off('data', onData);
    client.off('end', onEnd);
    client.pause();
    if (reading.state === 'done') {
      const reason = helloRefusal(reading.hello, options);
      if (reason) refuse(reason);
      else accept(first);
    } else if (options.isTlsOnly || reading.state === 'more') refuse('this port is for TLS');
    else accept(first);
  };
  const onData = (chunk: Buffer) => {
    first = Buffer.concat([first, chunk]);
    look();
  };
  // Whoever says nothing may still want to hear what a server says first.
  const onEnd = () => (options.isTlsOnly ? refuse('this port is for TLS') : accept(first));
  client.on('data', onData);
  client.once('end', onEnd);
  if (first.length > 0) look();
}

function helloRefusal(hello: ClientHello, options: TunnelOptions): string | undefined {
  const wanted = isIP(options.host) === 0 ? options.host : undefined;
  if (hello.serverName !== wanted) return `the TLS server name is not ${options.host}`;
  if (options.isNameStrict && hello.isEncrypted) return 'an encrypted ClientHello hides the name';
  return undefined;
}
