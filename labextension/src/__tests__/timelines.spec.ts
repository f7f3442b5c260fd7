import { Signal } from '@lumino/signaling';

import { SnapshotModel } from '../model';
import { Settings } from '../settings';
import type { Targets } from '../targets';
import { marksOf, Timelines, type ICrash } from '../timeline/timelines';
import type { IPoint, IRun, ITimelineAnswer } from '../types';
import { FakeServer } from './helpers';

function run(cell: string, more: Partial<IRun> = {}): IRun {
  return {
    msg_id: `msg-${cell}`,
    cell_id: cell,
    code: cell,
    started: `2026-11-28T12:00:00.${cell.length}Z`,
    outcome: 'ok',
    document: '',
    ...more
  };
}

function point(
  name: string,
  parent = '',
  runs: IRun[] = [],
  unfinished: IRun[] = []
): IPoint {
  const created = '2026-11-28T12:00:00Z';
  return { name, created, parent, runs, document: '', unfinished };
}

function timeline(more: Partial<ITimelineAnswer> = {}): ITimelineAnswer {
  return {
    kernel_id: 'kernel',
    is_on: true,
    is_chosen: true,
    points: [],
    base: '',
    since: [],
    back: '',
    forward: '',
    bytes: 0,
    limit: 0,
    problem: '',
    hint: '',
    ...more
  };
}

/** Cell -> point. */
function marked(answer: ITimelineAnswer): Record<string, string> {
  return Object.fromEntries(
    [...marksOf(answer)].map(([cell, mark]) => [cell, mark.point.name])
  );
}

describe('marksOf', () => {
  const points = [
    point('p0'),
    point('p1', 'p0', [run('a')]),
    point('p2', 'p1', [run('b')]),
    point('p3', 'p2', [run('a')]),
    point('q2', 'p1', [run('c')])
  ];

  it('has the last run of each cell on the way', () => {
    expect(marked(timeline({ points, base: 'p3' }))).toEqual({
      a: 'p2',
      b: 'p1'
    });
  });

  it('has those of the branch that the kernel is on', () => {
    expect(marked(timeline({ points, base: 'q2' }))).toEqual({
      a: 'p0',
      c: 'p1'
    });
  });

  it('has the cell that runs', () => {
    const since = [run('d', { outcome: 'running' })];
    expect(marked(timeline({ points, base: 'p1', since }))).toEqual({
      a: 'p0',
      d: 'p1'
    });
  });

  it('has but the first of several runs without a point between', () => {
    const merged = [point('p0'), point('p9', 'p0', [run('a'), run('b')])];
    expect(marked(timeline({ points: merged, base: 'p9' }))).toEqual({
      a: 'p0'
    });
  });

  it('leads not into the middle of a cell', () => {
    const long = run('long', { outcome: 'running' });
    const middle = [
      point('p0'),
      point('m', 'p0', [long], [long]),
      point('p1', 'm', [run('long')])
    ];
    expect(marked(timeline({ points: middle, base: 'p1' }))).toEqual({
      long: 'p0'
    });
  });
});

describe('Timelines', () => {
  let server: FakeServer;
  let model: SnapshotModel;
  let timelines: Timelines;
  let answer: ITimelineAnswer;
  let open: string[];
  let changed: Signal<object, void>;
  let settings: Settings;

  beforeEach(() => {
    server = new FakeServer();
    open = ['kernel'];
    answer = timeline();
    server.answer = ({ method }) => {
      if (method === 'PUT') {
        answer = timeline({ is_on: true });
      }
      return [200, answer];
    };
    model = new SnapshotModel(server.manager);
    changed = new Signal<object, void>({});
    settings = new Settings();
    const targets = {
      changed,
      all: () => open.map(kernelId => ({ kernelId })),
      of: (kernelId: string) => open.filter(id => id === kernelId)
    } as unknown as Targets;
    timelines = new Timelines(model, targets, settings);
  });

  afterEach(() => {
    timelines.dispose();
    model.dispose();
  });

  /** Until the server has been asked, and has answered. */
  async function settled(): Promise<void> {
    for (let turn = 0; turn < 20; turn++) {
      await new Promise(resolve => setTimeout(resolve, 0));
    }
  }

  it('asks for what is open, and again when the server tells', async () => {
    await settled();
    expect(timelines.isOn('kernel')).toBe(true);
    answer = timeline({ base: 'p1' });
    server.emit({ action: 'timeline', kernel_id: 'kernel' });
    await settled();
    expect(timelines.of('kernel')?.base).toBe('p1');
    const { length } = server.asked;
    server.emit({ action: 'timeline', kernel_id: 'another' });
    await settled();
    expect(server.asked.length).toBe(length);
  });

  it('forgets what is closed', async () => {
    await settled();
    open = [];
    changed.emit();
    expect(timelines.of('kernel')).toBeUndefined();
  });

  it('is switched on where the settings say so and nobody else', async () => {
    await settled();
    for (const [is_chosen, wanted] of [
      [true, false],
      [false, true]
    ]) {
      answer = timeline({ is_on: false, is_chosen });
      open = [];
      changed.emit();
      await settings.set('timeline', true);
      open = ['kernel'];
      changed.emit();
      await settled();
      expect(timelines.isOn('kernel')).toBe(wanted);
    }
  });

  it('tells once of a crash, and of none that was there before', async () => {
    const crashes: ICrash[] = [];
    timelines.crashed.connect((_, crash) => crashes.push(crash));
    const died = run('fatal', { outcome: 'died' });
    answer = timeline({ since: [died] });
    await settled();
    expect(crashes).toEqual([]);
    const again = run('fatal again', { outcome: 'died' });
    answer = timeline({
      base: 'p1',
      points: [point('p0'), point('p1', 'p0', [again])]
    });
    for (let times = 0; times < 2; times++) {
      server.emit({ action: 'timeline', kernel_id: 'kernel' });
      await settled();
    }
    expect(crashes).toEqual([{ kernelId: 'kernel', run: again }]);
  });

  it('tells once why there is no point', async () => {
    await settled();
    const problems: string[] = [];
    timelines.failed.connect((_, { problem }) => problems.push(problem));
    for (const problem of ['inotify', 'inotify', '', 'inotify']) {
      answer = timeline({ problem });
      server.emit({ action: 'timeline', kernel_id: 'kernel' });
      await settled();
    }
    expect(problems).toEqual(['inotify', 'inotify']);
  });
});
