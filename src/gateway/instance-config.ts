/** A tool that a plugin brings: run as the shell tool runs, with its arguments as JSON on standard input and in BERTH_ARGS. */
export interface CommandTool {
  name: string;
  description: string;
  /** JSON schema of an object. */
  parameters: Record<string, unknown>;
  command: string;
}

/** A skill as a gateway lists it in the prompt; its files are in the package of that digest. */
export interface InstanceSkill {
  name: string;
  /** SHA-256 of the canonical tar, hex. */
  digest: string;
  description: string;
  requires?: { bins?: string[]; anyBins?: string[]; env?: string[]; config?: string[] };
  os?: string[];
  always?: boolean;
  /** The skill's entry in the workspace's `.clawhub/lock.json`, where it came from the registry. */
  lock?: Record<string, unknown>;
}

/** One agent as its gateway must know it (agent-image/README.md, "Config"). */
export interface InstanceAgent {
  /** The agent's name. */
  id: string;
  /** The agent's id, or its latest restore's: another one under the same name is another agent, or another state of it. */
  incarnation: string;
  model: string;
  instructions?: string;
  /** Workspace files that Berth owns, rendered but for `{{date}}`. */
  files?: Record<string, string>;
  /** Workspace files written only where there is none. */
  seeds?: Record<string, string>;
  /** Plain environment of tools. */
  env?: Record<string, string>;
  /** Secret environment of tools: in the gateway's memory and nowhere else. */
  secrets?: Record<string, string>;
  maxSteps?: number;
  tools?: { allow?: string[]; deny?: string[] };
  commands?: CommandTool[];
  sampling?: Record<string, unknown>;
  skills?: InstanceSkill[];
}

/** All that a gateway is told of its agents. */
export interface InstanceConfig {
  version: number;
  /** `files`: no turn may run; files can be read and written. */
  mode?: 'full' | 'files';
  agents: InstanceAgent[];
  /** Agents on the volume that another instance has. */
  released?: string[];
  /** Incarnations whose state is put aside rather than deleted with their agent. */
  kept?: string[];
}

/** Where a gateway's missing packages come from: the tar of a digest, or undefined where there is none any more. */
export type PackageSource = (digest: string) => Promise<Uint8Array | undefined>;
