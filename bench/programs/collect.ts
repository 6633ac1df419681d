/** Loaded into Berth before its main file: on SIGUSR2 collects all garbage and says that it is done, so that what is left is in use. */
const { gc } = globalThis as { gc?: () => void };
let collected = 0;

process.on('SIGUSR2', () => {
  gc?.();
  // What finalizers let go of is collected by the second one.
  setTimeout(() => {
    gc?.();
    process.stdout.write(`${JSON.stringify({ collected: ++collected })}\n`);
  }, 100);
});
