import type { IRunningSessions } from '@jupyterlab/running';
import type { TranslationBundle } from '@jupyterlab/translation';
import { deleteIcon } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import { type ISignal, Signal } from '@lumino/signaling';

import type { Actions } from './actions';
import { CommandIDs } from './commands';
import { baseName, formatAge, formatBytes } from './format';
import { cameraIcon } from './icons';
import { isHibernated, type SnapshotModel } from './model';
import type { ISnapshot } from './types';

/**
 * The section of snapshots in the panel of what runs: they cost memory or disk, too. Those
 * in which kernels hibernate have a section of their own, lest *Delete All* take these.
 */
export class RunningSnapshots implements IRunningSessions.IManager {
  constructor(
    private readonly model: SnapshotModel,
    private readonly actions: Actions,
    private readonly commands: CommandRegistry,
    private readonly trans: TranslationBundle
  ) {
    this.name = trans.__('Kernel Snapshots');
    this.shutdownLabel = trans.__('Delete');
    this.shutdownAllLabel = trans.__('Delete All');
    this.shutdownAllConfirmationText = trans.__(
      'Delete all snapshots? Kernels are not affected, but cannot be brought back any more.'
    );
    model.changed.connect(() => this.hasChanged.emit());
  }

  readonly name: string;
  readonly shutdownLabel: string;
  readonly shutdownAllLabel: string;
  readonly shutdownAllConfirmationText: string;
  readonly shutdownItemIcon = deleteIcon;

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
    this.actions.delete(this.snapshots.map(({ name }) => name));
  }

  private get snapshots(): ISnapshot[] {
    return this.model.snapshots.filter(snapshot => !isHibernated(snapshot));
  }

  private item(snapshot: ISnapshot): IRunningSessions.IRunningItem {
    const { name } = snapshot;
    return {
      icon: () => cameraIcon,
      label: () => name,
      labelTitle: () =>
        [
          this.trans.__('Snapshot: %1', name),
          snapshot.note,
          snapshot.path || snapshot.kernel_name,
          formatAge(snapshot.created),
          formatBytes(snapshot.bytes)
        ]
          .filter(Boolean)
          .join('\n'),
      detail: () =>
        [baseName(snapshot.path), formatBytes(snapshot.bytes)]
          .filter(Boolean)
          .join(' · '),
      open: () =>
        void this.commands.execute(CommandIDs.showPanel, { snapshot: name }),
      shutdown: () => this.actions.delete([name])
    };
  }

  private readonly hasChanged = new Signal<this, void>(this);
}
