import { SnapshotModel } from '../model';
import type { ISnapshot } from '../types';
import { FakeServer, snapshot } from './helpers';

const KERNEL = 'kernel';

const NO_SUCH_SNAPSHOT = {
  detail: 'There is no such snapshot.',
  hint: '',
  error: 'NoSuchSnapshot',
  status: 404
};

describe('SnapshotModel', () => {
  let server: FakeServer;
  let there: ISnapshot[];
  let model: SnapshotModel;

  const names = () => model.snapshots.map(({ name }) => name);

  beforeEach(async () => {
    server = new FakeServer();
    there = [
      snapshot('kept', {
        created: '2026-11-24T12:00:02+00:00',
        automatic: 'before restore'
      }),
      snapshot('two', { created: '2026-11-24T12:00:01+00:00' }),
      snapshot('one', {
        created: '2026-11-24T12:00:00+00:00',
        kernel_id: 'other'
      })
    ];
    server.answer = ({ path }) => {
      const name = /snapshots\/(.+)\/summary/.exec(path)?.[1];
      if (name === undefined) {
        const q = new URL(`http://x/${path}`).searchParams.get('q') ?? '';
        const snapshots = there.filter(({ name }) => name.includes(q));
        return [200, { snapshots, total: snapshots.length, positions: {} }];
      }
      const found = there.find(snapshot => snapshot.name === name);
      return found ? [200, found] : [404, NO_SUCH_SNAPSHOT];
    };
    model = new SnapshotModel(server.manager);
    await model.refresh();
  });

  afterEach(() => {
    model.dispose();
  });

  it('has what the server has', () => {
    expect(names()).toEqual(['kept', 'two', 'one']);
    expect(model.isLoaded).toBe(true);
    expect(model.of(KERNEL).map(({ name }) => name)).toEqual(['kept', 'two']);
    expect(model.get('one')?.kernel_id).toBe('other');
  });

  it('does not show what goes by itself', async () => {
    there.unshift(
      snapshot('held', {
        created: '2026-11-24T12:00:03+00:00',
        automatic: 'for a fork',
        parent: 'two'
      })
    );
    server.emit({
      action: 'created',
      snapshot: 'held',
      kernel_id: KERNEL,
      position: 'held'
    });
    await changed(model, () => model.parents.has('held'));
    expect(names()).toEqual(['kept', 'two', 'one']);
    // The kernel is where it was.
    expect(model.position(KERNEL)).toBe('two');
    expect(model.kernelsAt('two')).toEqual([KERNEL]);
    server.emit({ action: 'deleted', snapshot: 'held' });
    await changed(model, () => !model.parents.has('held'));
    expect(model.position(KERNEL)).toBe('two');
  });

  it('shows a lesson, which had gone by itself where it was made', async () => {
    there.unshift(
      snapshot('lesson', {
        created: '2026-11-24T12:00:03+00:00',
        automatic: 'for a fork',
        tags: ['lesson']
      })
    );
    await model.refresh();
    expect(names()).toContain('lesson');
  });

  it('takes for the last one what somebody asked for', () => {
    expect(model.last(KERNEL)?.name).toBe('two');
    expect(model.last('none')).toBeUndefined();
  });

  it('does not take a damaged one for the last', async () => {
    there[1] = { ...there[1], state: 'corrupt' };
    await model.refresh();
    expect(model.last(KERNEL)).toBeUndefined();
  });

  it('asks once for what two events tell of', async () => {
    const before = server.asked.length;
    there.unshift(snapshot('new', { created: '2026-11-24T12:00:03+00:00' }));
    server.emit({ action: 'created', snapshot: 'new', kernel_id: KERNEL });
    server.emit({ action: 'durable', snapshot: 'new', kernel_id: KERNEL });
    await changed(model, () => names().includes('new'));
    expect(names()).toEqual(['new', 'kept', 'two', 'one']);
    expect(server.asked.length).toBe(before + 1);
  });

  it('puts what comes late where it belongs', async () => {
    there.push(snapshot('zero', { created: '2026-11-24T11:00:00+00:00' }));
    server.emit({ action: 'created', snapshot: 'zero' });
    await changed(model, () => names().includes('zero'));
    expect(names()).toEqual(['kept', 'two', 'one', 'zero']);
  });

  it('follows another name', async () => {
    there[1] = { ...there[1], name: 'renamed' };
    server.emit({ action: 'updated', snapshot: 'renamed', former_name: 'two' });
    await changed(model, () => names().includes('renamed'));
    expect(names()).toEqual(['kept', 'renamed', 'one']);
  });

  it('is told of a note while it asks for another reason', async () => {
    there.unshift(snapshot('new', { created: '2026-11-24T12:00:03+00:00' }));
    server.emit({ action: 'durable', snapshot: 'new', kernel_id: KERNEL });
    // The answer to that is as it was.
    const [before] = there;
    server.emit({ action: 'updated', snapshot: 'new' });
    const asked = server.answer;
    let count = 0;
    server.answer = request => (count++ ? asked(request) : [200, before]);
    there[0] = { ...before, note: 'noted' };
    await changed(model, () => model.get('new')?.note === 'noted');
    expect(count).toBe(2);
  });

  it('does not mind what is gone before it is asked for', async () => {
    server.emit({ action: 'created', snapshot: 'gone', kernel_id: KERNEL });
    server.emit({ action: 'durable', snapshot: 'two', kernel_id: KERNEL });
    there[1] = { ...there[1], note: 'noted' };
    await changed(model, () => model.get('two')?.note === 'noted');
    expect(names()).toEqual(['kept', 'two', 'one']);
    expect(model.problem).toBeNull();
  });

  it('forgets what is deleted, without asking', () => {
    const before = server.asked.length;
    server.emit({ action: 'deleted', snapshot: 'two' });
    expect(names()).toEqual(['kept', 'one']);
    expect(server.asked.length).toBe(before);
  });

  it('does not believe an answer that is older than an event', async () => {
    const answer = server.answer;
    const before = [...there];
    server.answer = () => {
      server.answer = answer;
      there.splice(1, 1);
      server.emit({ action: 'deleted', snapshot: 'two' });
      return [200, { snapshots: before, total: 3, positions: {} }];
    };
    await model.refresh();
    expect(names()).toEqual(['kept', 'one']);
  });

  it('does not bring back what is deleted while it is asked for', async () => {
    const answer = server.answer;
    const two = there[1];
    server.answer = () => {
      server.answer = answer;
      there.splice(1, 1);
      server.emit({ action: 'deleted', snapshot: 'two' });
      return [200, two];
    };
    server.emit({ action: 'updated', snapshot: 'two' });
    server.emit({ action: 'updated', snapshot: 'kept' });
    there[0] = { ...there[0], note: 'noted' };
    await changed(model, () => model.get('kept')?.note === 'noted');
    await Promise.resolve();
    expect(names()).toEqual(['kept', 'one']);
  });

  it('hides what is about to be deleted', () => {
    model.hide(['one', 'two']);
    expect(names()).toEqual(['kept']);
    expect(model.last(KERNEL)).toBeUndefined();
    model.unhide(['one', 'two']);
    expect(names()).toEqual(['kept', 'two', 'one']);
  });

  it('knows where a kernel was brought back to', () => {
    server.emit({ action: 'restored', snapshot: 'two', kernel_id: KERNEL });
    expect(model.position(KERNEL)).toBe('two');
    expect(model.kernelsAt('two')).toEqual([KERNEL]);
    // It had hibernated, and that snapshot goes.
    server.emit({
      action: 'restored',
      snapshot: 'kept',
      position: 'one',
      kernel_id: KERNEL
    });
    expect(model.position(KERNEL)).toBe('one');
    expect(model.kernelsAt('two')).toEqual([]);
  });

  it('knows where forks are, and what is taken of them', async () => {
    server.emit({
      action: 'forked',
      snapshot: 'one',
      position: 'one',
      kernel_id: KERNEL,
      new_kernel_id: 'fork'
    });
    expect(model.kernelsAt('one')).toEqual(['fork']);
    there.unshift(snapshot('new', { kernel_id: 'fork', parent: 'one' }));
    server.emit({
      action: 'durable',
      snapshot: 'new',
      kernel_id: 'fork',
      position: 'new'
    });
    await changed(model, () => names().includes('new'));
    expect(model.kernelsAt('one')).toEqual([]);
    expect(model.position('fork')).toBe('new');
    expect(model.parents.get('new')).toBe('one');
  });

  it('has children and kernels follow another name, and no other', async () => {
    there[0] = { ...there[0], parent: 'two' };
    await model.refresh();
    server.emit({ action: 'restored', snapshot: 'two', kernel_id: KERNEL });
    there[1] = { ...there[1], name: 'renamed' };
    server.emit({ action: 'updated', snapshot: 'renamed', former_name: 'two' });
    await changed(model, () => names().includes('renamed'));
    expect(model.parents.get('kept')).toBe('renamed');
    expect(model.position(KERNEL)).toBe('renamed');
    there[2] = { ...there[2], name: 'another' };
    server.emit({ action: 'updated', snapshot: 'another', former_name: 'one' });
    await changed(model, () => names().includes('another'));
    expect(model.position(KERNEL)).toBe('renamed');
  });

  it('gives children and kernels of what is deleted to its parent', async () => {
    there[0] = { ...there[0], parent: 'two' };
    there[1] = { ...there[1], parent: 'one' };
    await model.refresh();
    server.emit({ action: 'restored', snapshot: 'two', kernel_id: KERNEL });
    server.emit({ action: 'deleted', snapshot: 'two' });
    expect(model.parents.get('kept')).toBe('one');
    expect(model.position(KERNEL)).toBe('one');
    server.emit({ action: 'deleted', snapshot: 'one' });
    expect(model.parents.get('kept')).toBe('');
    expect(model.position(KERNEL)).toBeUndefined();
  });

  it('asks for everything after events may have been lost', async () => {
    server.services.connectionFailure.emit(new Error('gone'));
    there = [snapshot('after', { created: '2026-11-24T13:00:00+00:00' })];
    server.emit({ action: 'deleted', snapshot: 'unheard of' });
    await changed(model, () => names().includes('after'));
    expect(names()).toEqual(['after']);
  });

  it('does not bring back what is no kernel', async () => {
    there = [snapshot('process', { kernel_id: '' })];
    await model.refresh();
    expect(model.last('')).toBeUndefined();
  });

  it('is deaf to the events of others', () => {
    const before = server.asked.length;
    server.services.events.stream.emit({
      schema_id: 'https://events.jupyter.org/jupyter_server/kernel_actions/v1',
      action: 'deleted',
      snapshot: 'two'
    });
    expect(names()).toHaveLength(3);
    expect(server.asked.length).toBe(before);
  });

  it('says why it knows nothing', async () => {
    server.answer = () => [404, 'Not Found'];
    await model.refresh();
    expect(model.problem?.isMissing).toBe(true);
    expect(model.canCheckpoint).toBe(false);
  });

  it('knows what the machine permits', async () => {
    expect(model.canRestore).toBe(true);
    server.answer = () => [
      200,
      { can_checkpoint: true, can_restore: false, missing: [], items: [] }
    ];
    await model.probe();
    expect(model.canCheckpoint).toBe(true);
    expect(model.canRestore).toBe(false);
  });

  it('tells what is being done with a kernel', async () => {
    let finish: () => void = () => undefined;
    const done = model.during('restore', KERNEL, report => {
      report(0.5);
      return new Promise<void>(resolve => (finish = resolve));
    });
    expect(model.activity(KERNEL)).toMatchObject({
      operation: 'restore',
      fraction: 0.5
    });
    finish();
    await done;
    expect(model.activity(KERNEL)).toBeUndefined();
  });

  it('asks for details once, and again if that failed', async () => {
    server.answer = () => [500, 'no'];
    await expect(model.details('one')).rejects.toThrow();
    server.answer = () => [200, { snapshot: there[2] }];
    const before = server.asked.length;
    await Promise.all([model.details('one'), model.details('one')]);
    expect(server.asked.length).toBe(before + 1);
  });
});

/** Wait until the model is as expected. */
function changed(
  model: SnapshotModel,
  isAsExpected: () => boolean
): Promise<void> {
  return new Promise(resolve => {
    const look = () => {
      if (isAsExpected()) {
        model.changed.disconnect(look);
        resolve();
      }
    };
    model.changed.connect(look);
    look();
  });
}
