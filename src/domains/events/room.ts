/** Whether a client makes room within a time; rejects where the promise does. */
export function roomWithin(room: Promise<void>, ms: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve(false), ms);
    room.then(
      () => (clearTimeout(timer), resolve(true)),
      (error: unknown) => (clearTimeout(timer), reject(error)),
    );
  });
}
