import { afterAll } from 'vitest';
import { closeDatabases } from './database.js';

// Run anew for every file of tests, also where the modules are kept from one file to the next.
afterAll(closeDatabases);
