import type { IDisposable } from '@lumino/disposable';
import { type ISignal, Signal } from '@lumino/signaling';

import type { SnapshotModel } from '../model';
import type { Settings } from '../settings';
import type { Targets } from '../targets';
import type { IPoint, IRun, ISnapshotEvent, ITimelineAnswer } from '../types';

/** A cell that has ended its kernel, or a kernel that has ended by itself. */
export interface ICrash {
  kernelId: string;
  run: IRun;
}

/**
 * The timelines of the kernels that are open on this page, as the server has them: so all
 * windows show the same.
 */
export class Timelines implements IDisposable {
  constructor(
    private readonly model: SnapshotModel,
    private readonly targets: Targets,
    private readonly settings: Settings
  ) {
    targets.changed.connect(this.look, this);
    model.happened.connect(this.onEvent, this);
    settings.changed.connect(this.look, this);
    this.look();
  }

  /** Something is new. */
  get changed(): ISignal<this, void> {
    return this.hasChanged;
  }

  /** A kernel has ended, and can be brought back. */
  get crashed(): ISignal<this, ICrash> {
    return this.hasCrashed;
  }

  /** A cell could not be preceded by a point. */
  get failed(): ISignal<this, ITimelineAnswer> {
    return this.hasFailed;
  }

  get isDisposed(): boolean {
    return this.disposed;
  }

  dispose(): void {
    if (!this.disposed) {
      this.disposed = true;
      this.targets.changed.disconnect(this.look, this);
      this.model.happened.disconnect(this.onEvent, this);
      this.settings.changed.disconnect(this.look, this);
      Signal.clearData(this);
    }
  }

  /** The timeline of a kernel, as far as it is known. */
  of(kernelId: string): ITimelineAnswer | undefined {
    return this.known.get(kernelId);
  }

  /** Whether there is a point before each cell of a kernel. */
  isOn(kernelId: string): boolean {
    return this.known.get(kernelId)?.is_on ?? false;
  }

  /** What would be undone next. */
  undone(kernelId: string): IRun | undefined {
    const timeline = this.known.get(kernelId);
    return timeline && lastRuns(timeline)[0];
  }

  /** Switch it on or off. */
  async switch(kernelId: string, isOn: boolean): Promise<void> {
    this.take(await this.model.client.switchTimeline(kernelId, isOn));
  }

  /** What the server says of a kernel now. */
  take(timeline: ITimelineAnswer): void {
    const before = this.known.get(timeline.kernel_id);
    this.known.set(timeline.kernel_id, timeline);
    if (timeline.problem && timeline.problem !== before?.problem) {
      this.hasFailed.emit(timeline);
    }
    const crash = lastRuns(timeline).find(({ outcome }) => outcome === 'died');
    if (crash && !this.told.has(crash.started)) {
      this.told.add(crash.started);
      // What was so when the page was opened, somebody has been told of.
      if (before) {
        this.hasCrashed.emit({ kernelId: timeline.kernel_id, run: crash });
      }
    }
    this.hasChanged.emit();
  }

  private look(): void {
    const open = new Set([...this.targets.all()].map(each => each.kernelId));
    for (const kernelId of this.known.keys()) {
      if (!open.has(kernelId)) {
        this.known.delete(kernelId);
      }
    }
    for (const kernelId of open) {
      if (!this.known.has(kernelId) && !this.asking.has(kernelId)) {
        void this.ask(kernelId);
      }
    }
  }

  private onEvent(_: unknown, event: ISnapshotEvent): void {
    const kernelId = event.kernel_id;
    if (event.action === 'timeline' && kernelId && this.known.has(kernelId)) {
      void this.ask(kernelId);
    }
  }

  /** Ask the server; once more if there is something new before it has answered. */
  private async ask(kernelId: string): Promise<void> {
    if (this.asking.has(kernelId)) {
      this.asking.set(kernelId, true);
      return;
    }
    do {
      this.asking.set(kernelId, false);
      try {
        let timeline = await this.model.client.timeline(kernelId);
        if (!timeline.is_on && !timeline.is_chosen && this.isWanted(kernelId)) {
          timeline = await this.model.client.switchTimeline(kernelId, true);
        }
        this.take(timeline);
      } catch {
        // The kernel is gone, or the server: what is wrong is told where it matters.
        this.known.delete(kernelId);
      }
    } while (this.asking.get(kernelId));
    this.asking.delete(kernelId);
  }

  /** Whether a kernel of which nobody has said is to have one. */
  private isWanted(kernelId: string): boolean {
    return (
      this.settings.now.timeline &&
      this.model.canCheckpoint &&
      this.targets.of(kernelId).length > 0
    );
  }

  private readonly known = new Map<string, ITimelineAnswer>();
  private readonly asking = new Map<string, boolean>();
  private readonly told = new Set<string>();
  private readonly hasChanged = new Signal<this, void>(this);
  private readonly hasCrashed = new Signal<this, ICrash>(this);
  private readonly hasFailed = new Signal<this, ITimelineAnswer>(this);
  private disposed = false;
}

/** What the kernel has run last. */
function lastRuns({ since, points, base }: ITimelineAnswer): readonly IRun[] {
  return since.length
    ? since
    : (points.find(({ name }) => name === base)?.runs ?? []);
}

/** Where one can go back to, before a cell. */
export interface IMark {
  point: IPoint;
  run: IRun;
}

/**
 * Of each cell that was run on the way to where the kernel is, the last point just before
 * it.
 */
export function marksOf(timeline: ITimelineAnswer): Map<string, IMark> {
  const byName = new Map(timeline.points.map(point => [point.name, point]));
  const marks = new Map<string, IMark>();
  let runs: readonly IRun[] = timeline.since;
  let point = byName.get(timeline.base);
  while (point) {
    const [run] = runs;
    if (run?.cell_id && !marks.has(run.cell_id) && !point.unfinished.length) {
      marks.set(run.cell_id, { point, run });
    }
    runs = point.runs;
    point = byName.get(point.parent);
  }
  return marks;
}
