import { type ISignal, Signal } from '@lumino/signaling';

import type { SnapshotError } from '../api';
import type { SnapshotModel } from '../model';
import type { ILesson } from '../types';

/** How often to look what others have published, in ms. */
const INTERVAL_MS = 60000;

/** Of snapshots that lessons are started from. */
const TAG = 'lesson';

/**
 * The lessons that can be started, and which kernels were.
 */
export class Lessons {
  constructor(private readonly model: SnapshotModel) {
    window.setInterval(() => {
      if (!document.hidden && this.where) {
        void this.refresh();
      }
    }, INTERVAL_MS);
  }

  /** In the order in which they were published. */
  get all(): readonly ILesson[] {
    return this.found;
  }

  /** Where they are; empty if the administrator has named no place. */
  get where(): string {
    return this.place;
  }

  /** Why they are not known. */
  get problem(): SnapshotError | null {
    return this.failure;
  }

  /** Any of the above has changed. */
  get changed(): ISignal<this, void> {
    return this.hasChanged;
  }

  /** The one of that title. */
  get(title: unknown): ILesson | undefined {
    return this.found.find(lesson => lesson.title === title);
  }

  /**
   * The snapshot of the lesson that a kernel was started from, however many of its own it has
   * taken since; undefined if it was started from none.
   */
  startOf(kernelId: string): string | undefined {
    const seen = new Set<string>();
    let name = this.model.position(kernelId);
    while (name && !seen.has(name)) {
      if (this.model.get(name)?.tags.includes(TAG)) {
        return name;
      }
      seen.add(name);
      name = this.model.parents.get(name);
    }
    return undefined;
  }

  /** Ask the server. */
  async refresh(): Promise<void> {
    try {
      const { where, lessons } = await this.model.client.lessons();
      this.place = where;
      this.found = lessons;
      this.failure = null;
    } catch (error) {
      this.failure = error as SnapshotError;
    }
    this.hasChanged.emit();
  }

  private found: readonly ILesson[] = [];
  private place = '';
  private failure: SnapshotError | null = null;
  private readonly hasChanged = new Signal<this, void>(this);
}
