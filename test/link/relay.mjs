// Leads from a unix socket to a port of the network namespace it runs in. argv: path of the socket, port.
import net from 'node:net';

const [socketPath, port] = process.argv.slice(2);
net
  .createServer((near) => {
    const far = net.connect(Number(port), '127.0.0.1');
    near.on('error', () => far.destroy());
    far.on('error', () => near.destroy());
    near.pipe(far).pipe(near);
  })
  .listen(socketPath, () => process.send?.('ready'));
