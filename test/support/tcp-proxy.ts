import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** A TCP port in front of the test server, which itself listens on a unix socket only. */
export interface TcpProxy {
  url: string;
  start(): Promise<void>;
  /** Refuses new connections and breaks the open ones. */
  stop(): Promise<void>;
  /** Lets no byte through any more, in either direction, without closing anything: a peer that is gone without a word. */
  freeze(): void;
}

export async function startTcpProxy(databaseUrl: string): Promise<TcpProxy> {
  const url = new URL(databaseUrl);
  const upstream = `${url.searchParams.get('host')}/.s.PGSQL.5432`;
  const open = new Set<Socket>();
  let server: Server | undefined;
  let port = 0;
  const start = async (): Promise<void> => {
    server = createServer((near) => {
      const far = connect(upstream);
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        open.add(one);
        one.on('error', () => other.destroy()).on('close', () => void (open.delete(one), other.destroy()));
      }
      near.pipe(far).pipe(near);
    });
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    port = (server.address() as AddressInfo).port;
  };
  await start();
  return {
    url: `postgres://${url.username}@127.0.0.1:${port}${url.pathname}`,
    start,
    async stop() {
      const closed = server && once(server, 'close');
      server?.close();
      for (const socket of open) socket.destroy();
      await closed;
      server = undefined;
    },
    freeze() {
      for (const socket of open) socket.unpipe().pause();
    },
  };
}
