import type { Kernel } from '@jupyterlab/services';
import { Signal } from '@lumino/signaling';

import { SnapshotError } from '../api';
import { type Future, type ILaboratory, Trial } from '../trial/trial';
import type { IComparison, IForkAnswer } from '../types';

const FORK = { kernel_id: 'fork', snapshot: 'held' } as IForkAnswer;
const COMPARISON = { before: 'held', after: '' } as IComparison;
const TRIED = { kernelId: 'kernel', cellId: 'cell', source: 'x = 2' };

/** A kernel that answers when it is told to. */
class FakeKernel {
  readonly statusChanged = new Signal<object, string>({});
  isDisposed = false;
  asked: unknown[] = [];
  answer: (content: object) => void = () => undefined;

  requestExecute(...asked: unknown[]): Partial<Future> {
    this.asked = asked;
    return {
      done: new Promise(resolve => {
        this.answer = content => resolve({ content } as never);
      })
    };
  }

  dispose(): void {
    this.isDisposed = true;
  }
}

function setUp(more: Partial<ILaboratory> = {}) {
  const kernel = new FakeKernel();
  const cleared: [string, boolean][] = [];
  const trial = new Trial(TRIED, {
    fork: () => Promise.resolve(FORK),
    connect: () => kernel as unknown as Kernel.IKernelConnection,
    compare: () => Promise.resolve(COMPARISON),
    clear: (fork, isFork) => {
      cleared.push([fork.kernel_id, isFork]);
      return Promise.resolve();
    },
    ...more
  });
  const phases: string[] = [];
  trial.changed.connect(() => phases.push(trial.phase));
  return { kernel, cleared, trial, phases };
}

/** Let all that is ready go on. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) {
    await Promise.resolve();
  }
}

describe('Trial', () => {
  it('runs the cell in a fork, and compares', async () => {
    const { kernel, trial, phases } = setUp();
    const shown = jest.fn();
    const run = trial.run(shown);
    await settle();
    expect(shown).toHaveBeenCalledTimes(1);
    expect(kernel.asked[0]).toMatchObject({ code: 'x = 2' });
    expect(kernel.asked[2]).toEqual({ cellId: 'cell' });
    kernel.answer({ status: 'ok', execution_count: 3 });
    await run;
    expect(phases.filter((phase, n) => phase !== phases[n - 1])).toEqual([
      'running',
      'done'
    ]);
    expect(trial.executionCount).toBe(3);
    expect(trial.comparison).toBe(COMPARISON);
  });

  it('is over when it is adopted, and leaves the fork to that', async () => {
    const { kernel, cleared, trial } = setUp();
    const run = trial.run(() => undefined);
    await settle();
    kernel.answer({ status: 'ok', execution_count: 1 });
    await run;
    await trial.adopt(() => Promise.resolve(false));
    expect(trial.phase).toBe('done');
    await trial.adopt(async fork => fork === FORK);
    expect(trial.phase).toBe('over');
    expect(cleared).toEqual([['fork', false]]);
    expect(kernel.isDisposed).toBe(true);
  });

  it('cannot be adopted if the cell has failed', async () => {
    const { kernel, trial } = setUp();
    const run = trial.run(() => undefined);
    await settle();
    kernel.answer({ status: 'error', execution_count: 1 });
    await run;
    const take = jest.fn();
    await trial.adopt(take);
    expect(take).not.toHaveBeenCalled();
    expect(trial.phase).toBe('raised');
  });

  it('ends the fork when it is discarded, once', async () => {
    const { cleared, trial } = setUp();
    void trial.run(() => undefined);
    await settle();
    await trial.discard();
    await trial.discard();
    expect(cleared).toEqual([['fork', true]]);
  });

  it('ends a fork that comes when nobody wants it any more', async () => {
    let bring: (fork: IForkAnswer) => void = () => undefined;
    const { cleared, trial } = setUp({
      fork: () => new Promise(resolve => (bring = resolve))
    });
    const run = trial.run(() => undefined);
    await trial.discard();
    bring(FORK);
    await run;
    expect(cleared).toEqual([['fork', true]]);
  });

  it('says why there is no fork', async () => {
    const { trial } = setUp({
      fork: () => Promise.reject(new SnapshotError('No.', 'Do this.'))
    });
    await trial.run(() => undefined);
    expect(trial.phase).toBe('failed');
    expect(trial.problem).toMatchObject({ message: 'No.', hint: 'Do this.' });
  });

  it('says that the fork has died', async () => {
    const { kernel, trial } = setUp();
    const run = trial.run(() => undefined);
    await settle();
    kernel.statusChanged.emit('dead');
    await run;
    expect(trial.phase).toBe('failed');
  });

  it('can be compared again if that has failed', async () => {
    let isRefused = true;
    const { kernel, trial } = setUp({
      compare: () =>
        isRefused
          ? Promise.reject(new SnapshotError('Busy.'))
          : Promise.resolve(COMPARISON)
    });
    const run = trial.run(() => undefined);
    await settle();
    kernel.answer({ status: 'ok', execution_count: 1 });
    await run;
    expect(trial.comparisonProblem?.message).toBe('Busy.');
    expect(trial.phase).toBe('done');
    isRefused = false;
    await trial.compare();
    expect(trial.comparison).toBe(COMPARISON);
    expect(trial.comparisonProblem).toBeNull();
  });
});
