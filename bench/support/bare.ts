import { randomBytes } from 'node:crypto';
import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import http2 from 'node:http2';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import Docker from 'dockerode';
import { containerOptions, volumeOptions } from '../../src/runtime/docker/options.js';
import type { InstanceSpec } from '../../src/runtime/runtime.js';
import type { Scope } from './scope.js';
import { MEMORY_MIB } from './world.js';

export const IMAGE = process.env['AGENT_IMAGE'] ?? 'berth-agent:latest';

/** A container of the very same options as Berth's, worked by the engine alone: the floor of all that Berth does with one. */
export class BareInstance {
  readonly #docker = new Docker();
  readonly #spec: InstanceSpec;
  readonly #listener: LinkListener;
  #container: Docker.Container | undefined;

  private constructor(spec: InstanceSpec, listener: LinkListener) {
    this.#spec = spec;
    this.#listener = listener;
  }

  /** Everything that is no work of the engine. */
  static async prepare(scope: Scope, folder: string): Promise<BareInstance> {
    const linkDir = join(folder, `link${randomBytes(4).toString('hex')}`);
    await mkdir(linkDir, { recursive: true });
    await writeFile(join(linkDir, 'token'), randomBytes(32).toString('base64url'));
    const bare = new BareInstance(specFor(linkDir), await LinkListener.at(join(linkDir, 'bare.sock')));
    scope.add(() => bare.remove());
    return bare;
  }

  async create(): Promise<void> {
    await this.#docker.createVolume(volumeOptions(this.#spec));
    this.#container = await this.#docker.createContainer(containerOptions(this.#spec));
  }

  /** Until its gateway has dialled and answered a first call. */
  async start(): Promise<void> {
    await Promise.all([this.#listener.nextAnswer(), this.#container?.start()]);
  }

  async stop(): Promise<void> {
    await this.#container?.stop({ t: 10 });
  }

  async pause(): Promise<void> {
    await this.#container?.pause();
  }

  /** Until its gateway has answered a call. */
  async unpause(): Promise<void> {
    await this.#container?.unpause();
    await this.#listener.call();
  }

  async remove(): Promise<void> {
    this.#listener.close();
    const container = this.#container;
    this.#container = undefined;
    if (!container) return;
    await container.remove({ force: true, v: true });
    await this.#docker.getVolume(this.#spec.volume).remove();
    await rm(this.#spec.linkDir, { recursive: true, force: true });
  }
}

function specFor(linkDir: string): InstanceSpec {
  const id = randomBytes(6).toString('hex');
  return {
    name: `berth-bench-${id}`,
    installationId: `bench-${id}`,
    instanceId: `ins_${id}`,
    deploymentId: `dep_${id}`,
    userId: 'usr_bench',
    generation: 1,
    image: IMAGE,
    uid: 200_000,
    volume: `berth-bench-${id}`,
    linkDir,
    hostname: `dep-${id}`,
    limits: { memoryMib: MEMORY_MIB, cpuMillis: 1_000, pids: 256 },
  };
}

/** A socket that takes links, and asks each one thing. */
class LinkListener {
  readonly #server = createServer();
  #session: http2.ClientHttp2Session | undefined;
  #onAnswer: (() => void) | undefined;

  static async at(path: string): Promise<LinkListener> {
    const listener = new LinkListener();
    listener.#server.on('upgrade', (_request, socket: Socket, head) => listener.#take(socket, head));
    await new Promise<void>((resolve) => listener.#server.listen(path, resolve));
    await chmod(path, 0o666);
    return listener;
  }

  /** Resolves when the next link has answered. */
  nextAnswer(): Promise<void> {
    return new Promise((resolve) => (this.#onAnswer = resolve));
  }

  call(): Promise<void> {
    return new Promise((resolve, reject) => {
      const call = this.#session?.request({ ':path': '/healthz' });
      if (!call) return reject(new Error('there is no link'));
      call.on('error', reject).on('response', () => resolve());
      call.resume();
    });
  }

  close(): void {
    this.#session?.destroy();
    this.#server.close();
  }

  #take(socket: Socket, head: Buffer): void {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n\r\n');
    if (head.length > 0) socket.unshift(head);
    this.#session?.destroy();
    this.#session = http2.connect('http://bench', { createConnection: () => socket });
    // It goes with its container.
    this.#session.on('error', () => undefined);
    this.call().then(
      () => this.#onAnswer?.(),
      () => undefined,
    );
  }
}
