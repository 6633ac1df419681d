import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import { runtimeContract } from './contract.js';
import { Bench, silentLog } from './harness.js';
import { testImage } from './image.js';

runtimeContract('docker', async () => {
  const bench = new Bench(await testImage());
  return {
    bench,
    make: (installationId) => new DockerRuntime({ installationId, log: silentLog }),
    killsOnMemory: true,
    keepsCutCharacters: false,
    dispose: async () => bench.dispose(),
  };
});
