// @jupyterlab/services as an application uses it: node services.mjs URL TOKEN. Prints what came of each
// step as one JSON object; the test compares it. Every wait has an end: the test's timeout.
import {
  KernelManager,
  KernelSpecManager,
  ServerConnection,
  SessionManager,
} from '@jupyterlab/services';

const [baseUrl, token] = process.argv.slice(2);
const serverSettings = ServerConnection.makeSettings({
  baseUrl,
  wsUrl: baseUrl.replace(/^http/, 'ws'),
  token,
  appendToken: true,
});
const told = {};

const specs = new KernelSpecManager({ serverSettings });
await specs.ready;
told.specs = Object.keys(specs.specs.kernelspecs).includes('python3');

const kernels = new KernelManager({ serverSettings });
const sessions = new SessionManager({ serverSettings, kernelManager: kernels });
const session = await sessions.startNew({
  name: 'node',
  path: 'from-node.ipynb',
  type: 'notebook',
  kernel: { name: 'python3' },
});
const kernel = session.kernel;

async function run(code, onMessage = () => {}) {
  const future = kernel.requestExecute({ code });
  let text = '';
  future.onIOPub = (message) => {
    if (message.header.msg_type === 'stream') text += message.content.text;
    onMessage(message);
  };
  future.onStdin = () => kernel.sendInputReply({ status: 'ok', value: 'Ada' }, future.msg.header);
  const reply = await future.done;
  return [reply.content.status, reply.content.ename ?? '', text];
}

function statusOf(...wanted) {
  return new Promise((resolve) => {
    const seen = [];
    const listen = (_, status) => {
      seen.push(status);
      if (wanted.every((one) => seen.includes(one))) {
        kernel.statusChanged.disconnect(listen);
        resolve(seen);
      }
    };
    kernel.statusChanged.connect(listen);
  });
}

told.cell = await run('made = 6 * 7\nprint(made)');
told.error = await run('1 / 0');
told.input = await run("print('Hello,', input('Who? '))");
told.completion = (await kernel.requestComplete({ code: 'mad', cursor_pos: 3 })).content.matches;

let interrupted = false;
told.interrupt = await run("print('looping', flush=True)\nwhile True: pass", (message) => {
  if (message.header.msg_type === 'stream' && !interrupted) {
    interrupted = true;
    kernel.interrupt();
  }
});

// A comm whose messages carry buffers: there and back again.
await run(`
from ipykernel.comm import Comm
def opened(comm, message):
    comm.on_msg(lambda message: comm.send({'size': [len(b) for b in message['buffers']]}, buffers=[bytes(b)[::-1] for b in message['buffers']]))
get_ipython().kernel.comm_manager.register_target('echo', opened)
`);
const comm = kernel.createComm('echo');
await comm.open().done;
await comm.subshellStarted; // a comm of its own thread in the kernel, asked for on the control channel
const bytes = Uint8Array.from({ length: 70000 }, (_, index) => index % 256);
const answer = new Promise((resolve) => (comm.onMsg = resolve));
const sent = comm.send({}, {}, [bytes]);
const { content, buffers } = await answer;
await sent.done;
const returned = new Uint8Array(buffers[0].buffer ?? buffers[0], buffers[0].byteOffset ?? 0, buffers[0].byteLength);
told.buffers = [content.data.size, Buffer.compare(Buffer.from(returned), Buffer.from(bytes).reverse()) === 0];

await kernel.restart();
told.restart = await run('made');

const dying = statusOf('autorestarting', 'idle');
told.death = await run('import os; os._exit(3)');
await dying;
told.after = await run("print('alive')");

await session.shutdown();
console.log(JSON.stringify(told));
process.exit(0);
