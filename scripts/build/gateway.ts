// `scripts/agent-image bundle`: the gateway as one file. Arguments: where to, and the module to begin with where that is another one.
import { bundleGateway } from './bundle.js';

const [outfile, entry] = process.argv.slice(2);
if (outfile === undefined) throw new Error('usage: gateway.ts OUTFILE [ENTRY]');
await bundleGateway(outfile, entry);
