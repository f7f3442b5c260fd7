import { Signal } from '@lumino/signaling';

import { SnapshotClient, SnapshotError } from '../api';
import type { IProblem, ISnapshotEvent, ITask } from '../types';
import { FakeServer } from './helpers';

const KERNEL = '5f0c2b1e-6f0a-4c8a-9b5e-0f8f2f9b7a11';

const PROBLEM: IProblem = {
  type: 'https://schema.jupyter.org/jupyter_cr/problems/name-taken',
  title: 'Name taken',
  status: 409,
  detail: 'There is a snapshot named one already.',
  hint: 'Choose another name, or remove it first.',
  error: 'NameTaken',
  exit_code: 10,
  not_kept: true
};

function task(more: Partial<ITask> = {}): ITask {
  return {
    id: 't1',
    operation: 'checkpoint',
    kernel_id: KERNEL,
    snapshot: null,
    state: 'running',
    progress: { phase: 'freeze', fraction: 0.5 },
    result: null,
    error: null,
    ...more
  };
}

describe('SnapshotClient', () => {
  let server: FakeServer;
  let events: Signal<object, ISnapshotEvent>;
  let client: SnapshotClient;

  beforeEach(() => {
    server = new FakeServer();
    events = new Signal<object, ISnapshotEvent>({});
    client = new SnapshotClient(server.settings, events);
  });

  it('asks for all snapshots', async () => {
    server.answer = () => [200, { snapshots: [], total: 0 }];
    await expect(client.list({ q: 'a b&c' })).resolves.toEqual({
      snapshots: [],
      total: 0
    });
    expect(server.asked[0].path).toBe(
      'jupyter-cr/snapshots?limit=0&q=a%20b%26c'
    );
  });

  it('puts names into addresses as they are', async () => {
    server.answer = () => [204, ''];
    await client.delete('größer? 100 %');
    expect(server.asked[0]).toMatchObject({
      method: 'DELETE',
      path: 'jupyter-cr/snapshots/gr%C3%B6%C3%9Fer%3F%20100%20%25'
    });
  });

  it('makes an error of a problem document', async () => {
    server.answer = () => [409, PROBLEM];
    const error = await client.update('two', { name: 'one' }).catch(e => e);
    expect(error).toBeInstanceOf(SnapshotError);
    expect(error).toMatchObject({
      message: PROBLEM.detail,
      hint: PROBLEM.hint,
      isNotKept: true,
      kind: 'NameTaken',
      status: 409,
      isMissing: false
    });
  });

  it('knows a server without the extension', async () => {
    server.answer = () => [404, '<html>404 : Not Found</html>'];
    await expect(client.list()).rejects.toMatchObject({ isMissing: true });
  });

  it('says so if there is no server', async () => {
    server.answer = () => {
      throw new TypeError('Failed to fetch');
    };
    await expect(client.list()).rejects.toMatchObject({
      name: 'SnapshotError',
      status: 0
    });
  });

  it('follows a task by its events', async () => {
    const result = { name: 'one', kernel_id: KERNEL };
    let state: ITask['state'] = 'running';
    server.answer = ({ method }) =>
      method === 'POST'
        ? [202, task()]
        : [200, task({ state, result: result as ITask['result'] })];
    const heard: number[] = [];
    const done = client.checkpoint(
      KERNEL,
      { name: 'one' },
      { progress: fraction => heard.push(fraction) }
    );
    await tick();
    events.emit({ action: 'saving', fraction: 0.75, task: 't1' });
    events.emit({ action: 'saving', fraction: 0.1, task: 'other' });
    // What is told of the snapshot that a restore keeps is not its end.
    events.emit({ action: 'created', snapshot: 'one', task: 't1' });
    expect(server.asked).toHaveLength(1);
    state = 'done';
    events.emit({ action: 'durable', snapshot: 'one', task: 't1' });
    await expect(done).resolves.toEqual(result);
    expect(heard).toEqual([0.5, 0.75]);
    expect(server.asked.map(({ method, path }) => `${method} ${path}`)).toEqual(
      [
        `POST jupyter-cr/kernels/${KERNEL}/checkpoint`,
        'GET jupyter-cr/tasks/t1'
      ]
    );
    expect(server.asked[0].body).toEqual({ name: 'one' });
  });

  it('notices an end that comes before the answer to the beginning', async () => {
    server.answer = ({ method }) => {
      if (method === 'POST') {
        events.emit({ action: 'restored', task: 't1' });
        return [202, task({ operation: 'restore' })];
      }
      return [200, task({ state: 'done', operation: 'restore' })];
    };
    const begun = Date.now();
    await client.restore(KERNEL, 'one', { keep: false });
    expect(Date.now() - begun).toBeLessThan(500);
    expect(server.asked[0].body).toEqual({ snapshot: 'one', keep: false });
  });

  it('asks now and then if no event comes', async () => {
    server.answer = ({ method }) =>
      method === 'POST' ? [202, task()] : [200, task({ state: 'done' })];
    await client.checkpoint(KERNEL);
    expect(server.asked).toHaveLength(2);
  });

  it('fails as the task does', async () => {
    server.answer = ({ method }) =>
      method === 'POST'
        ? [202, task()]
        : [200, task({ state: 'failed', error: PROBLEM })];
    const done = client.checkpoint(KERNEL);
    await tick();
    events.emit({ action: 'failed', task: 't1', message: PROBLEM.detail });
    await expect(done).rejects.toMatchObject({ hint: PROBLEM.hint });
  });

  it('calls a task off', async () => {
    const cancel = new AbortController();
    server.answer = ({ method }) => {
      if (method === 'POST') {
        return [202, task()];
      }
      const error = { ...PROBLEM, error: 'Cancelled' };
      return [200, task({ state: 'cancelled', error })];
    };
    const done = client.checkpoint(KERNEL, {}, { signal: cancel.signal });
    await tick();
    cancel.abort();
    await tick();
    events.emit({ action: 'failed', task: 't1' });
    await expect(done).rejects.toMatchObject({ kind: 'Cancelled' });
    expect(server.asked.map(({ method }) => method)).toContain('DELETE');
  });
});

function tick(): Promise<void> {
  return new Promise(resolve => setTimeout(resolve, 20));
}
