import type { IRunningSessions } from '@jupyterlab/running';
import type { Kernel } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import { runIcon } from '@jupyterlab/ui-components';
import { type ISignal, Signal } from '@lumino/signaling';

import type { Actions } from '../actions';
import { baseName, formatAge, formatBytes } from '../format';
import { moonIcon } from '../icons';
import type { SnapshotModel } from '../model';
import type { ISnapshot } from '../types';

/**
 * The section of kernels that hibernate in the panel of what runs: there, a click has them
 * go on.
 */
export class RunningSleepers implements IRunningSessions.IManager {
  constructor(
    private readonly model: SnapshotModel,
    private readonly actions: Actions,
    private readonly kernels: Kernel.IManager,
    private readonly trans: TranslationBundle
  ) {
    this.name = trans.__('Hibernating Kernels');
    this.shutdownLabel = trans.__('Resume');
    this.shutdownAllLabel = trans.__('Resume All');
    this.shutdownAllConfirmationText = trans.__(
      'Resume all kernels that hibernate? Each then needs its memory again.'
    );
    model.changed.connect(() => this.hasChanged.emit());
    kernels.runningChanged.connect(() => this.hasChanged.emit());
  }

  readonly name: string;
  /** The panel's button for each is for what people want most. */
  readonly shutdownLabel: string;
  readonly shutdownAllLabel: string;
  readonly shutdownAllConfirmationText: string;
  readonly shutdownItemIcon = runIcon;

  get runningChanged(): ISignal<this, void> {
    return this.hasChanged;
  }

  running(): IRunningSessions.IRunningItem[] {
    return this.snapshots.map(snapshot => this.item(snapshot));
  }

  refreshRunning(): void {
    void this.model.refresh();
  }

  shutdownAll(): void {
    this.snapshots.forEach(snapshot => void this.actions.resume(snapshot));
  }

  /** Without those that were resumed, but could not be removed. */
  private get snapshots(): ISnapshot[] {
    const running = new Set<string>();
    for (const { id } of this.kernels.running()) {
      running.add(id);
    }
    return this.model.hibernated.filter(
      ({ kernel_id }) => !running.has(kernel_id)
    );
  }

  private item(snapshot: ISnapshot): IRunningSessions.IRunningItem {
    const { trans } = this;
    const { name, path, kernel_name } = snapshot;
    const resume = () => void this.actions.resume(snapshot);
    return {
      icon: () => moonIcon,
      label: () => baseName(path) || kernel_name,
      labelTitle: () =>
        [
          trans.__('Resume: %1', path || kernel_name),
          trans.__('Hibernates in snapshot: %1', name),
          snapshot.note,
          formatAge(snapshot.created),
          formatBytes(snapshot.bytes)
        ]
          .filter(Boolean)
          .join('\n'),
      detail: () => formatBytes(snapshot.bytes),
      open: resume,
      shutdown: resume
    };
  }

  private readonly hasChanged = new Signal<this, void>(this);
}
