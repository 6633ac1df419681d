import { pino } from 'pino';
import { ProcessRuntime } from '../../src/runtime/process/process.js';
import type { InstanceSpec } from '../../src/runtime/runtime.js';

// A Berth that starts one instance and is killed right after.
const { spec, dataDir, gatewayPath } = JSON.parse(process.argv[2]!) as {
  spec: InstanceSpec;
  dataDir: string;
  gatewayPath: string;
};
const runtime = new ProcessRuntime({ installationId: spec.installationId, dataDir, gatewayPath, log: pino({ level: 'silent' }) });
await runtime.create(spec);
await runtime.start(spec.name);
process.kill(process.pid, 'SIGKILL');
