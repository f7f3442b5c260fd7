import { type Kernel } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';

import { SnapshotModel } from '../model';
import { type Instead, Sleepers } from '../sleep/sleepers';
import type { IPlace, Targets } from '../targets';
import { FakeServer, snapshot } from './helpers';

const KERNEL = 'kernel';

/**
 * A session context, as far as sleep is concerned; it takes a while until the server has
 * answered.
 */
class FakeContext {
  session: { kernel: { id: string }; dispose: () => void } | null = null;
  isReady = true;
  readonly sessionChanged = new Signal<this, void>(this);
  readonly statusChanged = new Signal<this, Kernel.Status>(this);
  /** The kernels that the server was asked for. */
  readonly asked: string[] = [];
  /** Whether the server has them. */
  isSound = true;

  connect(id: string): void {
    const dispose = () => {
      this.session = null;
      this.sessionChanged.emit();
    };
    this.session = { kernel: { id }, dispose };
    this.statusChanged.emit('idle');
    this.sessionChanged.emit();
  }

  async changeKernel({ id }: Partial<Kernel.IModel>): Promise<{ id: string }> {
    this.asked.push(id ?? 'new');
    this.statusChanged.emit('starting');
    await new Promise(resolve => setTimeout(resolve, 5));
    if (!this.isSound) {
      this.statusChanged.emit('unknown');
      throw new Error('no');
    }
    this.connect(id ?? 'new');
    return this.session!.kernel;
  }

  async restartKernel(): Promise<void> {
    this.asked.push('restart');
  }

  async startKernel(): Promise<boolean> {
    await this.changeKernel({});
    return false;
  }
}

describe('Sleepers', () => {
  let server: FakeServer;
  let model: SnapshotModel;
  let context: FakeContext;
  let widget: Widget;
  let sleepers: Sleepers;
  let instead: Instead;

  beforeEach(async () => {
    server = new FakeServer();
    const snapshots = [
      snapshot('asleep', { automatic: 'hibernated', path: 'a.ipynb' }),
      snapshot('awake', { path: 'a.ipynb' })
    ];
    server.answer = () => [200, { snapshots, total: 2 }];
    model = new SnapshotModel(server.manager);
    await model.refresh();
    context = new FakeContext();
    widget = new Widget();
    const place = {
      widget,
      sessionContext: context,
      notebook: { context: { path: 'b.ipynb' } }
    } as unknown as IPlace;
    const targets = {
      places: () => [place],
      opened: new Signal<object, IPlace>({}),
      changed: new Signal<object, void>({})
    } as unknown as Targets;
    instead = 'nothing';
    sleepers = new Sleepers(model, targets, async () => instead);
  });

  it('knows a kernel that was there before', () => {
    expect(sleepers.of(widget)).toBeUndefined();
    context.connect(KERNEL);
    expect(sleepers.of(widget)).toBeUndefined();
    context.session!.dispose();
    expect(sleepers.of(widget)?.name).toBe('asleep');
  });

  it('lets go of a kernel that hibernates', () => {
    context.connect(KERNEL);
    server.emit({
      action: 'hibernated',
      kernel_id: KERNEL,
      snapshot: 'asleep'
    });
    expect(context.session).toBeNull();
    expect(sleepers.of(widget)?.name).toBe('asleep');
  });

  it('lets go of no other', () => {
    context.connect('other');
    server.emit({ action: 'hibernated', kernel_id: KERNEL });
    expect(context.session?.kernel.id).toBe('other');
  });

  it('does not call asleep what is being started', () => {
    context.connect(KERNEL);
    context.session!.dispose();
    context.statusChanged.emit('starting');
    expect(sleepers.of(widget)).toBeUndefined();
    context.statusChanged.emit('unknown');
    expect(sleepers.of(widget)?.name).toBe('asleep');
  });

  it('wakes one once, and in order', async () => {
    context.connect(KERNEL);
    context.session!.dispose();
    const order: number[] = [];
    const run = async (number: number) => {
      await context.startKernel();
      order.push(number);
    };
    await Promise.all([run(1), run(2), run(3)]);
    expect(order).toEqual([1, 2, 3]);
    expect(context.asked).toEqual([KERNEL]);
    expect(sleepers.of(widget)).toBeUndefined();
  });

  it('still starts kernels where none hibernates', async () => {
    await context.startKernel();
    expect(context.asked).toEqual(['new']);
  });

  it('sleeps on if it cannot be woken', async () => {
    context.connect(KERNEL);
    context.session!.dispose();
    context.isSound = false;
    expect(await sleepers.wake(widget)).toBe(false);
    expect(sleepers.of(widget)?.name).toBe('asleep');
    expect(sleepers.isWaking(widget)).toBe(false);
    context.isSound = true;
    expect(await sleepers.wake(widget)).toBe(true);
  });

  it('follows when somebody else has woken it', async () => {
    context.connect(KERNEL);
    context.session!.dispose();
    server.emit({ action: 'restored', kernel_id: KERNEL, snapshot: 'asleep' });
    expect(sleepers.isWaking(widget)).toBe(true);
    // At the same time as somebody here.
    expect(await sleepers.wake(widget)).toBe(true);
    expect(context.asked).toEqual([KERNEL]);
  });

  it('does not interfere with what JupyterLab has begun', async () => {
    context.connect(KERNEL);
    context.session!.dispose();
    const started = context.changeKernel({ id: KERNEL });
    server.emit({ action: 'restored', kernel_id: KERNEL, snapshot: 'asleep' });
    const connected = sleepers.connect(widget, KERNEL);
    await started;
    expect(await connected).toBe(true);
    expect(context.asked).toEqual([KERNEL]);
  });

  it('asks before it starts a kernel in place of one that hibernates', async () => {
    const name = 'python3';
    context.connect(KERNEL);
    context.session!.dispose();
    await expect(context.changeKernel({ name })).rejects.toThrow('hibernates');
    expect(context.asked).toEqual([]);
    instead = 'resume';
    await context.changeKernel({ name });
    expect(context.asked).toEqual([KERNEL]);
    context.session!.dispose();
    instead = 'restart';
    await context.changeKernel({ name });
    expect(context.asked).toEqual([KERNEL, KERNEL, 'restart']);
    context.session!.dispose();
    await context.changeKernel({ name: 'other' });
    expect(context.asked.slice(-1)).toEqual(['new']);
  });

  it('finds out what it was not told', async () => {
    server.answer = () => [200, { snapshots: [], total: 0 }];
    await model.refresh();
    context.connect(KERNEL);
    const found = snapshot('slept', { automatic: 'hibernated' });
    server.answer = () => [200, { snapshots: [found], total: 1 }];
    context.session!.dispose();
    await new Promise<void>(resolve =>
      sleepers.changed.connect(() => resolve())
    );
    expect(sleepers.of(widget)?.name).toBe('slept');
  });
});
