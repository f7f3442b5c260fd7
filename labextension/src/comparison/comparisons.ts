import type { JupyterFrontEnd } from '@jupyterlab/application';
import type { TranslationBundle } from '@jupyterlab/translation';

import type { Actions } from '../actions';
import { isComparable, type SnapshotModel } from '../model';
import { showTab } from '../tabs';
import type { ITarget, Targets } from '../targets';
import type { ISnapshot } from '../types';
import { inOrder } from './facts';
import { ComparisonTab, type ICompared } from './tab';

/**
 * Shows how snapshots differ from each other, and from what runs now.
 */
export class Comparisons {
  constructor(
    private readonly shell: JupyterFrontEnd.IShell,
    private readonly model: SnapshotModel,
    private readonly actions: Actions,
    private readonly targets: Targets,
    private readonly trans: TranslationBundle
  ) {}

  /** How the newer of two differs from the older. */
  compare(one: ISnapshot, other: ISnapshot): void {
    const [before, after] = inOrder(one, other);
    const id = `jupyter-cr-comparison-${before.id}-${after.id}`;
    if (this.open.get(id)?.isDisposed === false) {
      this.shell.activateById(id);
      return;
    }
    this.show(id, {
      title: this.trans.__('%1 → %2', before.name, after.name),
      before: before.created,
      after: after.created,
      compare: signal =>
        this.model.client.compare(before.name, after.name, { signal })
    });
  }

  /** The kernel to compare a snapshot with: its own, or else that of its notebook. */
  kernelFor({ kernel_id, path }: ISnapshot): ITarget | null {
    const { last } = this.targets;
    const isOfPath = path !== '' && last?.notebook?.context.path === path;
    return this.targets.of(kernel_id)[0] ?? (isOfPath ? last : null);
  }

  /** Whether there is a kernel to compare a snapshot with. */
  canCompareWithNow(snapshot: ISnapshot): boolean {
    return (
      this.model.canCheckpoint &&
      this.model.canRestore &&
      isComparable(snapshot) &&
      this.kernelFor(snapshot) !== null
    );
  }

  /** How what runs now differs from a snapshot. */
  compareWithNow(before: ISnapshot): void {
    const target = this.kernelFor(before);
    if (!target) {
      return;
    }
    const id = `jupyter-cr-comparison-${before.id}-now`;
    // It is another now.
    this.open.get(id)?.dispose();
    this.show(id, {
      title: this.trans.__('%1 → now', before.name),
      before: before.created,
      after: '',
      compare: async signal => {
        await this.actions.save(target);
        return this.model.client.compareNow(target.kernelId, before.name, {
          signal
        });
      }
    });
  }

  private show(id: string, compared: ICompared): void {
    const tab = new ComparisonTab(compared, this.trans);
    tab.id = id;
    this.open.set(id, tab);
    tab.disposed.connect(() => {
      if (this.open.get(id) === tab) {
        this.open.delete(id);
      }
    });
    showTab(this.shell, tab);
  }

  private readonly open = new Map<string, ComparisonTab>();
}
