import type { ISnapshotEvent } from '../types';

/**
 * When snapshots were taken and brought back, by the clock of the server and its kernels.
 */
export class Moments {
  /** Take note of an event. */
  note(event: ISnapshotEvent): void {
    const task = event.task ?? '';
    if (event.action === 'saving' && !this.begun.has(task)) {
      // The first is told just before the kernel is frozen.
      this.begun.set(task, timeOf(event));
    } else if (event.action === 'created') {
      this.taken.set(event.snapshot!, this.begun.get(task) ?? timeOf(event));
      this.begun.delete(task);
      this.kept.set(task, timeOf(event));
    } else if (event.action === 'updated' && event.former_name) {
      const moment = this.taken.get(event.former_name);
      this.taken.delete(event.former_name);
      if (moment !== undefined) {
        this.taken.set(event.snapshot!, moment);
      }
    } else if (event.action === 'deleted') {
      this.taken.delete(event.snapshot!);
    } else if (event.action === 'failed') {
      this.begun.delete(task);
      this.kept.delete(task);
    }
  }

  /** When the kernel was frozen for a snapshot; undefined if that is not known. */
  frozen(snapshot: string): number | undefined {
    return this.taken.get(snapshot);
  }

  /**
   * After when a kernel was brought back: after the snapshot of what ran before, if one was
   * taken.
   */
  back({ snapshot, task }: ISnapshotEvent): number {
    return this.kept.get(task ?? '') ?? this.taken.get(snapshot!) ?? 0;
  }

  /** By tasks. */
  private readonly begun = new Map<string, number>();
  private readonly kept = new Map<string, number>();
  /** By snapshots. */
  private readonly taken = new Map<string, number>();
}

function timeOf({ __timestamp__ }: ISnapshotEvent): number {
  // jupyter_events says twice that it is UTC.
  const time = Date.parse(`${__timestamp__}`.replace('+00:00Z', 'Z'));
  return Number.isNaN(time) ? Date.now() : time;
}
