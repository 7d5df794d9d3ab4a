// A container's life by dockerode; prints what it saw as JSON, with no ids in it.
'use strict';
const Docker = require('dockerode');
const { PassThrough } = require('stream');
const tar = require('tar-stream');

const docker = new Docker({ socketPath: process.argv[2].replace('unix://', '') });
const seen = {};

const collect = async (stream) => {
  const pieces = [];
  for await (const piece of stream) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
};

// What a framed stream brought, by its two kinds.
const parted = (stream, until) => new Promise((resolve, reject) => {
  const [out, err] = [new PassThrough(), new PassThrough()];
  const texts = ['', ''];
  const look = () => { if (until && until(texts)) resolve(texts); };
  out.on('data', (data) => { texts[0] += data; look(); });
  err.on('data', (data) => { texts[1] += data; look(); });
  docker.modem.demuxStream(stream, out, err);
  stream.on('end', () => resolve(texts));
  stream.on('error', reject);
});

const ofLogs = async (container, options) => {
  const bytes = await container.logs(options);
  const stream = new PassThrough();
  const texts = parted(stream);
  stream.end(bytes);
  return texts;
};

const isThere = async (name, what) => {
  try {
    seen[name] = await what();
  } catch (error) {
    if (error.statusCode !== 501) throw error;
    seen[name] = 'not available yet';
  }
};

const main = async () => {
  const since = Date.now() / 1000;
  const worker = await docker.createContainer({
    Image: 'busybox',
    Cmd: ['sh', '-c', 'echo out; echo err >&2; while read line; do echo got $line; done; exit 3'],
    name: 'worker', Labels: { made: 'by-sdk' }, Env: ['A=b'], OpenStdin: true, StdinOnce: true,
  });
  const attached = await worker.attach(
    { stream: true, stdin: true, stdout: true, stderr: true, hijack: true });
  await worker.start();
  attached.write('one\n');
  const texts = await parted(attached, ([out, err]) => out.includes('got one') && err);
  attached.write('two\n');
  attached.end();
  seen.attached = { out: texts[0].split('\n').slice(0, 2), err: texts[1] };
  seen.code = (await worker.wait()).StatusCode;
  const both = await ofLogs(worker, { stdout: true, stderr: true });
  [seen.out, seen.err] = both;
  [seen.last] = await ofLogs(worker, { stdout: true, tail: 1 });
  const found = await worker.inspect();
  seen.state = [found.State.Status, found.State.ExitCode, found.Config.Labels];

  const talker = await docker.createContainer({
    Image: 'busybox', name: 'talker',
    Cmd: ['sh', '-c', 'for i in 1 2 3; do echo $i; sleep 0.05; done'],
  });
  await talker.start();
  const lines = await talker.logs({ follow: true, stdout: true });
  [seen.followed] = await parted(lines);

  const box = await docker.createContainer({ Image: 'busybox', name: 'box', Cmd: ['sleep', '1000'] });
  await box.start();
  const exec = await box.exec({
    Cmd: ['sh', '-c', 'pwd; echo $V; echo no >&2; exit 7'], WorkingDir: '/tmp', Env: ['V=x'],
    AttachStdout: true, AttachStderr: true,
  });
  const [out, err] = await parted(await exec.start({ hijack: true, stdin: false }));
  seen.exec = [(await exec.inspect()).ExitCode, out, err];

  await isThere('archives', async () => {
    const pack = tar.pack();
    pack.entry({ name: 'given', mode: 0o640 }, 'there');
    pack.finalize();
    await box.putArchive(await collect(pack), { path: '/tmp' });
    const info = await box.infoArchive({ path: '/tmp/given' });
    const header = info.headers['x-docker-container-path-stat'];
    const stat = JSON.parse(Buffer.from(header, 'base64'));
    const extract = tar.extract();
    let text = '';
    extract.on('entry', async (entry, stream, next) => { text = `${await collect(stream)}`; next(); });
    extract.end(await collect(await box.getArchive({ path: '/tmp/given' })));
    await new Promise((resolve) => extract.on('finish', resolve));
    const cat = await box.exec({ Cmd: ['cat', '/tmp/given'], AttachStdout: true });
    const [inside] = await parted(await cat.start({ hijack: true, stdin: false }));
    return [true, stat.name, stat.size, stat.mode & 0o777, text, inside];
  });
  await isThere('stats', async () => {
    const one = await box.stats({ stream: false });
    const stream = await box.stats({ stream: true });
    const first = await new Promise((resolve) => stream.once('data', resolve));
    stream.destroy();
    return [one.name, one.memory_stats.usage > 0, JSON.parse(first).pids_stats.current];
  });
  seen.top = (await box.top()).Processes.map((line) => line[line.length - 1]);
  await box.kill();
  seen.killed = (await box.wait()).StatusCode;
  for (const one of [worker, talker, box]) await one.remove();
  await docker.getContainer('box').inspect().catch((error) => { seen.gone = error.statusCode; });
  const events = await docker.getEvents(
    { since, until: Date.now() / 1000, filters: { container: ['worker'] } });
  const told = `${await collect(events)}`.split('\n').filter(Boolean).map((line) => JSON.parse(line).Action);
  seen.events = told.filter((one) => ['create', 'attach', 'start', 'die', 'destroy'].includes(one));
  console.log(JSON.stringify(seen));
  process.exit(0);
};

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
